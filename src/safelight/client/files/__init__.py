"""Files on the client's disk: source files, atomic output, the resume log."""
