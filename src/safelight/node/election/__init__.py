"""The election with a real clock, links and disk: driver, links, handshake, eligibility, health, key_sync."""
