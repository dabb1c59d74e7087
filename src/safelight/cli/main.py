"""Commands, options and exit codes. No logic: each command imports what does the work, and nothing else.

Exit codes: 0, success; 1, failure, with one line on standard error that says why; 2, a wrong command line; 130,
stopped by Ctrl-C. `up` and `server` run until they are stopped: for them, Ctrl-C is success.
"""

from __future__ import annotations

import gc
import os
import re
import shlex
import sys
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar, cast

import click

from safelight import __version__
from safelight.cli.user.arguments import (
    Decorator,
    decrypt_arguments,
    get_arguments,
    info_arguments,
    ls_arguments,
    rm_arguments,
    stacked,
    upload_arguments,
)
from safelight.errors import SafelightError, reason
from safelight.runtime import process

if TYPE_CHECKING:
    from click.types import OptionHelpExtra

    from safelight.config import Config

T = TypeVar("T")

_NO_LINE = re.compile(r"[\x00-\x1f\x7f-\x9f]")
"""What a path in a message may have in it, and no line may."""


# -- options: each setting of config.Config that a command takes, as --option and as SAFELIGHT_OPTION --


class _Setting(click.Option):
    """Its help shows the configuration's own default, which is looked up only then; its value is None if not said."""

    def get_help_extra(self, ctx: click.Context) -> OptionHelpExtra:
        from safelight.config import Config
        from safelight.sizes import human_size

        extra = super().get_help_extra(ctx)
        assert self.name is not None
        default = getattr(Config(), self.name)
        if self.metavar == "SIZE":
            extra["default"] = human_size(default)
        elif isinstance(default, int):
            extra["default"] = str(default)
        elif isinstance(default, float):
            extra["default"] = f"{default:g}"
        elif isinstance(default, tuple):
            extra["default"] = ",".join(default)
        elif isinstance(default, str) and default:
            extra["default"] = default
        elif isinstance(default, Path):
            home = os.path.expanduser("~")
            extra["default"] = f"~/{default.relative_to(home)}" if default.is_relative_to(home) else str(default)
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
        help="Configuration file (TOML), instead of your own.",
    ),
    _setting("servers", "HOST:PORT,...", "Addresses of node 1, node 2, ..."),
    click.option("--nodes", type=int, metavar="N", help="Instead of --servers: N nodes on this machine."),
    click.option("--base-port", type=int, metavar="PORT", help="Instead of --servers: the port of node 1."),
    _setting("tls_ca", "FILE", "PEM file of the certificate authority to trust."),
    click.option(
        "--insecure-http",
        is_flag=True,
        default=None,
        envvar="SAFELIGHT_INSECURE_HTTP",
        show_envvar=True,
        help="Allow plain HTTP beyond loopback: tokens and images cross the network unencrypted.",
    ),
)
_data_dir = _setting("data_dir", "DIR", "Keyring, users and state of this machine's nodes.")
_keyring = stacked(
    _data_dir,
    _setting(
        "keyring_secret_file",
        "FILE",
        "File with the secret that encrypts the keyring, instead of SAFELIGHT_KEYRING_SECRET.",
    ),
)
_vault = _setting("vault", "URL", "Where images are stored: file:///DIR, s3://..., gs://..., az://... or none.")
_of_nodes = stacked(
    _keyring,
    _vault,
    _setting("balance", "leader|least-loaded", "Who encrypts: the leader, or the node that it assigns."),
    _setting("profile", "local|lan|wan", "Timers for nodes on one machine, at one site, or at several."),
    _setting("heartbeat", "SECONDS", "Time between heartbeats, instead of the profile's.", float),
    _setting("body_timeout", "SECONDS", "Time without a byte after which a transfer is closed.", float),
    _setting("max_in_flight", "N", "Images that a node processes at a time.", int),
    _setting("min_rate", "SIZE", "Bytes a second; slower transfers are closed while other users wait."),
    _setting("drain_timeout", "SECONDS", "Time to finish granted requests before a node stops.", float),
    _setting("tls_certificate", "FILE", "PEM file of this node's certificate."),
    _setting("tls_key", "FILE", "PEM file of its private key."),
)
_of_clients = stacked(
    _setting("client_dir", "DIR", "Directory of your tokens and the REPL's history."),
    _setting("timeout", "SECONDS", "How long to look for a leader.", float),
)
_max_image_size = _setting("max_image_size", "SIZE", "Largest image, such as 512M or 16 GiB.")
_user = _setting("user", "NAME", "The user whose images they are.")
_quiet = click.option("--quiet", is_flag=True, help="Print only the new paths, one per line.")
_user_argument = click.argument("user", required=False, envvar="SAFELIGHT_USER")


