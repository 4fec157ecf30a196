"""Keyed hashes of addresses, by which a refusal outlives the erasure of the person who made it.

The hash is an HMAC by a secret outside the database, so that a copy of the database does not tell whose it is. During
a rotation there are several secrets: the first one makes hashes, and all of them find one.
"""

import hashlib
import hmac
from base64 import urlsafe_b64encode
from collections.abc import Sequence

from app.domain import AddressType

_PREFIX = "hmac:"
#: Begins the address of a group, which names its members.
GROUP = f"{AddressType.GROUP}:"


class AddressHashes:
    """Hashes addresses by the secrets, the newest first."""

    def __init__(self, secrets: Sequence[str]) -> None:
        self._keys = [(_name_of(secret), secret.encode()) for secret in secrets]

    @property
    def names(self) -> list[str]:
        """The beginnings of the hashes by each secret."""
        return [_PREFIX + name for name, _ in self._keys]

    def known_as(self, tenant_id: int, address: str) -> list[str]:
        """All names under which refusals of an address may be found: those of each member, if it is a group's.

        A name is an address, or one of its hashes, if the person was erased.
        """
        is_group = address.startswith(GROUP)
        members = address.removeprefix(GROUP).split(",") if is_group else [address]
        return [name for member in members for name in (member, *self.of(tenant_id, member))]

    def of(self, tenant_id: int, address: str) -> list[str]:
        """The hashes of a normalised address by each secret, such as `hmac:3xK9bw:…`."""
        hashed = f"{tenant_id}:{address}".encode()
        return [f"{_PREFIX}{name}:{_text(hmac.digest(key, hashed, hashlib.sha256))}" for name, key in self._keys]


def _name_of(secret: str) -> str:
    """Tells the secrets apart in the database, and tells nothing else of them."""
    return _text(hmac.digest(secret.encode(), b"name", hashlib.sha256))[:6]


def _text(digest: bytes) -> str:
    return urlsafe_b64encode(digest).decode().rstrip("=")
