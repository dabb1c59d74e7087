"""The vectors in tests/vectors, which a second implementation made: we make the same bytes and open them."""

import hashlib
import json
import runpy
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from safelight.encryption import classic, errors, sealed
from safelight.encryption.keys import ClusterKey, Keyring, classic_key

from .pushing import push, push_until_error

VECTORS = Path(__file__).parents[1] / "vectors"
CHOSEN_IN_ORDER = ("file_id", "data_key", "wrap_nonce", "salt", "nonce_prefix")


def read(name: str) -> Any:
    return json.loads((VECTORS / name).read_text("utf-8"))


KEYS, SEALED, CLASSIC, BROKEN = (read(f"{name}.json") for name in ("keys", "sealed", "classic", "broken"))


def keyring(cluster_key: str) -> Keyring:
    key = ClusterKey(bytes.fromhex(cluster_key))
    return Keyring("0" * 32, bytes(32), (key,), key.id)


def plaintext(vector: Any) -> bytes:
    made = hashlib.shake_256(vector["plaintext_seed"].encode()).digest(vector["plaintext_size"])
    assert made.hex() == vector.get("plaintext", made.hex())
    return made


def assert_is_the_file(file: bytes, vector: Any) -> None:
    if "file" in vector:
        assert file.hex() == vector["file"]
    else:
        assert (len(file), hashlib.sha256(file).hexdigest()) == (vector["file_size"], vector["file_sha256"])


@cache
def sealed_file(name: str) -> bytes:
    """Made by our sealer from what the vector chose, and compared to the vector or to its digest."""
    (vector,) = (vector for vector in SEALED["files"] if vector["name"] == name)
    chosen = iter(bytes.fromhex(vector["chosen"][what]) for what in CHOSEN_IN_ORDER)
    sealer = sealed.FileSealer(vector["user"], keyring(SEALED["cluster_key"]), random=lambda size: next(chosen))
    file = push(sealer, plaintext(vector))
    assert_is_the_file(file, vector)
    return file


def names(vectors: Any) -> list[str]:
    return [vector["name"] for vector in vectors["files"]]


@pytest.mark.parametrize("vector", KEYS["cluster_keys"], ids=lambda vector: vector["key_id"])
def test_keys_are_derived_as_specified(vector: Any) -> None:
    key = ClusterKey(bytes.fromhex(vector["cluster_key"]))
    assert key.id == vector["key_id"]
    assert {user: key.user_key(user).hex() for user in vector["user_keys"]} == vector["user_keys"]


def test_classic_keys_are_derived_as_specified() -> None:
    assert {user: classic_key(user).hex() for user in KEYS["classic_keys"]} == KEYS["classic_keys"]


def test_the_keyring_is_read_and_checked_as_specified() -> None:
    vector = KEYS["keyring"]
    read = Keyring.from_json(json.dumps(vector["text"]).encode())
    assert json.loads(read.to_json()) == vector["text"]
    assert read.check == vector["check"]
    assert {label: read.derive(label).hex() for label in vector["subkeys"]} == vector["subkeys"]


@pytest.mark.parametrize("vector", SEALED["files"], ids=names(SEALED))
def test_a_sealed_file_is_made_and_opened_as_specified(vector: Any) -> None:
    file = sealed_file(vector["name"])
    header = sealed.read_header(file)
    assert header.encode().hex() == vector["header"]
    assert header.fixed.hex() == vector["fixed_header"]
    assert header.wrapped_key.hex() == vector["wrapped_key"]
    assert header.key_id == SEALED["key_id"]
    assert push(sealed.FileOpener(vector["user"], keyring(SEALED["cluster_key"])), file) == plaintext(vector)


@pytest.mark.parametrize("vector", BROKEN["files"], ids=names(BROKEN))
def test_a_broken_file_is_refused_for_the_reason_specified(vector: Any) -> None:
    pieces = [
        bytes.fromhex(piece["hex"])
        if "hex" in piece
        else sealed_file(piece.get("of", vector["of"]))[piece["from"] : piece["to"]]
        for piece in vector["pieces"]
    ]
    opener = sealed.FileOpener(vector["user"], keyring(vector.get("cluster_key", BROKEN["cluster_key"])))
    released, error = push_until_error(opener, b"".join(pieces))
    assert type(error) is getattr(errors, vector["error"])
    (base,) = (base for base in SEALED["files"] if base["name"] == vector["of"])
    assert plaintext(base).startswith(released)


@pytest.mark.parametrize("vector", CLASSIC["files"], ids=names(CLASSIC))
def test_a_classic_file_is_made_and_opened_as_specified(vector: Any) -> None:
    counter_block = bytes.fromhex(vector["counter_block"])
    file = push(classic.ClassicSealer(vector["user"], random=lambda size: counter_block), plaintext(vector))
    assert_is_the_file(file, vector)
    assert push(classic.ClassicOpener(vector["user"]), file) == plaintext(vector)


def test_the_worked_example_in_the_specification_is_a_vector() -> None:
    text = (VECTORS.parents[1] / "docs" / "format.md").read_text("utf-8")
    table = text.split("<!-- worked-example -->")[1].split("```text\n")[1].split("```")[0]
    example = {name: "".join(value) for name, *value in (line.split() for line in table.splitlines())}
    (vector,) = (vector for vector in SEALED["files"] if vector["name"] == "small")
    known = vector | vector["chosen"] | {"cluster_key": SEALED["cluster_key"], "key_id": SEALED["key_id"]}
    known |= {"nonce": vector["segments"][0]["nonce"], "check": vector["header"][-8:]}
    assert example == {name: known[name] for name in example}
    assert {"user_key", "fixed_header", "wrapped_key", "derived_key", "nonce", "file"} <= example.keys()


def test_the_vectors_are_those_that_the_generator_writes() -> None:
    generator = runpy.run_path(str(VECTORS / "generate.py"))
    for name, vector in generator["vectors"]().items():
        assert generator["written"](vector) == (VECTORS / name).read_text("utf-8")
