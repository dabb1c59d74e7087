"""The election with a real clock, links and disk: driver, handshake, eligibility."""
