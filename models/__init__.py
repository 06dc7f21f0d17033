"""Models: arrays in, arrays out. Nothing here knows events, Kafka, clocks or anything else of `stream`."""