def _configured(*options: Decorator) -> Decorator:
    """Add options of the configuration; the command gets the `Config` itself, first, instead of them."""

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(function)
        def command(
            file: Path | None, nodes: int | None, base_port: int | None, insecure_http: bool | None, **rest: Any
        ) -> Any:
            from safelight.config import Config, load, local_servers

            said = {key: rest.pop(key) for key in [*rest] if key in Config.__struct_fields__}
            if nodes is not None or base_port is not None:
                if _on_command_line("servers"):
                    raise click.UsageError("--servers names all nodes: leave out --nodes and --base-port")
                said["servers"] = local_servers(3 if nodes is None else nodes, 8001 if base_port is None else base_port)
            return function(load(file, {**said, "insecure_http": insecure_http}), **rest)

        return stacked(_common, *options)(command)

    return decorate


def _user_of(config: Config) -> str:
    if config.user is not None:
        return config.user
    context = click.get_current_context()
    parameter = next(each for each in context.command.params if each.name == "user")
    name = "--user" if isinstance(parameter, click.Option) else "USER"
    raise click.MissingParameter("Or set user in the configuration file.", context, parameter, name)


def _on_command_line(name: str) -> bool:
    source = click.get_current_context().get_parameter_source(name)
    return source is click.core.ParameterSource.COMMANDLINE


def _of_a_node_said_here() -> str:
    """The options of this command line that one node's would need, too; with a space before each."""
    context, of_a_node = click.get_current_context(), {each.name for each in server.params}
    said = [
        each
        for each in context.command.params
        if isinstance(each, click.Option) and each.name in of_a_node and _on_command_line(each.name or "")
    ]
    values = ("" if each.is_flag else f" {shlex.quote(str(context.params[each.name or '']))}" for each in said)
    return "".join(f" {each.opts[0]}{value}" for each, value in zip(said, values, strict=True))


# -- commands --


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="safelight", message="%(prog)s %(version)s")
def safelight() -> None:
    """A fault-tolerant cluster that encrypts people's images.

    To get started, run: safelight run --user alice
    """
    from safelight.runtime.descriptors import raise_limit

    raise_limit()


@safelight.command()
@click.argument("node", type=int)
@click.option("--until-eof", is_flag=True, hidden=True)
@_configured(_of_nodes, _max_image_size)
def server(config: Config, node: int, until_eof: bool) -> None:
    """Run one node. NODE is its position in --servers, from 1."""
    with _much_that_stays():
        from safelight.node.server import run

    run(config, node, until_eof=until_eof)


@safelight.command()
@_configured(_of_nodes, _max_image_size)
def up(config: Config) -> None:
    """Run all nodes in one terminal; Ctrl-C stops them."""
    from safelight.cli.launch import up

    up(config, _of_a_node_said_here())


@safelight.command()
@_user
@_configured(_of_nodes, _of_clients, _max_image_size)
def run(config: Config) -> None:
    """Run all nodes and a user's REPL.

    If standard input is not a terminal, commands are read from it. The exit code is 0 if all of them succeeded.
    """
    with _much_that_stays():
        from safelight.cli.launch import run

    _finish(run(config, _user_of(config), _of_a_node_said_here()))


