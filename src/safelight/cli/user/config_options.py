"""The configuration that the options of a command line and the configuration file make together."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from safelight.config import Config


def config_of(options: Mapping[str, Any]) -> Config:
    """The configuration from the options of a command line. Raises ConfigError and UsageError."""
    from safelight.config import Config, load, local_servers

    given = {key: value for key, value in options.items() if key in Config.__struct_fields__}
    nodes, base_port = options.get("nodes"), options.get("base_port")
    if nodes is not None or base_port is not None:
        source = click.get_current_context().get_parameter_source("servers")
        if source is click.core.ParameterSource.COMMANDLINE:
            raise click.UsageError("--servers names every node: leave out --nodes and --base-port")
        given["servers"] = local_servers(3 if nodes is None else nodes, 8001 if base_port is None else base_port)
    return load(options.get("file"), given)
