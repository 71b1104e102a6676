"""Keys and envelopes (PROTOCOL 5), against what the other SDKs wrote."""

from __future__ import annotations

import copy
import json
import pickle
from base64 import b64decode, b64encode
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nacl import bindings as sodium
from nacl.utils import random as random_bytes

from ensync.crypto import SecretKey, open_envelope, parse_app_id, seal, seal_hybrid
from ensync.errors import EnSyncInvalidEventError, EnSyncValidationError

VECTORS = Path(__file__).resolve().parents[1] / "data" / "vectors"
SDKS = ["python-sdk", "node-sdk"]

ALICE = SecretKey(b"\x01" * 32)
BOB = SecretKey(b"\x02" * 32)
EVE = SecretKey(b"\x03" * 32)

Envelope = dict[str, Any]


def vectors(sdk: str) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((VECTORS / f"{sdk}.json").read_text())
    return loaded


def text(raw: bytes) -> str:
    return b64encode(raw).decode()


def envelope_of(payload: str) -> Envelope:
    envelope: Envelope = json.loads(b64decode(payload))
    return envelope


def payload_of(envelope: object) -> str:
    return text(json.dumps(envelope).encode())


# What other SDKs wrote


@pytest.mark.parametrize("sdk", SDKS)
@pytest.mark.parametrize("form", ["secretKey", "seed"])
@pytest.mark.parametrize("owner", ["alice", "bob"])
def test_a_key_of_either_length_gives_the_app_id(sdk: str, form: str, owner: str) -> None:
    keys = vectors(sdk)[owner]
    key = SecretKey.parse(keys[form])
    assert key.app_id == keys["publicKey"]
    assert key.reveal() == keys["secretKey"]


@pytest.mark.parametrize("sdk", SDKS)
@pytest.mark.parametrize("form", ["secretKey", "seed"])
def test_a_sealed_payload_of_another_sdk_opens(sdk: str, form: str) -> None:
    vector = vectors(sdk)
    opened = open_envelope(vector["single"], SecretKey.parse(vector["alice"][form]))
    assert opened.decode() == vector["plaintext"]
    assert json.loads(opened) == vector["payload"]


@pytest.mark.parametrize("sdk", SDKS)
@pytest.mark.parametrize("owner", ["alice", "bob"])
def test_a_hybrid_payload_of_another_sdk_opens(sdk: str, owner: str) -> None:
    vector = vectors(sdk)
    key = SecretKey.parse(vector[owner]["secretKey"])
    assert open_envelope(vector["hybrid"], key).decode() == vector["plaintext"]


@pytest.mark.parametrize("sdk", SDKS)
def test_what_was_not_sealed_for_a_key_does_not_open(sdk: str) -> None:
    vector = vectors(sdk)
    for payload, key in [(vector["single"], BOB), (vector["single"], EVE), (vector["hybrid"], EVE)]:
        with pytest.raises(EnSyncInvalidEventError, match="not sealed for this key"):
            open_envelope(payload, key)


# Every dialect of the hybrid form


def boxed(plain: bytes, recipient: SecretKey) -> tuple[str, str, str]:
    public, secret = sodium.crypto_box_keypair()
    nonce = random_bytes(24)
    curve = sodium.crypto_sign_ed25519_pk_to_curve25519(b64decode(recipient.app_id))
    return text(nonce), text(sodium.crypto_box(plain, nonce, curve, secret)), text(public)


def hybrid(
    plain: bytes, recipients: dict[str, SecretKey], field: str, key_form: Callable[[bytes], bytes]
) -> Envelope:
    """A hybrid envelope whose ids, field names and key form are chosen freely."""
    message_key, nonce = random_bytes(32), random_bytes(24)
    keys: Envelope = {}
    for name, recipient in recipients.items():
        box_nonce, box, public = boxed(key_form(message_key), recipient)
        keys[name] = {"nonce": box_nonce, field: box, "ephemeralPublicKey": public}
    ciphertext = sodium.crypto_secretbox(plain, nonce, message_key)
    content = {"nonce": text(nonce), "ciphertext": text(ciphertext)}
    return {"type": "hybrid", "payload": content, "keys": keys}


def hex_id(key: SecretKey) -> str:
    return b64decode(key.app_id).hex()


