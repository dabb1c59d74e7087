"""The terminal: commands, REPL, console output. It imports everything, and nothing imports it."""
