"""Safelight: a fault-tolerant cluster that encrypts people's images."""

__version__ = "0.1.0"