IDS: dict[str, Callable[[SecretKey], str]] = {
    "app id": lambda key: key.app_id,
    "hex": hex_id,
    "HEX": lambda key: hex_id(key).upper(),
    "any": lambda key: f"key of {key.app_id[:4]}",
}
FIELDS = ["encryptedKey", "ciphertext"]
KEY_FORMS: dict[str, Callable[[bytes], bytes]] = {"raw": bytes, "base64": b64encode}


@pytest.mark.parametrize("form", KEY_FORMS)
@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize("name", IDS)
@pytest.mark.parametrize("reader", [ALICE, BOB])
def test_every_hybrid_dialect_opens(name: str, field: str, form: str, reader: SecretKey) -> None:
    recipients = {IDS[name](key): key for key in (ALICE, BOB)}
    payload = payload_of(hybrid(b'{"a":1}', recipients, field, KEY_FORMS[form]))
    assert open_envelope(payload, reader) == b'{"a":1}'


def test_an_id_is_not_trusted() -> None:
    swapped = hybrid(b"x", {ALICE.app_id: BOB, BOB.app_id: ALICE}, "ciphertext", bytes)
    assert open_envelope(payload_of(swapped), ALICE) == b"x"


NO_ENTRIES: list[object] = [
    None,
    1,
    "text",
    [],
    {},
    {"nonce": "!"},
    {"encryptedKey": None},
    {"ciphertext": ""},
]


@pytest.mark.parametrize("damaged", NO_ENTRIES)
@pytest.mark.parametrize("name", ["other", ALICE.app_id])
def test_a_damaged_entry_of_another_name_does_no_harm(name: str, damaged: object) -> None:
    envelope = hybrid(b"x", {"mine": ALICE}, "ciphertext", bytes)
    envelope["keys"] = {name: damaged, **envelope["keys"]}
    assert open_envelope(payload_of(envelope), ALICE) == b"x"


@pytest.mark.parametrize("content", [b"", b"no base64", b64encode(b"too short"), b"x" * 33])
def test_a_box_without_a_message_key_is_passed_over(content: bytes) -> None:
    envelope = hybrid(b"x", {"mine": ALICE}, "ciphertext", bytes)
    decoy = hybrid(b"x", {"decoy": ALICE}, "ciphertext", lambda _: content)
    envelope["keys"] = {**decoy["keys"], **envelope["keys"]}
    assert open_envelope(payload_of(envelope), ALICE) == b"x"


def test_the_tried_entries_are_bounded() -> None:
    entry = hybrid(b"", {"": EVE}, "ciphertext", bytes)["keys"][""]
    envelope = hybrid(b"x", {"mine": ALICE, hex_id(BOB): BOB}, "ciphertext", bytes)
    envelope["keys"] = {**{str(i): entry for i in range(1000)}, **envelope["keys"]}
    assert open_envelope(payload_of(envelope), BOB) == b"x"  # found by its id
    with pytest.raises(EnSyncInvalidEventError):
        open_envelope(payload_of(envelope), ALICE)


# What we write


@given(st.binary(max_size=2000))
def test_what_is_sealed_opens_for_its_recipient_alone(plain: bytes) -> None:
    payload = seal(plain, ALICE.app_id)
    assert open_envelope(payload, ALICE) == plain
    with pytest.raises(EnSyncInvalidEventError):
        open_envelope(payload, BOB)


def test_two_hundred_random_keys() -> None:
    for number in range(200):
        key = SecretKey.generate()
        plain = b"%d" % number
        again = SecretKey.parse(key.reveal())
        assert again.app_id == key.app_id
        assert open_envelope(seal(plain, key.app_id), again) == plain


def test_a_sealed_envelope_has_the_form_that_all_read() -> None:
    envelope = envelope_of(seal(b"text", ALICE.app_id))
    assert list(envelope) == ["nonce", "ciphertext", "ephemeralPublicKey"]
    lengths = {name: len(b64decode(value, validate=True)) for name, value in envelope.items()}
    assert lengths == {"nonce": 24, "ciphertext": 16 + 4, "ephemeralPublicKey": 32}


def test_no_two_envelopes_are_alike() -> None:
    first, second = (envelope_of(seal(b"text", ALICE.app_id)) for _ in range(2))
    assert not set(first.values()) & set(second.values())


