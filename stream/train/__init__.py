"""Training as users meet it: histories from Kafka or a file, one-shot training, the trainer that goes on."""
