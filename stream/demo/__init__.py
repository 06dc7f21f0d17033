"""What `nowcart demo` runs: a shop in a process of its own, and a view in the terminal of what the engine makes of it."""
