"""The HTTP interface of a node: routes, admission, reads, writes, conditional requests."""