@safelight.command()
@_user_argument
@_configured(_of_clients, _max_image_size)
def client(config: Config) -> None:
    """Open the REPL of USER; type help in it."""
    with _much_that_stays():
        from safelight.cli.output.console import ConsoleReporter
        from safelight.cli.user.repl import converse

    _finish(_complete(converse(config, _user_of(config), ConsoleReporter(dialogue=True))))


@safelight.command()
@upload_arguments
@_user
@_quiet
@_configured(_of_clients, _max_image_size)
def upload(config: Config, quiet: bool, **options: Any) -> None:
    """Encrypt images and store them in the vault.

    A directory stands for all images in it, at any depth. Images that an earlier run has uploaded are not uploaded
    again; a file that you name always is. Other files in a directory are skipped and listed with the reason: hidden
    files, files that are not images (unless --any), encrypted files, and the directory --to. A failure does not stop
    the rest. The exit code is 0 if all succeeded.
    """
    with _much_that_stays():
        from safelight.cli.user.commands import upload

    _finish(_complete(upload(config, _user_of(config), quiet=quiet, **options)))


@safelight.command()
@decrypt_arguments
@_user
@_quiet
@_configured(_of_clients, _max_image_size)
def decrypt(config: Config, quiet: bool, **options: Any) -> None:
    """Decrypt encrypted images.

    A failure does not stop the rest. The exit code is 0 if all succeeded.
    """
    with _much_that_stays():
        from safelight.cli.user.commands import decrypt

    _finish(_complete(decrypt(config, _user_of(config), quiet=quiet, **options)))


@safelight.command()
@ls_arguments
@_user
@_configured(_of_clients)
def ls(config: Config, **options: Any) -> None:
    """List images of the vault, newest first.

    PATTERN, such as '*.png', matches the names of images and of their original files. If an image or its original file
    has exactly this name, only that image is listed.
    """
    with _much_that_stays():
        from safelight.cli.user.commands import ls

    _complete(ls(config, _user_of(config), **options))


@safelight.command()
@get_arguments
@_user
@_quiet
@_configured(_of_clients)
def get(config: Config, quiet: bool, **options: Any) -> None:
    """Download and decrypt images from the vault.

    Files get their original names. NAME is the name of an image, as `ls` shows it, or of its original file, if that is
    unique. Any other word is a PATTERN; files that exist already, with the image's size and time, are then skipped.
    """
    with _much_that_stays():
        from safelight.cli.user.commands import get

    _finish(_complete(get(config, _user_of(config), quiet=quiet, **options)))


@safelight.command()
@rm_arguments
@_user
@_configured(_of_clients)
def rm(config: Config, **options: Any) -> None:
    """Remove images from the vault permanently.

    NAME and PATTERN are as for `get`. On a terminal, lists what it would remove and asks. With --yes it does not ask,
    and a PATTERN needs --pattern, too. Encrypted files on this machine stay.
    """
    with _much_that_stays():
        from safelight.cli.user.commands import rm

    _finish(_complete(rm(config, _user_of(config), **options)))


@safelight.command()
@info_arguments
def info(paths: tuple[str, ...]) -> None:
    """Describe encrypted files, without a key or a cluster."""
    from safelight.cli.output.console import ConsoleReporter
    from safelight.cli.user.commands import info

    _finish(info(paths, ConsoleReporter(dialogue=False)))


@safelight.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@_configured(_of_clients)
def status(config: Config, as_json: bool) -> None:
    """Show every node: role, epoch, leader, load and counters.

    The exit code is 0 if there is a leader.
    """
    from safelight.cli.user.commands import status

    _finish(_complete(status(config, as_json=as_json)))


