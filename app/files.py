"""The words of files: their states, our paths among the attachments of a message, and signed addresses for vendors.

A vendor that fetches a file has no key. Its address holds the tenant and an end, and a signature of both and of the
file's id (HMAC-SHA256).
"""

import hashlib
import hmac
import re
import time
from base64 import urlsafe_b64encode
from collections.abc import Sequence
from enum import StrEnum
from urllib.parse import parse_qsl, quote

#: The longest name has 100 characters, each of up to four bytes.
FILE_PATH = r"/api/files/[0-9a-f]{64}/[A-Za-z0-9%._~-]{1,1200}"
_FILE_PATH = re.compile(FILE_PATH)
_SERVED = re.compile(r"/api/files/([0-9a-f]{64})/[^/]+")
_PREFIX = "/api/files/"
_NUMBER = re.compile(r"[1-9][0-9]{0,17}", re.ASCII)
_ID_LENGTH = 64


#: Types of pictures that each browser shows, and in which it runs nothing.
PICTURES = frozenset({"image/gif", "image/jpeg", "image/png", "image/webp"})


class FileStatus(StrEnum):
    """The state of a file of a message."""

    PENDING = "pending"  #: the vendor keeps it, and it is still to be fetched.
    STORED = "stored"
    UNAVAILABLE = "unavailable"  #: it can't be had, and is not asked for any more.


def path_of(file_id: str, name: str) -> str:
    """The path of the API that serves a file."""
    return f"{_PREFIX}{file_id}/{quote(name, safe='')}"


def file_id_in(attachment: str) -> str | None:
    """The id of the file that an attachment names by our path; None for any other attachment."""
    is_ours = attachment.startswith(_PREFIX) and _FILE_PATH.fullmatch(attachment)
    return attachment[len(_PREFIX) : len(_PREFIX) + _ID_LENGTH] if is_ours else None


def file_ids_in(attachments: Sequence[str]) -> list[str]:
    """The ids of the files among attachments, each once, in order."""
    return list(dict.fromkeys(id for each in attachments if (id := file_id_in(each))))


class FileAddresses:
    """Signs addresses and verifies them. The first secret signs, and all verify.

    An address is valid for one to two times `hours`. Within that time it is the same for every attempt of a message,
    because a vendor may compare the requests of one key. `public_url` is None where no vendor can fetch a file.
    """

    def __init__(self, secrets: Sequence[str], public_url: str | None, *, hours: int) -> None:
        self._keys = [hmac.digest(secret.encode(), b"file addresses", hashlib.sha256) for secret in secrets]
        self._public_url = public_url and public_url.rstrip("/")
        self._seconds = hours * 3600

    def signed(self, tenant_id: int, path: str, *, now: float | None = None) -> str | None:
        """The address at which a vendor fetches the file of our `path`; None without a public URL."""
        file_id = file_id_in(path)
        if self._public_url is None or file_id is None:
            return None
        moment = time.time() if now is None else now
        expires = (int(moment // self._seconds) + 2) * self._seconds
        signature = _signature(self._keys[0], tenant_id, file_id, expires)
        return f"{self._public_url}{path}?expires={expires}&tenant={tenant_id}&signature={signature}"

    def tenant_of(self, path: str, query: bytes, *, now: float | None = None) -> int | None:
        """The tenant of a signed address; None where it is expired or not one of ours."""
        served = _SERVED.fullmatch(path)
        fields = parse_qsl(query.decode("latin-1"), keep_blank_values=True)
        found = dict(fields)
        if served is None or len(found) != len(fields) or found.keys() != {"expires", "tenant", "signature"}:
            return None
        if not _NUMBER.fullmatch(found["expires"]) or not _NUMBER.fullmatch(found["tenant"]):
            return None
        tenant_id, expires = int(found["tenant"]), int(found["expires"])
        shown = found["signature"].encode("utf-8", "replace")
        expected = [_signature(key, tenant_id, served[1], expires).encode() for key in self._keys]
        # All are compared, so that the time taken does not tell which fits.
        is_ours = sum(hmac.compare_digest(shown, each) for each in expected) > 0
        return tenant_id if is_ours and expires > (time.time() if now is None else now) else None


def _signature(key: bytes, tenant_id: int, file_id: str, expires: int) -> str:
    digest = hmac.digest(key, f"{tenant_id}\n{file_id}\n{expires}".encode(), hashlib.sha256)
    return urlsafe_b64encode(digest).decode().rstrip("=")