@pytest.mark.parametrize("count", [1, 2, 7])
def test_a_hybrid_envelope_opens_for_each_recipient_alone(count: int) -> None:
    keys = [SecretKey.generate() for _ in range(count)]
    payload = seal_hybrid(b"text", [key.app_id for key in keys])
    assert [open_envelope(payload, key) for key in keys] == [b"text"] * count
    with pytest.raises(EnSyncInvalidEventError):
        open_envelope(payload, EVE)


@pytest.mark.parametrize("field", FIELDS)
def test_a_hybrid_envelope_is_read_by_node_and_by_go(field: str) -> None:
    envelope = envelope_of(seal_hybrid(b"text", [ALICE.app_id, BOB.app_id]))
    assert list(envelope["keys"]) == [ALICE.app_id, BOB.app_id]
    for entry in envelope["keys"].values():
        entry.pop(next(name for name in FIELDS if name != field))
        assert set(entry) == {"nonce", field, "ephemeralPublicKey"}
    assert open_envelope(payload_of(envelope), BOB) == b"text"


def test_a_recipient_named_twice_has_one_entry() -> None:
    envelope = envelope_of(seal_hybrid(b"text", [ALICE.app_id, ALICE.app_id]))
    assert list(envelope["keys"]) == [ALICE.app_id]


def test_a_hybrid_envelope_needs_a_recipient() -> None:
    with pytest.raises(EnSyncValidationError, match="at least one recipient"):
        seal_hybrid(b"text", [])


# What does not open is never half-read


def changed(value: str) -> str:
    raw = bytearray(b64decode(value))
    raw[len(raw) // 2] ^= 1
    return text(bytes(raw))


SEALED = envelope_of(seal(b'{"secret":"hunter2"}', ALICE.app_id))
HYBRID = envelope_of(seal_hybrid(b'{"secret":"hunter2"}', [ALICE.app_id]))
ENTRY = HYBRID["keys"][ALICE.app_id]
CONTENT = HYBRID["payload"]

UNREADABLE: dict[str, object] = {
    **{f"changed {name}": {**SEALED, name: changed(SEALED[name])} for name in SEALED},
    **{f"no {name}": {k: SEALED[k] for k in SEALED if k != name} for name in SEALED},
    **{f"null {name}": {**SEALED, name: None} for name in SEALED},
    **{f"empty {name}": {**SEALED, name: ""} for name in SEALED},
    **{f"not base64 {name}": {**SEALED, name: "é!"} for name in SEALED},
    "public key of small order": {**SEALED, "ephemeralPublicKey": text(b"\0" * 32)},
    "hybrid without keys": {**HYBRID, "keys": {}},
    "hybrid with a list of keys": {**HYBRID, "keys": [ENTRY]},
    "hybrid with null keys": {**HYBRID, "keys": None},
    "hybrid without payload": {"type": "hybrid", "keys": HYBRID["keys"]},
    "hybrid with text payload": {**HYBRID, "payload": "text"},
    **{
        f"hybrid with changed {name}": {**HYBRID, "payload": {**CONTENT, name: changed(value)}}
        for name, value in CONTENT.items()
    },
    "hybrid with changed key": {
        **HYBRID,
        "keys": {"": {**ENTRY, "encryptedKey": changed(ENTRY["encryptedKey"])}},
    },
    "another type": {"type": "other", "payload": {}},
    "empty": {},
    "list": [],
    "text": "text",
    "null": None,
}


@pytest.mark.parametrize("name", UNREADABLE)
def test_what_is_no_intact_envelope_is_refused(name: str) -> None:
    with pytest.raises(
        EnSyncInvalidEventError, match=r"^the payload can't be decrypted: "
    ) as caught:
        open_envelope(payload_of(UNREADABLE[name]), ALICE)
    assert caught.value.code == "undecryptable"
    assert "hunter2" not in str(caught.value)
    assert ALICE.reveal()[:12] not in str(caught.value)


GARBAGE = ["", "!", "e30", "e30=\n", "é", text(b"\xff\xfe"), text(b"{"), text(b"[" * 100_000)]


@pytest.mark.parametrize("payload", GARBAGE)
def test_garbage_is_refused(payload: str) -> None:
    with pytest.raises(EnSyncInvalidEventError, match="not base64 of JSON"):
        open_envelope(payload, ALICE)


ENVELOPE_KEYS = st.sampled_from(
    ["type", "payload", "keys", "nonce", "ciphertext", "encryptedKey", "ephemeralPublicKey"]
)
JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(ENVELOPE_KEYS, inner, max_size=5),
    max_leaves=8,
)


