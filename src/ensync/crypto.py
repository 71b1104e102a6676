"""Keys, and the envelopes that only their owners can open (pure but for randomness; PROTOCOL 5).

Everything is NaCl: Curve25519 with XSalsa20-Poly1305, on keys converted from
Ed25519. An envelope is base64 of JSON, with every binary value base64 in turn.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any, Final, NoReturn, final

from nacl import bindings as sodium
from nacl.exceptions import CryptoError
from nacl.utils import random as random_bytes

from ensync.base64_text import decode_base64, encode_base64, encode_base64_text
from ensync.errors import EnSyncInvalidEventError, EnSyncValidationError
from ensync.json_text import as_object, decode_json

__all__ = ["SecretKey", "open_envelope", "parse_app_id", "seal", "seal_hybrid"]

KEY_SIZE: Final = 32
SECRET_KEY_SIZE: Final = 64
NONCE_SIZE: Final = 24
# Converting a public key costs more than sealing, so those of recent recipients are kept.
CACHED_RECIPIENTS: Final = 4096
# Each try costs a key exchange: a forged list of keys must not occupy the reader for long.
MAX_TRIED_KEYS: Final = 1000

APP_ID_FORM = "an app id is the base64 (44 characters) of a 32-byte Ed25519 public key"
KEY_PAIR_FORM = (
    "an app secret key is base64 of a 64-byte Ed25519 secret key, or of its 32-byte seed"
)


@final
class SecretKey:
    """An app's secret key. Neither its repr nor any error shows it.

    Attributes:
        app_id: The app id that belongs to it.
    """

    __slots__ = ("_curve_key", "_secret", "app_id")

    def __init__(self, seed: bytes) -> None:
        public, self._secret = sodium.crypto_sign_seed_keypair(seed)
        self._curve_key = sodium.crypto_sign_ed25519_sk_to_curve25519(self._secret)
        self.app_id = encode_base64_text(public)

    @classmethod
    def parse(cls, text: object) -> SecretKey:
        """Reads the base64 text of a 64-byte secret key or of a 32-byte seed.

        Raises:
            EnSyncValidationError: It is neither, or its two halves don't belong together.
        """
        raw = _decoded_secret(text)
        key = cls(raw[:KEY_SIZE])
        if len(raw) == SECRET_KEY_SIZE and raw != key._secret:
            raise EnSyncValidationError(
                "the public half of app_secret_key does not belong to its seed: the key is damaged"
            )
        return key

    @classmethod
    def generate(cls) -> SecretKey:
        """Makes a new key."""
        return cls(random_bytes(KEY_SIZE))

    def reveal(self) -> str:
        """The base64 text of the 64-byte secret key, to be handed to its owner."""
        return encode_base64_text(self._secret)

    def open_box(self, ciphertext: bytes, nonce: bytes, public_key: bytes) -> bytes:
        """Opens a NaCl box that was made for this key.

        Raises:
            nacl.exceptions.CryptoError: It was not, or it was changed.
        """
        return sodium.crypto_box_open_easy(ciphertext, nonce, public_key, self._curve_key)

    def __repr__(self) -> str:
        return f"<SecretKey of app {self.app_id}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a SecretKey can't be pickled or copied, so that it does not spread")


def _decoded_secret(text: object) -> bytes:
    if not isinstance(text, str):
        raise EnSyncValidationError(
            f"app_secret_key must be a str, not {type(text).__name__}; {KEY_PAIR_FORM}"
        )
    try:
        raw = decode_base64(text)
    except ValueError:
        # Without the cause: its traceback would hold the text.
        raise EnSyncValidationError(f"app_secret_key is not base64; {KEY_PAIR_FORM}") from None
    if len(raw) not in (KEY_SIZE, SECRET_KEY_SIZE):
        raise EnSyncValidationError(f"app_secret_key holds {len(raw)} bytes; {KEY_PAIR_FORM}")
    return raw


def parse_app_id(text: object) -> bytes:
    """Reads an app id, giving the Ed25519 public key.

    Raises:
        EnSyncValidationError: It is not the base64 of a usable public key.
    """
    return _recipient(text)[0]


def _recipient(app_id: object) -> tuple[bytes, bytes]:
    """The Ed25519 key of an app id and the Curve25519 key to seal with."""
    if not isinstance(app_id, str):
        raise EnSyncValidationError(f"{APP_ID_FORM}, not {type(app_id).__name__}")
    return _converted(app_id)


@lru_cache(CACHED_RECIPIENTS)
def _converted(app_id: str) -> tuple[bytes, bytes]:
    try:
        public = decode_base64(app_id)
    except ValueError:
        public = b""
    # The unused bits at the end must be zero: one app must not have two ids.
    if len(public) != KEY_SIZE or encode_base64_text(public) != app_id:
        # Not shown: a secret key given by mistake must not end up in a log.
        raise EnSyncValidationError(
            f"this is not an app id ({len(app_id)} characters): {APP_ID_FORM}"
        )
    try:
        return public, sodium.crypto_sign_ed25519_pk_to_curve25519(public)
    except CryptoError as error:
        raise EnSyncValidationError(
            "this is not an app id: its 32 bytes are not a usable Ed25519 public key"
        ) from error


def seal(plaintext: bytes, app_id: str) -> str:
    """Encrypts for one recipient, in the form that every SDK reads.

    Raises:
        EnSyncValidationError: The app id is not one.
    """
    nonce, ciphertext, ephemeral = _boxed(plaintext, _recipient(app_id)[1])
    return encode_base64_text(
        b'{"nonce":"%b","ciphertext":"%b","ephemeralPublicKey":"%b"}'
        % (nonce, ciphertext, ephemeral)
    )


def seal_hybrid(plaintext: bytes, app_ids: Sequence[str]) -> str:
    """Encrypts once for several recipients, in the form that Node and Go read.

    Raises:
        EnSyncValidationError: An app id is not one, or there is none.
    """
    if not app_ids:
        raise EnSyncValidationError("a hybrid envelope needs at least one recipient")
    curve_keys = {app_id: _recipient(app_id)[1] for app_id in app_ids}
    message_key = random_bytes(KEY_SIZE)
    nonce = random_bytes(NONCE_SIZE)
    ciphertext = sodium.crypto_secretbox_easy(plaintext, nonce, message_key)
    keys = b",".join(_hybrid_entry(message_key, *recipient) for recipient in curve_keys.items())
    return encode_base64_text(
        b'{"type":"hybrid","payload":{"nonce":"%b","ciphertext":"%b"},"keys":{%b}}'
        % (encode_base64(nonce), encode_base64(ciphertext), keys)
    )


def _hybrid_entry(message_key: bytes, app_id: str, curve_key: bytes) -> bytes:
    nonce, boxed_key, ephemeral = _boxed(message_key, curve_key)
    # Node reads the boxed key as "encryptedKey", Go as "ciphertext".
    return (
        b'"%b":{"nonce":"%b","encryptedKey":"%b","ciphertext":"%b","ephemeralPublicKey":"%b"}'
        % (app_id.encode("ascii"), nonce, boxed_key, boxed_key, ephemeral)
    )


def _boxed(plaintext: bytes, curve_key: bytes) -> tuple[bytes, bytes, bytes]:
    """Nonce, box and ephemeral public key, each as base64."""
    public, secret = sodium.crypto_box_keypair()
    nonce = random_bytes(NONCE_SIZE)
    box = sodium.crypto_box_easy(plaintext, nonce, curve_key, secret)
    return encode_base64(nonce), encode_base64(box), encode_base64(public)


def open_envelope(payload: str, key: SecretKey) -> bytes:
    """Decrypts a payload of any of the SDKs, and gives all of the plain text or none.

    Raises:
        EnSyncInvalidEventError: It is no envelope, was not made for this key, or was
            changed on its way.
    """
    envelope = _parse_envelope(payload)
    try:
        if envelope.get("type") == "hybrid":
            return _open_hybrid(envelope, key)
        return _open_sealed(envelope, "ciphertext", key)
    except (CryptoError, KeyError, TypeError, ValueError) as error:
        raise _unreadable("it was not sealed for this key, or was changed on its way") from error


def _parse_envelope(payload: str) -> dict[str, Any]:
    try:
        envelope = as_object(decode_json(decode_base64(payload).decode()))
    except ValueError as error:
        raise _unreadable("it is not base64 of JSON") from error
    if envelope is None:
        raise _unreadable("it is not an envelope")
    return envelope


def _open_sealed(envelope: dict[str, Any], field: str, key: SecretKey) -> bytes:
    return key.open_box(
        decode_base64(envelope[field]),
        decode_base64(envelope["nonce"]),
        decode_base64(envelope["ephemeralPublicKey"]),
    )


def _open_hybrid(envelope: dict[str, Any], key: SecretKey) -> bytes:
    content = envelope["payload"]
    ciphertext, nonce = decode_base64(content["ciphertext"]), decode_base64(content["nonce"])
    message_key = _find_message_key(envelope["keys"], key)
    return sodium.crypto_secretbox_open_easy(ciphertext, nonce, message_key)


def _find_message_key(keys: object, key: SecretKey) -> bytes:
    entries = as_object(keys) or {}
    for entry in _candidates(entries, key.app_id):
        try:
            field = "encryptedKey" if "encryptedKey" in entry else "ciphertext"
            return _message_key(_open_sealed(entry, field, key))
        except (CryptoError, KeyError, TypeError, ValueError):
            continue  # an entry for somebody else, or a damaged one
    raise ValueError("no entry opens with this key")


def _candidates(entries: dict[str, Any], app_id: str) -> Iterator[dict[str, Any]]:
    """The entries worth trying: those under the own id first, then the others."""
    own_names = (app_id, decode_base64(app_id).hex())
    yield from (entries[name] for name in own_names if name in entries)
    others = [entry for name, entry in entries.items() if name not in own_names]
    yield from others[:MAX_TRIED_KEYS]


def _message_key(plain: bytes) -> bytes:
    """The key inside a box: raw from most SDKs, base64 text from one."""
    message_key = plain if len(plain) == KEY_SIZE else decode_base64(plain)
    if len(message_key) != KEY_SIZE:
        raise ValueError("the box does not hold a message key")
    return message_key


def _unreadable(reason: str) -> EnSyncInvalidEventError:
    return EnSyncInvalidEventError(
        f"the payload can't be decrypted: {reason}", code="undecryptable"
    )
