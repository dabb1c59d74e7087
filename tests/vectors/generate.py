"""Writes the test vectors beside itself: `python tests/vectors/generate.py`.

A second implementation of docs/format.md, as plain as possible and without a line of Safelight in it: vectors
made by the code that they test prove nothing. From others it takes AES-GCM and AES-CTR; HKDF is written out.
What would be random is a fixed SHAKE256 output, so each run writes the same bytes; a plaintext given as a seed
and a size is the beginning of SHAKE256(seed).
"""

import base64
import hashlib
import hmac
import json
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES128
from cryptography.hazmat.primitives.ciphers.modes import CTR, GCM

SEGMENT = 1 << 20
FIRST, REST = SEGMENT - 40, SEGMENT - 16
MAGIC = bytes.fromhex("89534c540d0a1a0a")

Json = dict[str, Any]


def shake(seed: str, size: int) -> bytes:
    return hashlib.shake_256(seed.encode()).digest(size)


def hkdf(secret: bytes, salt: bytes, info: bytes, size: int) -> bytes:
    """RFC 5869 with SHA-256, for at most one block of output."""
    extracted = hmac.digest(salt or bytes(32), secret, "sha256")
    return hmac.digest(extracted, info + b"\x01", "sha256")[:size]


def gcm(key: bytes, nonce: bytes, plaintext: bytes, associated_data: bytes = b"") -> bytes:
    encryptor = Cipher(AES128(key), GCM(nonce)).encryptor()
    encryptor.authenticate_additional_data(associated_data)
    return encryptor.update(plaintext) + encryptor.finalize() + encryptor.tag


def ctr(key: bytes, counter_block: bytes, plaintext: bytes) -> bytes:
    return Cipher(AES128(key), CTR(counter_block)).encryptor().update(plaintext)


def key_id(cluster_key: bytes) -> bytes:
    return hkdf(cluster_key, b"", b"safelight/1/key-id", 8)


def user_key(cluster_key: bytes, user: str) -> bytes:
    return hkdf(cluster_key, b"", b"safelight/1/user-key/" + user.encode(), 16)


def check(header: bytes) -> bytes:
    return hashlib.sha256(header).digest()[:4]


def payload(data_key: bytes, salt: bytes, prefix: bytes, fixed: bytes, plaintext: bytes) -> tuple[bytes, Json]:
    key = hkdf(data_key, salt, fixed, 16)
    parts = [plaintext[:FIRST]]
    while len(parts[0]) + (len(parts) - 1) * REST < len(plaintext):
        start = FIRST + (len(parts) - 1) * REST
        parts.append(plaintext[start : start + REST])
    header = bytes([24]) + salt + prefix
    nonces = [prefix + n.to_bytes(4, "big") + bytes([n == len(parts) - 1]) for n in range(len(parts))]
    segments = [gcm(key, nonce, part) for nonce, part in zip(nonces, parts, strict=True)]
    shown = {
        "derived_key": key.hex(),
        "payload_header": header.hex(),
        "segments": [
            {"nonce": nonce.hex(), "size": len(segment), "tag": segment[-16:].hex()}
            for nonce, segment in zip(nonces, segments, strict=True)
        ],
    }
    return header + b"".join(segments), shown


def shown_bytes(name: str, data: bytes) -> Json:
    """Small ones whole, large ones by their digest."""
    if len(data) <= 1024:
        return {name: data.hex()}
    return {f"{name}_size": len(data), f"{name}_sha256": hashlib.sha256(data).hexdigest()}


def shown_plaintext(name: str, plaintext: bytes) -> Json:
    shown = {"plaintext_size": len(plaintext), "plaintext_seed": name}
    return shown if len(plaintext) > 1024 else shown | {"plaintext": plaintext.hex()}


def sealed(name: str, user: str, size: int, cluster_key: bytes) -> tuple[bytes, Json]:
    sizes = {"file_id": 16, "data_key": 16, "wrap_nonce": 12, "salt": 16, "nonce_prefix": 7}
    chosen = {what: shake(f"{name}: {what}", length) for what, length in sizes.items()}
    plaintext = shake(name, size)
    fixed = MAGIC + b"\x01" + chosen["file_id"] + bytes([len(user.encode())]) + user.encode()
    wrapped = gcm(user_key(cluster_key, user), chosen["wrap_nonce"], chosen["data_key"], fixed)
    header = fixed + b"\x01" + key_id(cluster_key) + chosen["wrap_nonce"] + wrapped
    header += check(header)
    body, shown = payload(chosen["data_key"], chosen["salt"], chosen["nonce_prefix"], fixed, plaintext)
    vector = {
        "name": name,
        "user": user,
        **shown_plaintext(name, plaintext),
        "chosen": {what: value.hex() for what, value in chosen.items()},
        "user_key": user_key(cluster_key, user).hex(),
        "fixed_header": fixed.hex(),
        "wrapped_key": wrapped.hex(),
        "header": header.hex(),
        **shown,
        **shown_bytes("file", header + body),
    }
    return header + body, vector


