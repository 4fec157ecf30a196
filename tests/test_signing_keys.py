"""The keys of a secret: those of the official library, with the same string on both sides, and those of the text."""

import base64
from datetime import UTC, datetime

import pytest
from standardwebhooks import Webhook

from app.signing_keys import is_random, signing_keys
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


@each_case("secret", SECRETS)
@each_case("ours", ["", "whsec_"])
@each_case("theirs", ["", "whsec_"])
def test_what_the_library_signs_with_the_same_secret_has_a_key_here(secret: str, ours: str, theirs: str) -> None:
    if ours and set(secret) & set("_-"):
        return  # refused: after whsec_ nothing but base64 was meant
    at = datetime.now(UTC)
    signed = Webhook(theirs + secret).sign("msg_1", at, "{}")
    assert signed in [Webhook(key).sign("msg_1", at, "{}") for key in signing_keys(ours + secret)]


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