@safelight.command("step-down")
@click.argument("node", type=int, required=False)
@click.option("--for", "seconds", type=float, default=300.0, show_default=True, metavar="SECONDS", help="0 ends it.")
@_configured(_keyring)
def step_down(config: Config, node: int | None, seconds: float) -> None:
    """Make NODE, or the leader, ineligible for a while.

    The node finishes granted requests. The command waits until another node leads; if none can, the node keeps leading.
    A restart of the node ends it, too. Run it on a machine with the cluster's keyring.
    """
    from safelight.cli.admin.cluster import step_down

    click.echo(_complete(step_down(config, node, seconds)))


@safelight.command()
@_configured(_keyring, _vault)
def init(config: Config) -> None:
    """Create the keyring of a new cluster.

    The keyring holds the cluster's identity and all its secrets. On loopback the nodes create it themselves. It is
    encrypted if a secret is configured.
    """
    import asyncio

    from safelight.node.state.data_directory import create_cluster
    from safelight.node.state.key_file import wrapper_of
    from safelight.vault.bootstrap import check_unused

    if not (config.data_dir / "keyring.json").exists():
        asyncio.run(check_unused(config))
    keyring = create_cluster(config.data_dir, wrapper_of(config))
    click.echo(f"Cluster {keyring.cluster_id} is created. Its keyring is in: {config.data_dir}")


@safelight.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@_configured(_keyring, _vault)
def verify(config: Config, as_json: bool) -> None:
    """Read every object in the vault and check every tag.

    Reports what is damaged, missing, foreign or left over. The exit code is 0 if nothing is lost. Nodes may keep
    running. Run it on a machine with the cluster's keyring.
    """
    from safelight.cli.admin.vault import verify

    _finish(_complete(verify(config, as_json=as_json)))


@safelight.command()
@_configured(_keyring, _vault)
def rewrap(config: Config) -> None:
    """Rewrap all images in the vault under the current key.

    Run it after `safelight keys rotate`. It rewrites some sixty bytes per image. Nodes may keep running. If it is
    interrupted, run it again. It reports when the vault no longer needs an old key.
    """
    from safelight.cli.admin.vault import rewrap

    _complete(rewrap(config))


@safelight.group()
def keys() -> None:
    """The cluster's keys: list, rotate, wrap, unwrap.

    Run it on a machine with the cluster's keyring.
    """


@keys.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@_configured(_keyring)
def list_keys(config: Config, as_json: bool) -> None:
    """Show key ids, when each was created, and which is current. No secret."""
    from safelight.cli.admin.cluster import list_keys

    click.echo(list_keys(config, as_json=as_json))


@keys.command()
@_configured(_keyring)
def rotate(config: Config) -> None:
    """Give all nodes a new key for new images.

    Old images can still be decrypted. All nodes must run; none needs a restart. If it is interrupted, run it again.
    """
    from safelight.cli.admin.cluster import rotate

    click.echo(_complete(rotate(config)))


@keys.command()
@_configured(_keyring)
def wrap(config: Config) -> None:
    """Encrypt the keyring file under a secret.

    The secret is in the file that keyring_secret_file names, or in SAFELIGHT_KEYRING_SECRET. Give it to this machine's
    nodes first: one that cannot read the keyring is ineligible to lead.
    """
    from safelight.cli.admin.cluster import wrap

    click.echo(wrap(config, wrapped=True))


@keys.command()
@_configured(_keyring)
def unwrap(config: Config) -> None:
    """Undo `safelight keys wrap`."""
    from safelight.cli.admin.cluster import wrap

    click.echo(wrap(config, wrapped=False))


@safelight.command()
@_user_argument
@_configured(_of_clients)
def token(config: Config) -> None:
    """Print the fingerprint of USER's token.

    The operator needs it to add the user. It is not secret; the token is.
    """
    from safelight.cli.user.commands import fingerprint

    click.echo(_complete(fingerprint(config, _user_of(config))))


@safelight.group()
def user() -> None:
    """The cluster's users: add, list, token, revoke.

    Run it on a machine with the cluster's keyring and vault; on each, where the machines share no vault.
    """


