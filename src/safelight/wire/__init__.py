"""What crosses the network: messages, problems, tickets and admin commands. Pure."""
