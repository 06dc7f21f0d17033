"""Training of the networks, outside the engine: examples, fitting, artefacts, champion and challenger."""
