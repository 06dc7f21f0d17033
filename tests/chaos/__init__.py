"""Chaos: real processes and a real Kafka of three nodes, killed and stopped at random, and what they published compared."""