@user.command()
@click.argument("name")
@click.argument("fingerprint")
@_configured(_keyring, _vault)
def add(config: Config, name: str, fingerprint: str) -> None:
    """Add user NAME, who has the token with this FINGERPRINT (64 hex digits)."""
    from safelight.cli.admin.users import add

    click.echo(_complete(add(config, name, fingerprint)))


@user.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, with fingerprints.")
@_configured(_keyring, _vault)
def list_users(config: Config, as_json: bool) -> None:
    """Show all users: since when, active or revoked."""
    from safelight.cli.admin.users import listing

    click.echo(_complete(listing(config, as_json=as_json)))


@user.command("token")
@click.argument("name")
@click.argument("fingerprint")
@_configured(_keyring, _vault)
def give_token(config: Config, name: str, fingerprint: str) -> None:
    """Give user NAME the token with this FINGERPRINT.

    It replaces the previous token, which stops working within a second. A revoked user becomes active again. The holder
    of the token can decrypt NAME's images: verify whose it is.
    """
    from safelight.cli.admin.users import give

    click.echo(_complete(give(config, name, fingerprint)))


@user.command()
@click.argument("name")
@click.option("--yes", is_flag=True, help="Do not ask.")
@_configured(_keyring, _vault)
def revoke(config: Config, name: str, yes: bool) -> None:
    """Revoke NAME's access.

    The token stops working within a second, on every node. The images stay, and the name stays reserved.
    """
    from safelight.cli.admin.users import revoke

    if not yes:
        if not sys.stdin.isatty():
            raise click.UsageError("This asks only on a terminal: add --yes.")
        if not click.confirm(f"Revoke {name}?"):
            raise SafelightError("nothing was changed")
    click.echo(_complete(revoke(config, name)))


@safelight.command()
@click.option(
    "--to", type=click.Path(path_type=Path), default="demo", show_default=True, help="Directory for the picture."
)
def demo(to: Path) -> None:
    """Show a failover in a temporary cluster.

    It encrypts a photograph, kills the leader, encrypts the photograph again, and draws a picture of both.
    """
    from safelight.cli.demo import walk_through

    walk_through(to)


# -- exit codes --


def main() -> NoReturn:
    process.prepare()
    try:
        code = _code()
        sys.stdout.flush()
    except SystemExit as ended:  # by a signal, or by output that cannot be written
        code = ended.code
    sys.exit(process.end(code if isinstance(code, int) else 0))


def _code() -> int | str | None:
    """Run the command line. The exit code, or None for 0; an error is printed in one line."""
    try:
        return cast(int | str | None, safelight.main(prog_name="safelight", standalone_mode=False))
    except SafelightError as error:
        return _complain(str(error), 1)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        return 2
    except click.UsageError as error:
        path = error.ctx.command_path if error.ctx else "safelight"
        return _complain(f"{error.format_message()} (see: {path} --help)", 2)
    except click.ClickException as error:
        return _complain(error.format_message(), error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        return 130
    except OSError as error:  # no disk for temporary files, no descriptors: an error of the machine, not a bug
        where = f"{error.filename}: " if error.filename else ""
        return _complain(f"{where}{reason(error)}", 1)
    except UnicodeEncodeError:
        if (encoding := sys.getfilesystemencoding()) == "utf-8":
            raise
        return _complain(f"this locale's encoding, {encoding}, lacks letters of a name: set LC_ALL=C.UTF-8", 1)


def _complain(message: str, code: int) -> int:
    click.echo(f"safelight: {_NO_LINE.sub('�', message)}", err=True)
    return code


def _finish(succeeded: bool) -> None:
    if not succeeded:
        raise click.exceptions.Exit(1)


@contextmanager
def _much_that_stays() -> Iterator[None]:
    """Spare the garbage collector what lives as long as the process: an eighth of the time that imports take."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def _complete(work: Coroutine[Any, Any, T]) -> T:
    from safelight.runtime.signals import run

    return run(work)
