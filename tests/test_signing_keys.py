"""The keys of a secret: those of the official library, with the same string on both sides, and those of the text."""

import base64
from datetime import UTC, datetime

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from standardwebhooks import Webhook

from app.signing_keys import is_random, is_signed, secrets_of, signatures, signing_keys
from tests.cases import each_case

#: What `openssl rand` and others print, made up for these tests.
SECRETS = [
    "q8Wm0bV2n1xTtq3c4R5y6U7i8O9p0aSdFgHjKlZxCvB=",  # openssl rand -base64 32
    "q8Wm0bV2n1xTtq3c4R5y6U7i8O9p0aSdFgHjKlZxCvB",  # the same without its padding
    "c29tZSByYW5kb20ga2V5IG9mIDI0IQ==",  # openssl rand -base64 22
    "9b7c6f1e5d4a3b2c1d0e9f8a7b6c5d4e3f2a1b0c9d8e7f6a5b4c3d2e1f0a9b8c",  # openssl rand -hex 32
    "pT4/xN+0aLq8Rw2ZyKvE6sHd1mJbUcGf",
    "Zm9v",  # short, and base64
    "k" * 32,
    "k3Wq_8Zt-Vb1XyR5nM2cL7aS9dF0gH4j",  # secrets.token_urlsafe: the library skips what is not base64
]


def secret_keys(secret: str) -> list[bytes]:
    return [key for key in signing_keys(secret) if isinstance(key, bytes)]


@each_case("secret", SECRETS)
@each_case("ours", ["", "whsec_"])
@each_case("theirs", ["", "whsec_"])
def test_what_the_library_signs_with_the_same_secret_has_a_key_here(secret: str, ours: str, theirs: str) -> None:
    if ours and set(secret) & set("_-"):
        return  # refused: after whsec_ nothing but base64 was meant
    at = datetime.now(UTC)
    signed = Webhook(theirs + secret).sign("msg_1", at, "{}")
    assert signed in [Webhook(key).sign("msg_1", at, "{}") for key in secret_keys(ours + secret)]


@each_case("secret", [*SECRETS, "of five letters", "correct-horse-battery", "pässword", "a", "abcde", "!!!!!!!!"])
def test_what_is_signed_with_the_bytes_of_the_text_has_a_key_too(secret: str) -> None:
    assert secret.encode() in signing_keys(secret)
    assert b"" not in signing_keys(secret)


@each_case("secret", ["!!!!-----aGk", "€" * 40 + "abcd", "-" * 60, "of a few words", "abcde"])
def test_a_text_of_which_base64_leaves_little_stands_for_itself_alone(secret: str) -> None:
    """Otherwise its key could be guessed."""
    assert signing_keys(secret) == [secret.encode()]


@each_case(
    "secret",
    ["", "whsec_", "whsec_!!!", "whsec_abcde", "whsec_a b", "whsec_k3Wq_8Zt-Vb1XyR5", "whsec_====", "whsec_ä"],
)
def test_what_stands_for_no_key_is_refused_with_a_way_out(secret: str) -> None:
    with pytest.raises(ValueError, match="openssl rand -base64 32"):
        signing_keys(secret)


@each_case("key", [bytes(range(24)), bytes(range(100, 132)), b"\xff" * 64])
def test_a_secret_with_its_mark_has_the_one_key(key: bytes) -> None:
    assert signing_keys(f"whsec_{base64.b64encode(key).decode()}") == [key]


@each_case("secret", SECRETS[:4])
def test_what_is_advised_is_random(secret: str) -> None:
    assert is_random(secret)
    assert is_random(f"whsec_{secret}")


@each_case(
    ("setting", "secrets"),
    [
        ("one", ["one"]),
        ("new,old", ["new", "old"]),
        (" new , old ", ["new", "old"]),
        ("new,", ["new"]),
        (", ,", []),
        ("", []),
    ],
)
def test_two_secrets_have_a_comma_between_them(setting: str, secrets: list[str]) -> None:
    assert secrets_of(setting) == secrets


@each_case("setting", ["open sesame", "new old", "new,open sesame", "a\tb", "a\nb", "a\u00a0b"])
def test_a_space_does_not_divide_a_secret(setting: str) -> None:
    with pytest.raises(ValueError, match="separate them by a comma") as refused:
        secrets_of(setting)
    assert setting not in str(refused.value)


PRIVATE = Ed25519PrivateKey.from_private_bytes(b"k" * 32)
PUBLIC = "whpk_" + base64.b64encode(PRIVATE.public_key().public_bytes_raw()).decode()


def by_private_key(signed: bytes) -> str:
    return "v1a," + base64.b64encode(PRIVATE.sign(signed)).decode()


@each_case(
    ("secret", "shown", "fits"),
    [
        (PUBLIC, [by_private_key(b"body")], True),
        (PUBLIC, ["v1,AAAA", "v1a,AAAA", by_private_key(b"body")], True),
        (PUBLIC, [by_private_key(b"another")], False),
        (PUBLIC, [by_private_key(b"body").replace("v1a,", "v1,")], False),
        # A public key is known to all, so nothing that is made with it as a secret counts.
        (PUBLIC, signatures([PUBLIC.encode(), base64.b64decode(PUBLIC[5:])], b"body"), False),
        ("k" * 32, [by_private_key(b"body")], False),
        ("k" * 32, signatures([b"k" * 32], b"body"), True),
        (PUBLIC, [], False),
        (PUBLIC, ["v1a", "v1a,", "v1a,!", "", ",", "v1a,\u00e9"], False),
    ],
)
def test_a_public_key_verifies_what_its_private_key_signed(secret: str, shown: list[str], fits: bool) -> None:
    assert is_signed(signing_keys(secret), b"body", shown) is fits


@each_case("secret", ["whpk_", "whpk_AAAA", "whpk_" + "!" * 44, "whsk_" + "A" * 44])
def test_what_is_no_public_key_is_refused_and_not_shown(secret: str) -> None:
    with pytest.raises(ValueError, match="whpk_") as refused:
        signing_keys(secret)
    assert secret not in str(refused.value).replace("whpk_ a public key", "")


def test_a_public_key_needs_not_be_secret() -> None:
    assert is_random(PUBLIC)
