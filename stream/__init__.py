"""nowcart's engine: from a shop's Kafka topics to forecasts, and back to Kafka."""
