"""The command `nowcart`: one file a command; each parses, calls and prints.

A command is a module with `add(subparsers)`, which describes its arguments, and `run(args) -> int`, the exit status. Modules
here import at their top only what describing takes; `run` imports the rest, so that `nowcart --help` is there at once.
"""
