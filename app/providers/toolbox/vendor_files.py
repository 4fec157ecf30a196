"""Files that a vendor keeps: our credentials go to its own origins, and to no other host.

The address of a file comes in a callback, which may be forged. It is taken apart, compared, and put together again of
what was compared, so that no other reading of it leads elsewhere. One redirect is followed, without credentials and
only on the public internet (`remote_files`).
"""

import re
from collections.abc import Collection, Mapping
from http import HTTPStatus
from urllib.parse import urljoin

import httpcore
import httpx

from app.providers.base import FetchedFile, FileUnavailable, PermanentFailure, TemporaryFailure
from app.providers.toolbox.public_network import target_of
from app.providers.toolbox.remote_files import RemoteFiles, media_type

#: Scheme, host and port.
Origin = tuple[bytes, bytes, int | None]

_NOT_AT_THE_VENDOR = "It is not at the vendor."


def origin_of(url: str) -> Origin:
    """The origin of an address in the settings."""
    target = target_of(url, schemes={"http", "https"})
    return target.scheme, target.host, target.port


def vendors_target(
    reference: str, origins: Collection[Origin], path: re.Pattern[str], *, domain: str | None = None
) -> httpcore.URL | None:
    """The target of an address at one of these origins whose path, with its query, fits; None for any other.

    With a `domain` of the vendor's, hosts below it are its origins too, by https.
    """
    try:
        target = target_of(reference, schemes={"http", "https"})
    except ValueError:
        return None
    origin = target.scheme, target.host, target.port
    is_below = domain is not None and origin == (b"https", target.host, 443)
    is_at_the_vendor = origin in origins or (is_below and target.host.endswith(f".{domain}".encode()))
    return target if is_at_the_vendor and path.fullmatch(target.target.decode("ascii")) else None


class VendorFiles:
    """Fetches the files of one vendor; `remote` is replaced in tests."""

    def __init__(self, remote: RemoteFiles | None = None) -> None:
        self.remote = remote or RemoteFiles(timeout_seconds=60, most_bytes=0)

    async def fetch(
        self,
        client: httpx.AsyncClient,
        target: httpcore.URL | None,
        headers: Mapping[str, str],
        *,
        most_bytes: int,
        follows: bool = True,
    ) -> FetchedFile:
        """Fetch a file from the vendor's own origin, which gets `headers`. Raises what `fetch_file` raises."""
        if target is None:
            raise FileUnavailable(_NOT_AT_THE_VENDOR)
        scheme, host = target.scheme.decode(), target.host.decode()
        try:
            url = httpx.URL(scheme=scheme, host=host, port=target.port, raw_path=target.target)
            request = client.build_request("GET", url, headers={**headers, "Accept-Encoding": "identity"})
        except (httpx.InvalidURL, ValueError):  # a name that is no international one
            raise FileUnavailable(_NOT_AT_THE_VENDOR) from None
        try:
            response = await client.send(request, stream=True, follow_redirects=False)
            try:
                if not response.is_redirect:
                    return await _read(response, most_bytes)
                location = response.headers.get("location", "")
            finally:
                await response.aclose()
        except httpx.TransportError as error:
            raise TemporaryFailure(f"The vendor did not answer: {type(error).__name__}.") from error
        if not follows:
            raise TemporaryFailure("The vendor leads to another page instead of the file.")
        return await self.fetch_public(urljoin(str(url), location), most_bytes=most_bytes)

    async def fetch_public(self, url: str, *, most_bytes: int) -> FetchedFile:
        """Fetch a file without credentials, from the public internet. Raises what `fetch_file` raises."""
        file = await self.remote.fetch_one(url, most_bytes=most_bytes)
        return FetchedFile(file.content_type, file.content)


async def _read(response: httpx.Response, most_bytes: int) -> FetchedFile:
    status = response.status_code
    if status == HTTPStatus.GONE:
        raise FileUnavailable("The vendor has it no more.", is_gone=True)
    if status != HTTPStatus.OK:
        kind = TemporaryFailure if status >= 500 else PermanentFailure  # a refusal may come from a wrong setting
        raise kind(f"The vendor answered {status}.")
    if response.headers.get("content-encoding", "identity").lower() != "identity":  # we did not ask for it
        raise FileUnavailable("It came compressed.")
    content = bytearray()
    async for piece in response.aiter_bytes():
        content += piece
        if len(content) > most_bytes:
            raise FileUnavailable(f"It is too large: {most_bytes} bytes are taken at most.")
    return FetchedFile(media_type(response.headers.get("content-type", "")), bytes(content))
