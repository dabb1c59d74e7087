"""The Bully election as a pure state machine: no sockets, no clock, no tasks, no disk."""
