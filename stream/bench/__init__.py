"""The benchmark: a simulated shop's backlog and stream through the whole engine, measured beside the clients' own limit."""
