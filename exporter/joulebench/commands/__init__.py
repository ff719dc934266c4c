"""The subcommands: each reads its flags, builds real objects and calls one room."""
