"""An attacker who reads everything in the vault, a NAS or a stolen disk, and has no key: see docs/security.md."""

from __future__ import annotations

from pathlib import Path

from safelight.node.state.data_directory import find_keyring
from tests.mission.support import enrolled, seal
from tests.node.test_secrets import data_key, keys, spellings
from tests.running import Running


def test_a_reader_of_the_vault_finds_no_name_no_pixel_and_no_secret(cluster: Running, tmp_path: Path) -> None:
    pixels = bytes(range(256)) * 40
    image = tmp_path / "biopsy of ann.png"
    image.write_bytes(b"\x89PNG\r\n\x1a\n" + pixels)
    saved = seal(cluster.config, image, tmp_path / "images", user="ann")
    keyring = find_keyring(cluster.config.data_dir).read()
    secrets = {spelling.encode() for key in keys(keyring, "ann") for spelling in spellings(key)}
    secrets |= {spelling.encode() for spelling in spellings(data_key(saved.path, keyring))}
    hidden = {b"biopsy", b"encrypted_", pixels[:64], enrolled(cluster.config, "ann").encode(), *secrets}

    vault = cluster.config.data_dir / "vault"
    objects = {str(path.relative_to(vault)): path.read_bytes() for path in vault.rglob("*") if path.is_file()}
    assert {key.partition("/")[0] for key in objects} >= {"vault", "records", "bodies", "users", "tokens"}
    assert [(key, each[:8]) for key, data in objects.items() for each in hidden if each in data] == []
    assert [key for key in objects if "biopsy" in key or "ann" in key.split("/")] == []
    assert {key.partition("/")[0] for key, data in objects.items() if b"ann" in data} <= {"bodies"}
