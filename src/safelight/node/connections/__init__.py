"""Connections to a node: accepting, closing the right one when there are too many, HTTP framing."""
