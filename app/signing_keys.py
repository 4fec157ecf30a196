"""The keys that a secret of Standard Webhooks stands for (github.com/standard-webhooks/standard-webhooks, libraries).

The libraries read a secret as base64, with `whsec_` before it or without. Senders without a library often sign with
the bytes of its text. A secret without `whsec_` therefore stands for both keys: neither is known without the secret.
"""

import base64
import re

_PREFIX = "whsec_"
_BASE64 = re.compile(r"[A-Za-z0-9+/]+={0,2}", re.ASCII)
#: Characters that are not base64 are skipped by the libraries. What is left must not be easy to guess.
_FEWEST_BYTES = 16
_SHORTEST_SECRET = 24  # characters; `openssl rand -base64 32` gives 44
#: Random, but public: the secret of the test vector that Standard Webhooks publishes.
_PUBLISHED = {"MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"}
_MADE_UP = re.compile(r"change|secret|example|password|placeholder|webhook|default", re.IGNORECASE)


def signing_keys(secret: str) -> list[bytes]:
    """The keys of one secret. Raises `ValueError` where it is empty, or not base64 after `whsec_`."""
    written = secret.removeprefix(_PREFIX)
    key = _decoded(written)
    is_base64 = _BASE64.fullmatch(written) is not None and key != b""
    if written != secret:
        if not is_base64:
            raise ValueError("after whsec_ a secret is base64; `openssl rand -base64 32` makes a good one")
        return [key]
    if not secret:
        raise ValueError("a secret can't be empty; `openssl rand -base64 32` makes a good one")
    return [key, secret.encode()] if is_base64 or len(key) >= _FEWEST_BYTES else [secret.encode()]


def is_random(secret: str) -> bool:
    """True for a secret that is long, not of an example, and not published."""
    written = secret.removeprefix(_PREFIX)
    is_varied = len(written) >= _SHORTEST_SECRET and len(set(written)) >= 8
    return is_varied and written not in _PUBLISHED and not _MADE_UP.search(written)


def _decoded(written: str) -> bytes:
    """The bytes that the libraries take for the key, with padding or without; empty where they fail."""
    try:
        return base64.b64decode(written + "==")
    except ValueError:
        return b""
