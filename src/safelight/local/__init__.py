"""A cluster of child processes on this machine, and what the demo draws of it."""
