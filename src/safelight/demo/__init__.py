"""What shows Safelight at work; nothing else depends on it."""
