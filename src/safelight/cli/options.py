"""The configuration's settings as options: each is `--option` and SAFELIGHT_OPTION, with the same default."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from safelight.cli.user.config_options import config_of
from safelight.cli.user.declarations import Decorator, stacked

if TYPE_CHECKING:
    from click.types import OptionHelpExtra

    from safelight.config import Config


class _Setting(click.Option):
    """Its help shows the configuration's default, which it looks up only then. Its value is None unless it is given."""

    def get_help_extra(self, ctx: click.Context) -> OptionHelpExtra:
        from safelight.config import Config
        from safelight.sizes import human_size

        extra = super().get_help_extra(ctx)
        assert self.name is not None
        default = getattr(Config(), self.name)
        if self.metavar == "SIZE":
            extra["default"] = human_size(default)
        elif isinstance(default, int | float):
            extra["default"] = f"{default:g}"
        elif isinstance(default, tuple):
            extra["default"] = ",".join(default)
        elif isinstance(default, Path):
            home = os.path.expanduser("~")
            extra["default"] = f"~/{default.relative_to(home)}" if default.is_relative_to(home) else str(default)
        elif default:
            extra["default"] = default
        return extra


def _setting(name: str, metavar: str, text: str, kind: Any = str) -> Decorator:
    return click.option(
        f"--{name.replace('_', '-')}",
        cls=_Setting,
        metavar=metavar,
        help=text,
        type=kind,
        envvar=f"SAFELIGHT_{name.upper()}",
        show_envvar=True,
    )


_common = stacked(
    click.option(
        "--config",
        "file",
        type=click.Path(path_type=Path),
        metavar="FILE",
        envvar="SAFELIGHT_CONFIG",
        show_envvar=True,
        help="Read this configuration file (TOML) instead of yours.",
    ),
    _setting("servers", "HOST:PORT,...", "Addresses of node 1, node 2, ..."),
    click.option("--nodes", type=int, metavar="N", help="Number of nodes on this machine, instead of --servers."),
    click.option("--base-port", type=int, metavar="PORT", help="Port of node 1, with --nodes."),
    _setting("tls_ca", "FILE", "Trust the certificate authorities in this PEM file."),
    click.option(
        "--insecure-http",
        is_flag=True,
        default=None,
        envvar="SAFELIGHT_INSECURE_HTTP",
        show_envvar=True,
        help="Use HTTP without TLS beyond loopback. Others can read tokens and images.",
    ),
)
_data_dir = _setting("data_dir", "DIR", "Directory of the keyring, the users and the nodes' state.")
keyring = stacked(
    _data_dir,
    _setting("keyring_secret_file", "FILE", "File with the secret of a wrapped keyring."),
)
vault = _setting("vault", "URL", "Where the vault is: file:///DIR or s3://BUCKET/PREFIX.")
of_nodes = stacked(
    keyring,
    vault,
    _setting("balance", "leader|least-loaded", "Which node encrypts: the leader, or the least loaded."),
    _setting("profile", "local|lan|wan", "Election timers for one machine, one site or several sites."),
    _setting("heartbeat", "SECONDS", "Interval between heartbeats, instead of the profile's.", float),
    _setting("body_timeout", "SECONDS", "Close a transfer that stalls for this long.", float),
    _setting("max_in_flight", "N", "Number of images that a node processes at a time.", int),
    _setting("min_rate", "SIZE", "Bytes per second. Close slower transfers while others wait."),
    _setting("drain_timeout", "SECONDS", "Time to finish granted requests when a node stops.", float),
    _setting("tls_certificate", "FILE", "PEM file with this node's certificate."),
    _setting("tls_key", "FILE", "PEM file with the certificate's private key."),
)
of_clients = stacked(
    _setting("client_dir", "DIR", "Directory of your tokens and history."),
    _setting("timeout", "SECONDS", "How long to wait for a leader.", float),
)
max_image_size = _setting("max_image_size", "SIZE", "Size of the largest image, such as 512M or 16 GiB.")
user_option = _setting("user", "NAME", "User whose images these are.")
user_argument = click.argument("user", required=False, envvar="SAFELIGHT_USER")


def configured(*options: Decorator) -> Decorator:
    """Add options of the configuration. The command receives a `Config` in place of them, as its first argument."""

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(function)
        def command(**options: Any) -> Any:
            from safelight.config import Config

            config = config_of(options)
            ours = {*Config.__struct_fields__, "file", "nodes", "base_port"}
            return function(config, **{key: value for key, value in options.items() if key not in ours})

        return stacked(_common, *options)(command)

    return decorate


def user_of(config: Config) -> str:
    """The configured user. Raises MissingParameter, which names the option or argument of this command."""
    if config.user is not None:
        return config.user
    context = click.get_current_context()
    parameter = next(each for each in context.command.params if each.name == "user")
    name = "--user" if isinstance(parameter, click.Option) else "USER"
    raise click.MissingParameter("Or set user in the configuration file.", context, parameter, name)
