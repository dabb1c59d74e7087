"""A user's commands, in the REPL and on the command line."""
