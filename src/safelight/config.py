"""One frozen configuration, for nodes and clients alike.

A value comes from the command line, else from the environment (`SAFELIGHT_…`), else from the configuration
file, else from here. The file is named by `--config` or `SAFELIGHT_CONFIG`, or it is `config.toml` in the
user's configuration directory. A file in the working directory is never picked up by itself: it could
send a user's token to servers that somebody else chose.
"""

from __future__ import annotations

import difflib
import ipaddress
import os
import re
import select
import stat
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_type_hints
from urllib.parse import unquote

import msgspec
import platformdirs

from safelight.election.bully import PROFILES, Timing
from safelight.errors import SafelightError, reason
from safelight.names import check_user
from safelight.sizes import human_size, parse_size

APP = "safelight"

MAX_FILE = 1 << 20
"""Bytes that a configuration file may have."""

SLOWEST = 5.0
"""Seconds that a configuration which comes through a pipe has until it begins."""


class ConfigError(SafelightError):
    """The configuration cannot be used; the message names the file and the key, and says what is expected."""


@dataclass(frozen=True)
class Address:
    """Where one node is reached. The Nth address of a configuration is node N's."""

    scheme: str
    host: str
    port: int

    @property
    def loopback(self) -> bool:
        return is_loopback(self.host)

    @property
    def netloc(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"

    @property
    def url(self) -> str:
        return f"{self.scheme}://{self.netloc}"


def is_loopback(host: str) -> bool:
    """Whether the host is `localhost` or an address that never leaves the machine (RFC 1122, RFC 4291)."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _own_directory(find: Callable[[str], str]) -> Path:
    """This account's directory for Safelight; one that begins with "~" where it has no home directory."""
    try:
        return Path(find(APP))
    except RuntimeError:
        return Path("~", APP)


Positive = Annotated[float, msgspec.Meta(gt=0, le=3600)]


class Config(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Every setting there is, with its default."""

    user: str | None = None
    """Whose images they are, where no command says another."""

    servers: tuple[str, ...] = ("127.0.0.1:8001", "127.0.0.1:8002", "127.0.0.1:8003")
    """host:port of node 1, node 2, … To a client their order does not matter."""

    data_dir: Path = _own_directory(platformdirs.user_data_dir)
    """A machine's keyring, users and epoch counters, shared by its nodes."""

    keyring_secret_file: Path | None = None
    """A file with the secret that wraps the keyring, readable by its owner alone; or it is in the environment, as
    SAFELIGHT_KEYRING_SECRET."""

    client_dir: Path = _own_directory(platformdirs.user_config_dir)
    """A person's tokens and REPL history."""

    vault: str = ""
    """Where sealed images are stored: file:///directory or s3://bucket/prefix. Empty: the directory
    `vault` in `data_dir`."""

    balance: Literal["leader", "least-loaded"] = "leader"
    """Who works: the leader alone, or for each image the node to which the leader assigns it: see docs/balance.md."""

    profile: Literal["local", "lan", "wan"] = "lan"
    """Timers for nodes on one machine, at one site, or at several: see docs/election.md."""

    heartbeat: Annotated[float, msgspec.Meta(ge=0.05, le=60)] | None = None
    """Seconds between heartbeats, if not the profile's. A hung leader is noticed after three; a broken link at
    once, in any case."""

    timeout: Positive = 30.0
    """Seconds that a client goes on trying to find a leader."""

    body_timeout: Positive = 20.0
    """Seconds that a body may stand still before its request is given up."""

    drain_timeout: Positive = 30.0
    """Seconds that a stopping node may take to finish what it granted."""

    max_image_size: Annotated[int, msgspec.Meta(gt=0, le=1 << 60)] = 16 << 30
    """Bytes; larger images are refused. The file may also say "16 GiB"."""

    max_in_flight: Annotated[int, msgspec.Meta(ge=1, le=100_000)] = 64
    """Images that a node has in work at a time, and as many that it hands out; beyond that each user has its share, and
    waits outside for more."""

    min_rate: Annotated[int, msgspec.Meta(ge=0, le=1 << 40)] = 16 << 10
    """Bytes a second: what moves slower is closed while other users wait. A higher rate serves a crowd better; a lower
    one is for clients behind slow lines, whose uploads may never end in a crowd otherwise. 0: nothing is closed."""

    tls_certificate: Path | None = None
    tls_key: Path | None = None
    """PEM files of a node: its certificate (with the chain) and its private key."""

    tls_ca: Path | None = None
    """PEM file: the authority that nodes and clients believe, where it is not one of the system's."""

    insecure_http: bool = False
    """Plain HTTP beyond loopback: tokens and images cross the network readable."""

    @property
    def addresses(self) -> dict[int, Address]:
        return {number: self._address(server) for number, server in enumerate(self.servers, start=1)}

    @property
    def timing(self) -> Timing:
        return PROFILES[self.profile] if self.heartbeat is None else Timing.of(self.heartbeat)

    @property
    def vault_url(self) -> str:
        """The vault's address. Raises ConfigError where none is set and the nodes are on several machines."""
        if not self.vault and len({each.host for each in self.addresses.values() if not each.loopback}) > 1:
            raise ConfigError(
                "vault: these servers are on several machines: name a directory that all mount, or a bucket"
            )
        return self.vault or (self.data_dir.absolute() / "vault").as_uri()

    def _address(self, server: str) -> Address:
        match = re.fullmatch(r"(?:(https?)://)?(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+):(\d{1,5})/?", server)
        if match is None or not 0 < int(match[3]) < 65536:
            raise ConfigError(f"{server!r} is not a server's address: write host:port, such as 127.0.0.1:8001")
        host = match[2].strip("[]").lower()
        secure = self.tls_certificate or self.tls_ca or not (is_loopback(host) or self.insecure_http)
        return Address(match[1] or ("https" if secure else "http"), host, int(match[3]))


def local_servers(nodes: int, base_port: int) -> tuple[str, ...]:
    """Addresses of `nodes` nodes on this machine's loopback, from `base_port` up. Raises ConfigError."""
    if not 1 <= nodes <= 1000 or not 1 <= base_port <= 65536 - nodes:
        raise ConfigError(f"{nodes} nodes from port {base_port} up do not exist: choose 1 to 1000, within 1-65535")
    return tuple(f"127.0.0.1:{base_port + offset}" for offset in range(nodes))


def expanded(path: str | Path) -> Path:
    """The path, with the home directory that it begins with (`~`, `~user`). Raises ConfigError if there is none."""
    found = os.path.expanduser(os.fspath(path))
    if found.startswith("~"):
        home = found.partition("/")[0]
        raise ConfigError(f"there is no home directory {home}: write the whole path, or ./{home}")
    return Path(found)


def load(file: Path | None, overrides: Mapping[str, Any]) -> Config:
    """The configuration: `overrides` (from the command line and the environment; None is "not said")
    over `file` (None: the user's own, if there is one) over the defaults. Raises ConfigError.
    """
    source = str(file or _own_directory(platformdirs.user_config_dir) / "config.toml")
    text = _read(Path(source), optional=file is None) if file or os.path.isabs(source) else None
    said = {key: value for key, value in overrides.items() if value is not None}
    in_file = _checked(_parse(text, source), source) if text is not None else {}
    config = Config(**{**in_file, **_checked(said, "")})
    for key in ("data_dir", "client_dir"):
        if key in overrides and str(getattr(config, key)).startswith("~"):
            raise ConfigError(f"{key}: this account has no home directory: set HOME, or say --{key.replace('_', '-')}")
    for key, problem in _contradictions(config):
        raise ConfigError(f"{_where(key, source if key in in_file and key not in said else '')}: {problem}")
    return config


def load_with_environment(file: Path | None, said: Mapping[str, Any]) -> Config:
    """As `load`, with `SAFELIGHT_...` of the environment for what `said` leaves open, as the command line does."""
    keys = ("config", *Config.__struct_fields__)
    environment = {key: os.environ.get(f"SAFELIGHT_{key.upper()}") or None for key in keys}
    chosen = {key: environment[key] if said.get(key) is None else said[key] for key in keys[1:]}
    return load(file or (expanded(environment["config"]) if environment["config"] else None), chosen)


def _read(file: Path, *, optional: bool) -> str | None:
    """The text, without a byte order mark. None for an `optional` file that does not exist. Raises ConfigError."""
    problem = f"larger than {human_size(MAX_FILE)}"
    try:
        with open(os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as stream:
            if stat.S_ISFIFO(os.fstat(stream.fileno()).st_mode) and not select.select([stream], [], [], SLOWEST)[0]:
                raise ConfigError(f"{file}: cannot read this configuration file: nothing is written into this pipe")
            os.set_blocking(stream.fileno(), True)
            data = stream.read(MAX_FILE + 1)
        if len(data) <= MAX_FILE:
            return data.decode("utf-8-sig")
    except (FileNotFoundError, NotADirectoryError) as error:
        if optional:
            return None
        problem = reason(error)
    except OSError as error:
        problem = reason(error)
    except UnicodeDecodeError:
        problem = "it is not UTF-8 text"
    raise ConfigError(f"{file}: cannot read this configuration file: {problem}")


def _parse(text: str, source: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{source}: this is not TOML: {error}") from None
    except (RecursionError, ValueError):  # as it takes brackets and numbers of any length
        raise ConfigError(f"{source}: this is nested too deeply, or has too long a number in it") from None


_NO_URL = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")


def _checked(settings: dict[str, Any], source: str) -> dict[str, Any]:
    """What one source says (a file; empty: the command line), each value as its setting has it. Raises ConfigError."""
    return {key: _value(key, value, source) for key, value in settings.items()}


def _value(key: str, value: Any, source: str) -> Any:
    if key not in Config.__struct_fields__:
        close = difflib.get_close_matches(key, Config.__struct_fields__, n=1)
        hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(Config.__struct_fields__)}"
        raise ConfigError(f"{_where(key, source)}: there is no such setting; {hint}")
    try:
        if key in ("max_image_size", "min_rate"):
            value = parse_size(value if isinstance(value, int) else str(value))
        if key == "servers" and isinstance(value, str):
            value = [part.strip() for part in value.split(",") if part.strip()]
        if source and get_type_hints(Config)[key] in (Path, Path | None):
            value = _beside(source, value)
        config = msgspec.convert({key: value}, Config, dec_hook=_path, strict=bool(source))
        if key == "servers":
            _ = config.addresses
        if key == "user":
            check_user(value)
        if key == "vault" and value == "none":
            raise ConfigError('a cluster always has a vault: remove "none"; to store no copy, upload with --no-keep')
        if key == "vault" and _NO_URL.search(unquote(value)):
            raise ConfigError("no URL has control characters in it, or bytes that are not UTF-8")
        return getattr(config, key)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{_where(key, source)}: {_choices(key) or _plainly(str(error))}") from None
    except (SafelightError, ValueError) as error:
        raise ConfigError(f"{_where(key, source)}: {error}") from None


def _beside(source: str, path: Any) -> Any:
    """A path as a file means it: from the file's own directory."""
    return str(Path(source).parent / path) if isinstance(path, str) and not path.startswith("~") else path


def _path(kind: type, value: Any) -> Any:
    if kind is not Path or not isinstance(value, (str, Path)):
        raise msgspec.ValidationError("expects a path, in quotes")
    if "\0" in str(value):
        raise msgspec.ValidationError("no path has a NUL byte in it")
    try:
        return expanded(value)
    except ConfigError as error:
        raise msgspec.ValidationError(str(error)) from None


_KINDS = {
    "str": "text",
    "float": "a number",
    "int": "a whole number",
    "bool": "true or false",
    "array": "a list",
    "object": "a table",
    "null": "nothing",
}
_BOUNDS = {">": "above", ">=": "at least", "<=": "at most"}


def _plainly(complaint: str) -> str:
    """What msgspec says, in the words of people: "Expected `float`, got `str` - at `$.timeout`" and the like."""
    complaint = complaint.split(" - at", maxsplit=1)[0]
    if match := re.fullmatch(r"Expected `([^`]+)`, got `([^`]+)`", complaint):
        expected = " or ".join(_KINDS.get(kind, f"a {kind}") for kind in match[1].removesuffix(" | null").split(" | "))
        return f"expects {expected}, not {_KINDS.get(match[2], f'a {match[2]}')}"
    if match := re.fullmatch(r"Expected `[^`]+` ([<>]=?) (\S+)", complaint):
        return f"must be {_BOUNDS[match[1]]} {float(match[2]):g}"
    return complaint


def _choices(key: str) -> str:
    """For a setting that is one of several words: which; else empty."""
    words = get_args(get_type_hints(Config)[key])
    return f"choose {' or '.join(words)}" if words and all(isinstance(word, str) for word in words) else ""


def _where(key: str, source: str) -> str:
    return f"{source}, key {key}" if source else key


def _contradictions(config: Config) -> Iterator[tuple[str, str]]:
    """(key, what is wrong) of what each source may say, and all of them together may not."""
    if not config.servers:
        yield "servers", "this list is empty: name at least one address, such as 127.0.0.1:8001"
    netlocs = [address.netloc for address in config.addresses.values()]
    if twice := {netloc for netloc in netlocs if netlocs.count(netloc) > 1}:
        yield "servers", f"{', '.join(sorted(twice))} is there twice: each node needs its own address"
    if config.tls_key is None and config.tls_certificate is not None:
        yield "tls_certificate", "it needs its private key: set tls_key, too"
    if config.tls_certificate is None and config.tls_key is not None:
        yield "tls_key", "it needs its certificate: set tls_certificate, too"
