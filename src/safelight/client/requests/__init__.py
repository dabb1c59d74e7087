"""Requests and their retries: offer, transfer, removal, reads, status."""
