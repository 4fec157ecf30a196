"""Fetches files from untrusted addresses, without requests into our own network (`public_network`).

It is one request by TLS to port 443 without credentials, and no redirect is followed.
"""

import asyncio
import re
import ssl
from collections.abc import Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from urllib.parse import unquote, urlsplit

import httpcore
import httpx

from app.providers.base import FileUnavailable, PermanentFailure, TemporaryFailure
from app.providers.toolbox.public_network import Forbidden, PublicNetwork, Resolve, resolve, target_of

_MEDIA_TYPE = re.compile(r"[a-z0-9!#$&^_.+-]{1,64}/[a-z0-9!#$&^_.+-]{1,64}")
_UNFIT_FOR_A_NAME = re.compile(r'[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069/\\:"<>|?*\ud800-\udfff]')
_LONGEST_NAME = 150
_TEMPORARY = {HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_EARLY, HTTPStatus.TOO_MANY_REQUESTS}


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A fetched file, under a name without a path."""

    name: str
    content_type: str
    content: bytes = field(repr=False)


class _Refused(PermanentFailure):
    """A server refuses the file with a status."""

    def __init__(self, detail: str, status: int) -> None:
        super().__init__(detail)
        self.status = status


class RemoteFiles:
    """Fetches files: those of one message together within `timeout_seconds` and `most_bytes`.

    `resolve`, `network` and `ssl_context` are replaced in tests.
    """

    def __init__(
        self,
        *,
        timeout_seconds: float,
        most_bytes: int,
        resolve: Resolve = resolve,
        network: httpcore.AsyncNetworkBackend | None = None,
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        self._timeout_seconds = timeout_seconds
        self._most_bytes = most_bytes
        self._network = PublicNetwork(resolve, network or httpcore.AnyIOBackend())
        self._ssl_context = ssl_context

    async def fetch(self, urls: Sequence[str], *, within_seconds: float | None = None) -> list[RemoteFile]:
        """Fetch files, in the order of `urls`; `within_seconds` shortens the timeout.

        The texts of errors have the number of an attachment, and nothing of its address.

        Raises:
            PermanentFailure: an address must not be fetched or has no file, or the files are too large.
            TemporaryFailure: a server can't be reached, has an error, or takes too long.
        """
        if not urls:
            return []
        seconds = self._timeout_seconds if within_seconds is None else min(self._timeout_seconds, within_seconds)
        told = f"{self._most_bytes} bytes are sent along at most"
        files: list[RemoteFile] = []
        try:
            async with asyncio.timeout(seconds):
                await self._prepare()
                for number, url in enumerate(urls, start=1):
                    left = self._most_bytes - sum(len(file.content) for file in files)
                    files.append(await self._file(url, f"Attachment {number}", left, told=told))
        except TimeoutError:
            detail = f"Attachment {len(files) + 1} did not come within {max(seconds, 0):.3g} seconds."
            raise TemporaryFailure(detail) from None
        return files

    async def fetch_one(self, url: str, *, most_bytes: int) -> RemoteFile:
        """Fetch a file that a vendor's answer names. `timeout_seconds` does not hold for it.

        Raises:
            FileUnavailable: its address must not be fetched, it is gone or too large.
            PermanentFailure: a server says that it has no such file, which may be too early.
            TemporaryFailure: a server can't be reached, or has an error.
        """
        await self._prepare()
        try:
            return await self._file(url, "The file", most_bytes, told=f"{most_bytes} bytes are taken at most")
        except _Refused as error:
            if error.status == HTTPStatus.GONE:
                raise FileUnavailable("The vendor has it no more.", is_gone=True) from None
            raise
        except PermanentFailure as error:
            raise FileUnavailable(str(error)) from None

    async def _prepare(self) -> None:
        if self._ssl_context is None:  # made once: reading the root certificates takes 20 ms
            self._ssl_context = await asyncio.to_thread(httpx.create_ssl_context, trust_env=False)

    async def _file(self, url: str, which: str, most: int, *, told: str) -> RemoteFile:
        target = _target(url, which)
        connection = httpcore.AsyncHTTPConnection(
            target.origin, ssl_context=self._ssl_context, network_backend=self._network
        )
        headers = [(b"Host", target.host), (b"Accept-Encoding", b"identity"), (b"Connection", b"close")]
        try:
            async with connection, connection.stream("GET", target, headers=headers) as response:
                _check(response, which)
                content = bytearray()
                async for piece in response.aiter_stream():
                    content += piece
                    if len(content) > most:
                        raise PermanentFailure(f"{which} is too large: {told}.")
        except Forbidden as error:
            raise PermanentFailure(f"{which} is not fetched: {error}") from None
        except (OSError, httpcore.NetworkError, httpcore.TimeoutException, httpcore.ProtocolError) as error:
            raise TemporaryFailure(f"{which} can't be fetched just now: {type(error).__name__}.") from error
        return RemoteFile(_name(url), _content_type(response.headers), bytes(content))


def _target(url: str, which: str) -> httpcore.URL:
    """The request's target. Raises `PermanentFailure` for anything but a plain https address."""
    try:
        target = target_of(url, schemes={"https"})
        if target.port != 443:
            raise ValueError
    except ValueError:
        raise PermanentFailure(f"{which} is not fetched: its address is not a plain one of https.") from None
    return target


def _check(response: httpcore.Response, which: str) -> None:
    status = response.status
    if status == HTTPStatus.OK:
        encodings = [value.lower() for name, value in response.headers if name.lower() == b"content-encoding"]
        if encodings not in ([], [b"identity"]):  # we did not ask for it, and its size is unknown
            raise PermanentFailure(f"{which} came compressed.")
        return
    if status >= 500 or status in _TEMPORARY:
        raise TemporaryFailure(f"{which} can't be fetched just now: {status}.")
    raise _Refused(f"{which} can't be fetched: {status}.", status)


def _content_type(headers: Sequence[tuple[bytes, bytes]]) -> str:
    written = next((value for name, value in headers if name.lower() == b"content-type"), b"")
    return media_type(written.decode("latin-1"))


def media_type(written: str) -> str:
    """The media type in a header; `application/octet-stream` for one that a mail can't carry."""
    found = written.partition(";")[0].strip().lower()
    usable = _MEDIA_TYPE.fullmatch(found) and not found.startswith(("multipart/", "message/"))
    return found if usable else "application/octet-stream"


def _name(url: str) -> str:
    last = unquote(urlsplit(url).path).rpartition("/")[2]
    return _UNFIT_FOR_A_NAME.sub("", last).strip(" .")[-_LONGEST_NAME:] or "attachment"
