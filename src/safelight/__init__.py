"""Safelight: a fault-tolerant cluster that encrypts people's images.

The public Python library is what `__all__` names; see docs/library.md. Everything else is internal.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from safelight.client.async_client import AsyncClient, AsyncImageFile
    from safelight.client.blocking_client import Client
    from safelight.client.files.atomic_output import CannotWrite, DiskFull, OutputExists
    from safelight.client.files.source_file import CannotRead, ChangedWhileReading, NotAnImage
    from safelight.client.models import ClusterStatus, Image, NodeStatus, Receipt
    from safelight.client.requests.leader_search import NoLeader
    from safelight.client.requests.reads import NoSuchImage
    from safelight.client.transport.account import Disagreement, Unreachable
    from safelight.client.transport.tokens import TokenError
    from safelight.config import ConfigError
    from safelight.encryption.errors import CannotOpen
    from safelight.errors import ClusterUnavailable, SafelightError
    from safelight.names import InvalidName
    from safelight.wire.messages import Problem, Refusal

__all__ = [
    "AsyncClient",
    "AsyncImageFile",
    "CannotOpen",
    "CannotRead",
    "CannotWrite",
    "ChangedWhileReading",
    "Client",
    "ClusterStatus",
    "ClusterUnavailable",
    "ConfigError",
    "Disagreement",
    "DiskFull",
    "Image",
    "InvalidName",
    "NoLeader",
    "NoSuchImage",
    "NodeStatus",
    "NotAnImage",
    "OutputExists",
    "Problem",
    "Receipt",
    "Refusal",
    "SafelightError",
    "TokenError",
    "Unreachable",
    "__version__",
]

__version__ = "0.2.0"

_MODULES = {
    "client.async_client": ("AsyncClient", "AsyncImageFile"),
    "client.blocking_client": ("Client",),
    "client.files.atomic_output": ("CannotWrite", "DiskFull", "OutputExists"),
    "client.files.source_file": ("CannotRead", "ChangedWhileReading", "NotAnImage"),
    "client.models": ("ClusterStatus", "Image", "NodeStatus", "Receipt"),
    "client.requests.leader_search": ("NoLeader",),
    "client.requests.reads": ("NoSuchImage",),
    "client.transport.account": ("Disagreement", "Unreachable"),
    "client.transport.tokens": ("TokenError",),
    "config": ("ConfigError",),
    "encryption.errors": ("CannotOpen",),
    "errors": ("ClusterUnavailable", "SafelightError"),
    "names": ("InvalidName",),
    "wire.messages": ("Problem", "Refusal"),
}


def __getattr__(name: str) -> object:
    """Import a public name at its first use, so that `safelight --help` does not pay for the library (PEP 562)."""
    for module, names in _MODULES.items():
        if name in names:
            found: object = getattr(import_module(f"safelight.{module}"), name)
            globals()[name] = found
            return found
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
