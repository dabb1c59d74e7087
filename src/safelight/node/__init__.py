"""One node as a process: `server` assembles the parts, which only look downward."""