def classic(name: str, user: str, size: int, counter_block: bytes) -> Json:
    key = hashlib.sha256(user.encode()).digest()[:16]
    plaintext = shake(name, size)
    file = counter_block + ctr(key, counter_block, plaintext)
    return {
        "name": name,
        "user": user,
        **shown_plaintext(name, plaintext),
        "classic_key": key.hex(),
        "counter_block": counter_block.hex(),
        **shown_bytes("file", file),
    }


def broken(small: bytes, large: bytes) -> list[Json]:
    """Files that must not open. Each is told as pieces of a file of sealed.json and bytes between them."""
    user = len("alice")
    slots, header = 26 + user, 26 + user + 57  # where the slots begin in `small`, and the payload

    def whole(start: int = 0, end: int | None = None, of: bytes = small) -> Json:
        return {"from": start, "to": len(of) if end is None else end}

    def case(name: str, error: str, *pieces: Json | bytes, of: str = "small", **more: str) -> Json:
        listed = [{"hex": piece.hex()} if isinstance(piece, bytes) else piece for piece in pieces]
        return {"name": name, "of": of, "user": "alice", "error": error, "pieces": listed} | more

    def flip(name: str, error: str, at: int, of: str = "small") -> Json:
        file = {"small": small, "large": large}[of]
        return case(name, error, whole(0, at), bytes([file[at] ^ 1]), whole(at + 1, of=file), of=of)

    def rewritten(name: str, error: str, start: int, new: bytes) -> Json:
        """As an attacker does it, with a header check that is true again."""
        changed = small[:start] + new + small[start + len(new) : header - 4]
        return case(name, error, changed + check(changed), whole(header))

    end = len(large)
    # Only a holder of the key can make it: the end of `large` after a first segment that is not the last.
    salt, prefix = large[header + 1 : header + 17], large[header + 17 : header + 24]
    key = hkdf(shake("large: data_key", 16), salt, large[:slots], 16)
    empty_segment = gcm(key, prefix + b"\x00\x00\x00\x01" + b"\x01", b"")
    return [
        case("empty", "NotSealed"),
        case("within the magic", "NotSealed", whole(0, 7)),
        case("another magic", "NotSealed", b"\x89PNG", whole(4)),
        case("line ends translated", "NotSealed", small.replace(b"\r\n", b"\n")),
        flip("version 0", "UnsupportedVersion", 8),
        rewritten("version 2", "UnsupportedVersion", 8, b"\x02"),
        flip("file id changed", "Damaged", 9),
        flip("user length changed", "Damaged", 25),
        flip("user changed", "Damaged", 26),
        flip("slot count changed", "Damaged", slots),
        flip("key id changed", "Damaged", slots + 1),
        flip("wrap nonce changed", "Damaged", slots + 9),
        flip("wrapped key changed", "Damaged", slots + 21),
        flip("header check changed", "Damaged", header - 1),
        rewritten("file id changed, true check", "Damaged", 9, b"\x00"),
        rewritten("no user, true check", "Damaged", 25, b"\x00"),
        rewritten("user not UTF-8, true check", "Damaged", 26, b"\xff"),
        rewritten("another user, true check", "WrongUser", 26, b"carol"),
        rewritten("two slots, true check", "Damaged", slots, b"\x02"),
        rewritten("unknown key id, true check", "OtherCluster", slots + 1, bytes(8)),
        rewritten("wrap nonce changed, true check", "Damaged", slots + 9, bytes(12)),
        rewritten("wrapped key changed, true check", "Damaged", slots + 21, bytes(32)),
        case("opened as another user", "WrongUser", whole(), user="bob"),
        case(
            "opened in another cluster",
            "OtherCluster",
            whole(),
            cluster_key=shake("another cluster", 32).hex(),
        ),
        case("cut within the header", "Damaged", whole(0, header - 1)),
        case("cut after the header", "Damaged", whole(0, header)),
        case("cut within the payload header", "Damaged", whole(0, header + 23)),
        case("cut after the payload header", "Damaged", whole(0, header + 24)),
        case("last byte missing", "Damaged", whole(0, len(small) - 1)),
        case("a byte more", "Damaged", whole(), b"\x00"),
        case("the file twice", "Damaged", whole(), whole()),
        flip("payload header length changed", "Damaged", header),
        flip("salt changed", "Damaged", header + 1),
        flip("nonce prefix changed", "Damaged", header + 17),
        flip("ciphertext changed", "Damaged", header + 24),
        flip("tag changed", "Damaged", len(small) - 1),
        flip("first segment changed", "Damaged", header + 1000, of="large"),
        flip("last segment changed", "Damaged", end - 20, of="large"),
        case("last segment missing", "Damaged", whole(0, header + 2 * SEGMENT), of="large"),
        case(
            "second segment missing",
            "Damaged",
            whole(0, header + SEGMENT),
            whole(header + 2 * SEGMENT, of=large),
            of="large",
        ),
        case(
            "second segment twice",
            "Damaged",
            whole(0, header + 2 * SEGMENT),
            whole(header + SEGMENT, of=large),
            of="large",
        ),
        case(
            "header of another file",
            "Damaged",
            whole(0, header),
            whole(header, of=large) | {"of": "large"},
        ),
        case(
            "an empty segment after a full one",
            "Damaged",
            whole(0, header + SEGMENT),
            empty_segment,
            of="large",
        ),
    ]


