"""nowcart's models. They see arrays: no events, no Kafka, no clock, nothing of `stream`."""
