"""Safelight: a fault-tolerant cluster that encrypts people's images."""

from importlib.metadata import version

__version__ = version("safelight")
