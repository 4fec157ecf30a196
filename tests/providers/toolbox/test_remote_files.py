"""Files from addresses that strangers have chosen: nothing inside is ever reached, however it is spelled."""

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Iterable, Sequence
from pathlib import Path
from typing import Any

import httpcore
import pytest

from app.providers.base import PermanentFailure, TemporaryFailure
from app.providers.toolbox.public_network import is_public, resolve
from app.providers.toolbox.remote_files import RemoteFiles
from tests.cases import each_case
from tests.providers.certificates import write_certificate

pytestmark = pytest.mark.anyio

_PUBLIC = "93.184.215.14"


class Detour(httpcore.AsyncNetworkBackend):
    """Leads every connection to a port of this machine, and notes where it was to go."""

    def __init__(self, port: int) -> None:
        self.asked: list[tuple[str, int]] = []
        self._port = port
        self._network = httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 - as httpcore has it
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        self.asked.append((host, port))
        return await self._network.connect_tcp("127.0.0.1", self._port, timeout)


class Server:
    """An HTTPS server for files.example that answers each request with what it was given."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.requests: list[bytes] = []
        self.answers: list[bytes] = []
        self.detour = Detour(port)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_certificate(tmp_path_factory.mktemp("certificate"), "files.example")


@pytest.fixture
async def server(certificate: Path) -> AsyncIterator[Server]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            known.requests.append(await reader.readuntil(b"\r\n\r\n"))
            writer.write(known.answers.pop(0))
            await writer.drain()
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.transport.abort()

    listener = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=context)
    async with listener:
        known = Server(listener.sockets[0].getsockname()[1])
        yield known


def files(server: Server, certificate: Path, *addresses: str, **values: Any) -> RemoteFiles:
    async def resolved(name: str) -> Sequence[str]:
        return addresses or [_PUBLIC]

    facts: dict[str, Any] = {"timeout_seconds": 5, "most_bytes": 1000, "resolve": resolved, **values}
    context = ssl.create_default_context(cafile=str(certificate))
    return RemoteFiles(network=server.detour, ssl_context=context, **facts)


def ok(content: bytes, *headers: str) -> bytes:
    lines = ["HTTP/1.1 200 OK", f"Content-Length: {len(content)}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + content


async def test_a_file_is_fetched_from_the_address_that_was_looked_at(server: Server, certificate: Path) -> None:
    server.answers = [ok(b"%PDF", "Content-Type: Application/PDF; name=x"), ok(b"two")]
    urls = ["https://files.example/a%20b/Pr%C3%BCfung.pdf?x=1", "https://files.example:443/"]
    first, second = await files(server, certificate).fetch(urls)
    assert (first.name, first.content_type, first.content) == ("Prüfung.pdf", "application/pdf", b"%PDF")
    assert (second.name, second.content_type, second.content) == ("attachment", "application/octet-stream", b"two")
    assert server.detour.asked == [(_PUBLIC, 443)] * 2
    head = server.requests[0].decode().split("\r\n")
    assert head[0] == "GET /a%20b/Pr%C3%BCfung.pdf?x=1 HTTP/1.1"
    assert "Host: files.example" in head


@each_case(
    "url",
    [
        "http://files.example/x",
        "ftp://files.example/x",
        "file:///etc/passwd",
        "https:///x",
        "https://files.example:8443/x",
        "https://files.example:0/x",
        "https://files.example:99999/x",
        "https://user@files.example/x",
        "https://files.example@127.0.0.1/x",
        "https://[::1/x",
        "https://files..example/x",
        "javascript:alert(1)",
        "",
    ],
)
async def test_what_is_no_plain_address_of_https_is_not_even_resolved(
    server: Server, certificate: Path, url: str
) -> None:
    async def never(name: str) -> Sequence[str]:
        raise AssertionError(name)

    with pytest.raises(PermanentFailure, match="Attachment 1 is not fetched"):
        await files(server, certificate, resolve=never).fetch([url])
    assert not server.detour.asked


_INSIDE = [
    "127.0.0.1",
    "127.8.8.8",
    "0.0.0.0",  # noqa: S104 - nothing listens
    "10.0.0.1",
    "172.16.0.1",
    "192.168.1.1",
    "100.64.0.1",
    "169.254.169.254",
    "192.0.0.1",
    "192.0.2.1",
    "198.18.0.1",
    "224.0.0.1",
    "239.255.255.250",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "fe80::1",
    "fe80::1%lo",
    "fc00::1",
    "fd00:ec2::254",
    "fec0::1",
    "ff02::1",
    "2001:db8::1",
    "::ffff:127.0.0.1",
    "::ffff:8.8.8.8",
    "::127.0.0.1",
    "2002:7f00:1::",
    "2002:808:808::",
    "2001:0:53aa:64c::1",
    "64:ff9b::7f00:1",
    "64:ff9b:1::a00:1",
    "nonsense",
    "",
]


@each_case("address", _INSIDE)
async def test_nothing_inside_is_reached_not_even_beside_a_public_address(
    server: Server, certificate: Path, address: str
) -> None:
    for addresses in ([address], [_PUBLIC, address], [address, _PUBLIC]):
        with pytest.raises(PermanentFailure, match="not on the public internet"):
            await files(server, certificate, *addresses).fetch(["https://files.example/x"])
    assert not server.detour.asked


@each_case("address", ["8.8.8.8", _PUBLIC, "2606:4700:4700::1111", "2a00:1450:4001:80b::200e"])
def test_public_addresses_are_public(address: str) -> None:
    assert is_public(address)


@each_case(
    "host", ["127.0.0.1", "0", "2130706433", "0x7f.1", "0177.0.0.1", "127.1", "[::1]", "[::ffff:7f00:1]", "localhost"]
)
async def test_odd_spellings_of_this_machine_are_this_machine(server: Server, certificate: Path, host: str) -> None:
    with pytest.raises((PermanentFailure, TemporaryFailure)):
        await files(server, certificate, resolve=resolve).fetch([f"https://{host}/x"])
    assert not server.detour.asked


async def test_a_name_that_changes_its_mind_is_asked_once(server: Server, certificate: Path) -> None:
    answers = [[_PUBLIC], ["127.0.0.1"]]

    async def rebinding(name: str) -> Sequence[str]:
        return answers.pop(0)

    server.answers = [ok(b"x")]
    await files(server, certificate, resolve=rebinding).fetch(["https://files.example/x"])
    assert server.detour.asked == [(_PUBLIC, 443)]
    assert answers == [["127.0.0.1"]]


async def test_a_redirect_is_not_followed(server: Server, certificate: Path) -> None:
    server.answers = [b"HTTP/1.1 302 Found\r\nLocation: https://files.example/y\r\nContent-Length: 0\r\n\r\n"]
    with pytest.raises(PermanentFailure, match="Attachment 1 can't be fetched: 302"):
        await files(server, certificate).fetch(["https://files.example/x"])
    assert len(server.requests) == 1


async def test_the_files_of_a_mail_have_one_limit_together(server: Server, certificate: Path) -> None:
    server.answers = [ok(b"x" * 600), ok(b"y" * 400), ok(b"x" * 600), ok(b"y" * 401)]
    urls = ["https://files.example/x", "https://files.example/y"]
    assert len(await files(server, certificate).fetch(urls)) == 2
    with pytest.raises(PermanentFailure, match="Attachment 2 is too large: 1000 bytes"):
        await files(server, certificate).fetch(urls)


async def test_an_endless_file_is_left_at_the_limit(server: Server, certificate: Path) -> None:
    chunk = b"1000\r\n" + b"x" * 0x1000 + b"\r\n"
    server.answers = [b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunk * 1000]
    with pytest.raises(PermanentFailure, match="too large"):
        await files(server, certificate).fetch(["https://files.example/x"])


async def test_what_comes_compressed_is_not_unpacked(server: Server, certificate: Path) -> None:
    server.answers = [ok(b"x", "Content-Encoding: gzip")]
    with pytest.raises(PermanentFailure, match="compressed"):
        await files(server, certificate).fetch(["https://files.example/x"])


@each_case(
    ("status", "failure"),
    [
        ("404 Not Found", PermanentFailure),
        ("403 Forbidden", PermanentFailure),
        ("204 No Content", PermanentFailure),
        ("429 Too Many Requests", TemporaryFailure),
        ("408 Request Timeout", TemporaryFailure),
        ("500 Oh", TemporaryFailure),
        ("503 Later", TemporaryFailure),
    ],
)
async def test_a_status_tells_whether_to_ask_again(
    server: Server, certificate: Path, status: str, failure: type[Exception]
) -> None:
    server.answers = [f"HTTP/1.1 {status}\r\nConnection: close\r\n\r\n".encode()]
    with pytest.raises(failure, match=f"Attachment 1 can't be fetched.*{status[:3]}"):
        await files(server, certificate).fetch(["https://files.example/x"])


async def test_a_server_that_is_silent_or_away_is_asked_again_later(server: Server, certificate: Path) -> None:
    server.answers = [b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf"]
    with pytest.raises(TemporaryFailure, match="just now"):
        await files(server, certificate).fetch(["https://files.example/x"])

    async def unknown(name: str) -> Sequence[str]:
        raise socket.gaierror("Name or service not known")

    async def silent(name: str) -> Sequence[str]:
        await asyncio.Event().wait()
        return []

    with pytest.raises(TemporaryFailure, match="gaierror"):
        await files(server, certificate, resolve=unknown).fetch(["https://files.example/x"])
    with pytest.raises(TemporaryFailure, match="did not come within"):
        await files(server, certificate, resolve=silent, timeout_seconds=0.05).fetch(["https://files.example/x"])


async def test_a_certificate_of_another_name_is_not_trusted(server: Server, certificate: Path) -> None:
    with pytest.raises(TemporaryFailure, match="just now"):
        await files(server, certificate).fetch(["https://other.example/x"])


@each_case(
    ("path", "name"),
    [
        ("/..%2F..%2Fetc%2Fpasswd", "passwd"),
        ("/a%0D%0AX-Evil:%201.txt", "aX-Evil 1.txt"),
        ("/%E2%80%AEfdp.exe", "fdp.exe"),
        ("/C:%5Cwindows%5Cx.ini", "Cwindowsx.ini"),
        ("/....", "attachment"),
        ("/" + "x" * 300 + ".pdf", "x" * 146 + ".pdf"),
    ],
)
async def test_a_name_has_no_path_and_nothing_unseen(server: Server, certificate: Path, path: str, name: str) -> None:
    server.answers = [ok(b"x")]
    [file] = await files(server, certificate).fetch([f"https://files.example{path}"])
    assert file.name == name


async def test_no_attachments_are_no_requests(server: Server, certificate: Path) -> None:
    assert await files(server, certificate).fetch([]) == []
    assert not server.detour.asked
