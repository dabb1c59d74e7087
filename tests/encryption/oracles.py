"""Other implementations that ours is compared with: Tink and the `openssl` command."""

import io
import subprocess
from typing import BinaryIO, cast

import tink
from tink import cleartext_keyset_handle, streaming_aead
from tink.proto import aes_gcm_hkdf_streaming_pb2, common_pb2, tink_pb2

streaming_aead.register()


class Tink:
    """Tink's AES-GCM-HKDF streaming AEAD with a raw 16-byte key."""

    def __init__(self, key: bytes, segment_size: int) -> None:
        raw = aes_gcm_hkdf_streaming_pb2.AesGcmHkdfStreamingKey(
            version=0,
            key_value=key,
            params=aes_gcm_hkdf_streaming_pb2.AesGcmHkdfStreamingParams(
                ciphertext_segment_size=segment_size, derived_key_size=16, hkdf_hash_type=common_pb2.SHA256
            ),
        )
        keyset = tink_pb2.Keyset(primary_key_id=1)
        keyset.key.add(
            key_id=1,
            status=tink_pb2.ENABLED,
            output_prefix_type=tink_pb2.RAW,
            key_data=tink_pb2.KeyData(
                type_url="type.googleapis.com/google.crypto.tink.AesGcmHkdfStreamingKey",
                value=raw.SerializeToString(),
                key_material_type=tink_pb2.KeyData.SYMMETRIC,
            ),
        )
        handle = cleartext_keyset_handle.read(tink.BinaryKeysetReader(keyset.SerializeToString()))
        self._primitive = handle.primitive(streaming_aead.StreamingAead)

    def encrypt(self, plaintext: bytes, associated_data: bytes) -> bytes:
        destination = _KeptBytesIO()
        with self._primitive.new_encrypting_stream(cast(BinaryIO, destination), associated_data) as stream:
            stream.write(plaintext)
        return destination.kept

    def decrypt(self, ciphertext: bytes, associated_data: bytes) -> bytes:
        """Raises tink.TinkError."""
        with self._primitive.new_decrypting_stream(io.BytesIO(ciphertext), associated_data) as stream:
            return cast(bytes, stream.read())


class _KeptBytesIO(io.BytesIO):
    """Tink closes what it writes to, and a closed BytesIO forgets."""

    kept = b""

    def close(self) -> None:
        if not self.closed:
            self.kept = self.getvalue()
        super().close()


def openssl_ctr(key: bytes, counter_block: bytes, data: bytes) -> bytes:
    """AES-128 in counter mode by the openssl command; the same for encryption and decryption."""
    command = ["openssl", "enc", "-d", "-aes-128-ctr", "-K", key.hex(), "-iv", counter_block.hex()]
    return subprocess.run(command, input=data, stdout=subprocess.PIPE, check=True).stdout
