"""How a client reaches nodes: connections, offer channels, tokens, the account that they prove."""