def vectors() -> dict[str, Json]:
    """What each file holds, by its name."""
    cluster_keys = [shake(f"cluster key {n}", 32) for n in range(2)]
    cluster_key, node_secret, cluster_id = cluster_keys[0], shake("node secret", 32), shake("cluster id", 16)
    users = ["a", "alice", "bob", "zoë", "user with spaces", "名前", "x" * 255]
    check_info = b"safelight/1/check/" + cluster_id
    keys = {
        "cluster_keys": [
            {
                "cluster_key": key.hex(),
                "key_id": key_id(key).hex(),
                "user_keys": {user: user_key(key, user).hex() for user in users},
            }
            for key in cluster_keys
        ],
        "classic_keys": {user: hashlib.sha256(user.encode()).digest()[:16].hex() for user in users},
        "keyring": {
            "text": {
                "version": 1,
                "cluster": cluster_id.hex(),
                "node_secret": base64.b64encode(node_secret).decode(),
                "current": key_id(cluster_keys[1]).hex(),
                "keys": [{"id": key_id(key).hex(), "secret": base64.b64encode(key).decode()} for key in cluster_keys],
            },
            "check": hkdf(node_secret, b"", check_info, 8).hex(),
            "subkeys": {
                label: hkdf(node_secret, b"", b"safelight/1/node/" + label.encode(), 32).hex()
                for label in ("", "tickets", "peers")
            },
        },
    }
    small, small_vector = sealed("small", "alice", 60, cluster_key)
    large, large_vector = sealed("large", "alice", FIRST + REST + 1000, cluster_key)
    edges = [FIRST - 1, FIRST, FIRST + 1, FIRST + REST - 1, FIRST + REST, FIRST + REST + 1, 5 * SEGMENT + 3]
    files = [
        small_vector,
        large_vector,
        sealed("empty", "bob", 0, cluster_key)[1],
        sealed("one byte", "zoë", 1, cluster_key)[1],
        sealed("longest name", "x" * 255, 100, cluster_key)[1],
        *(sealed(f"{size} bytes", "alice", size, cluster_key)[1] for size in edges),
    ]
    classics = [
        classic("empty", "alice", 0, shake("counter block 0", 16)),
        classic("three bytes", "bob", 3, shake("counter block 1", 16)),
        classic("no whole number of blocks", "zoë", 100, shake("counter block 2", 16)),
        classic("the counter wraps", "alice", 64, b"\xff" * 16),
        classic("large", "alice", SEGMENT + 1, shake("counter block 3", 16)),
    ]
    return {
        "keys.json": keys,
        "sealed.json": {
            "cluster_key": cluster_key.hex(),
            "key_id": key_id(cluster_key).hex(),
            "files": files,
        },
        "classic.json": {"files": classics},
        "broken.json": {"cluster_key": cluster_key.hex(), "files": broken(small, large)},
    }


def written(vector: Json) -> str:
    return json.dumps(vector, indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    for name, vector in vectors().items():
        (Path(__file__).parent / name).write_text(written(vector), "utf-8")