@given(
    JSON_VALUES
    | st.fixed_dictionaries(
        {"type": st.just("hybrid")},
        optional={
            "payload": JSON_VALUES,
            "keys": JSON_VALUES,
        },
    )
)
def test_any_other_json_is_refused_with_the_one_error(value: object) -> None:
    with pytest.raises(EnSyncInvalidEventError):
        open_envelope(payload_of(value), ALICE)


@given(st.data())
def test_any_changed_byte_is_noticed(data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(sorted(SEALED)))
    raw = bytearray(b64decode(SEALED[name]))
    # The top bit of a Curve25519 key is not part of it.
    last = len(raw) - (2 if name == "ephemeralPublicKey" else 1)
    raw[data.draw(st.integers(0, last))] ^= data.draw(st.integers(1, 255))
    with pytest.raises(EnSyncInvalidEventError):
        open_envelope(payload_of({**SEALED, name: text(bytes(raw))}), ALICE)


# Keys that are none


BAD_SECRETS = [
    (None, "must be a str"),
    (b"x" * 64, "must be a str"),
    ("", "holds 0 bytes"),
    (text(b"\1" * 31), "holds 31 bytes"),
    (text(b"\1" * 33), "holds 33 bytes"),
    (text(b"\1" * 63), "holds 63 bytes"),
    (text(b"\1" * 96), "holds 96 bytes"),
    (text(b"\1" * 32)[:-1], "not base64"),
    (text(b"\1" * 32) + "\n", "not base64"),
    ("*" * 44, "not base64"),
    ("é" * 44, "not base64"),
    ("-_" * 22, "not base64"),
    (text(b"\1" * 64), "does not belong to its seed"),
    (text(b"\1" * 32 + b64decode(BOB.app_id)), "does not belong to its seed"),
]


@pytest.mark.parametrize(("secret", "problem"), BAD_SECRETS)
def test_a_secret_key_that_is_none_is_refused(secret: Any, problem: str) -> None:
    with pytest.raises(EnSyncValidationError, match=problem) as caught:
        SecretKey.parse(secret)
    assert "app_secret_key" in str(caught.value)
    assert not secret or str(secret) not in str(caught.value)
    assert caught.value.__cause__ is None


def test_a_secret_key_does_not_spread() -> None:
    for shown in (repr(ALICE), str(ALICE), f"{ALICE}"):
        assert ALICE.app_id in shown
        assert ALICE.reveal()[:43] not in shown
    for spread in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="can't be pickled or copied"):
            spread(ALICE)


USES_OF_AN_APP_ID: dict[str, Callable[[str], object]] = {
    "parse": parse_app_id,
    "seal": lambda app_id: seal(b"", app_id),
    "hybrid": lambda app_id: seal_hybrid(b"", (ALICE.app_id, app_id)),
}
BAD_APP_IDS = [
    (None, "an app id is"),
    (b"x" * 44, "an app id is .*, not bytes"),
    (["x"], "an app id is .*, not list"),
    ("", "0 characters"),
    (ALICE.app_id[:-1], "43 characters"),
    (ALICE.app_id + "\n", "45 characters"),
    (" " + ALICE.app_id, "45 characters"),
    (hex_id(ALICE), "64 characters"),
    (ALICE.reveal(), "88 characters"),
    # The same 32 bytes, but for bits that base64 leaves unused: one app has one id.
    (ALICE.app_id[:-2] + "x=", "44 characters"),
    (text(b"\0" * 32), "not a usable"),
    (text(b"\1" + b"\0" * 31), "not a usable"),
    (text(b"\xff" * 32), "not a usable"),
    (text(b"\2" + b"\0" * 31), "not a usable"),
]


@pytest.mark.parametrize(("app_id", "problem"), BAD_APP_IDS)
@pytest.mark.parametrize("use", ["parse", "seal", "hybrid"])
def test_an_app_id_that_is_none_is_refused(app_id: Any, problem: str, use: str) -> None:
    with pytest.raises(EnSyncValidationError, match=problem) as caught:
        USES_OF_AN_APP_ID[use](app_id)
    assert ALICE.reveal()[:20] not in str(caught.value)


def test_an_app_id_gives_the_public_key() -> None:
    assert parse_app_id(ALICE.app_id) == b64decode(ALICE.app_id)
