"""The log: Kafka's protocol, and an in-memory twin. The only importer of confluent_kafka."""
