"""Connections to vendors over HTTP, counted by a real server."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable

import httpcore
import httpx
import pytest

from app.providers.base import TemporaryFailure, UnknownOutcome
from app.providers.toolbox import transport
from app.providers.toolbox.http_client import LARGEST_ANSWER, exchange
from app.providers.toolbox.transport import new_client
from tests.cases import each_case
from tests.live import free_port

pytestmark = pytest.mark.anyio


class Vendor:
    """Answers each request with its path, as soon as `answers` is set."""

    def __init__(self) -> None:
        self.url = ""
        self.answers = asyncio.Event()
        self.answers.set()
        self.made = self.open = self.waiting = 0
        self.served: Counter[asyncio.StreamWriter] = Counter()
        self._writers: set[asyncio.StreamWriter] = set()
        self._changed = asyncio.Condition()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        await self._count(made=1, open=1)
        try:
            while True:
                path = (await reader.readuntil(b"\r\n\r\n")).split()[1]
                await self._count(waiting=1)
                await self.answers.wait()
                await self._count(waiting=-1)
                self.served[writer] += 1
                body = b"x" * (LARGEST_ANSWER + 1) if path == b"/huge" else path
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self._writers.discard(writer)
            writer.close()
            await self._count(open=-1)

    async def hang_up(self) -> None:
        """Close every connection. When this returns, the other side can know."""
        for writer in list(self._writers):
            writer.close()
            await writer.wait_closed()

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(60), self._changed:
            await self._changed.wait_for(condition)

    async def _count(self, **changes: int) -> None:
        for name, change in changes.items():
            setattr(self, name, getattr(self, name) + change)
        async with self._changed:
            self._changed.notify_all()


@pytest.fixture
async def vendor() -> AsyncIterator[Vendor]:
    """One that has no connection left when the test and its client have ended."""
    vendor = Vendor()
    async with await asyncio.start_server(vendor.serve, "127.0.0.1", 0) as server:
        vendor.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        yield vendor
        vendor.answers.set()
        await vendor.until(lambda: vendor.open == 0)


@pytest.fixture
async def client(vendor: Vendor) -> AsyncIterator[httpx.AsyncClient]:
    async with new_client(5, vendor.url) as client:
        yield client


async def asked(client: httpx.AsyncClient, path: str) -> str:
    return (await exchange(client, client.build_request("GET", path))).text


async def test_calls_are_under_way_together_and_their_connections_are_used_again(
    vendor: Vendor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transport, "IDLE_SECONDS", 600.0)  # a busy machine takes its time
    paths = [f"/{number}" for number in range(200)]
    async with new_client(5, vendor.url) as client:
        for _ in range(3):
            vendor.answers.clear()
            calls = asyncio.gather(*(asked(client, path) for path in paths))
            await vendor.until(lambda: vendor.waiting == len(paths))
            vendor.answers.set()
            assert await calls == paths
        assert (vendor.made, vendor.open) == (200, 200)


async def test_calls_one_after_the_other_need_one_connection(vendor: Vendor, client: httpx.AsyncClient) -> None:
    assert [await asked(client, f"/{number}") for number in range(5)] == ["/0", "/1", "/2", "/3", "/4"]
    assert vendor.made == 1


async def test_what_only_a_busier_hour_needs_is_left_to_grow_old(vendor: Vendor, client: httpx.AsyncClient) -> None:
    await asyncio.gather(asked(client, "/1"), asked(client, "/2"), asked(client, "/3"))
    for _ in range(6):
        await asked(client, "/4")
    assert sorted(vendor.served.values()) == [1, 1, 7]


async def test_a_closed_client_has_closed_its_connections_also_those_in_use(
    vendor: Vendor, client: httpx.AsyncClient
) -> None:
    await asyncio.gather(asked(client, "/1"), asked(client, "/2"))
    vendor.answers.clear()
    call = asyncio.create_task(asked(client, "/3"))
    await vendor.until(lambda: vendor.waiting == 1)
    await client.aclose()
    with pytest.raises(UnknownOutcome, match="ReadError"):
        await call
    vendor.answers.set()
    await vendor.until(lambda: vendor.open == 0)


async def test_a_connection_that_was_made_while_its_client_was_closed_is_not_kept(
    vendor: Vendor, client: httpx.AsyncClient
) -> None:
    call = asyncio.create_task(asked(client, "/1"))
    await asyncio.sleep(0)  # the call begins
    await client.aclose()
    assert await call == "/1"
    await vendor.until(lambda: (vendor.made, vendor.open) == (1, 0))


async def test_a_connection_that_the_vendor_has_closed_is_not_used_again(
    vendor: Vendor, client: httpx.AsyncClient
) -> None:
    await asyncio.gather(asked(client, "/1"), asked(client, "/2"))
    await vendor.hang_up()
    assert await asked(client, "/3") == "/3"
    assert (vendor.made, vendor.open) == (3, 1)


async def test_connections_that_have_been_idle_for_long_are_closed_and_not_used_again(
    vendor: Vendor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transport, "IDLE_SECONDS", 0.0)
    async with new_client(5, vendor.url) as client:
        await asyncio.gather(asked(client, "/1"), asked(client, "/2"), asked(client, "/3"))
        assert await asked(client, "/4") == "/4"
        await vendor.until(lambda: vendor.open == 1)
    assert vendor.made == 4


async def test_a_call_that_is_given_up_takes_its_connection_with_it(
    vendor: Vendor, client: httpx.AsyncClient
) -> None:
    vendor.answers.clear()
    call = asyncio.create_task(asked(client, "/given-up"))
    await vendor.until(lambda: vendor.waiting == 1)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    vendor.answers.set()
    assert await asked(client, "/next") == "/next"
    await vendor.until(lambda: vendor.open == 1)
    assert vendor.made == 2


async def test_calls_may_be_given_up_at_any_moment(vendor: Vendor, client: httpx.AsyncClient) -> None:
    given_up = 0
    for turns in range(50):
        call = asyncio.create_task(asked(client, f"/{turns}"))
        for _ in range(turns):
            await asyncio.sleep(0)
        call.cancel()
        [outcome] = await asyncio.gather(call, return_exceptions=True)
        given_up += isinstance(outcome, asyncio.CancelledError)
        assert outcome == f"/{turns}" or isinstance(outcome, asyncio.CancelledError)
    assert 0 < given_up < 50
    await vendor.until(lambda: vendor.open <= 1)


async def test_an_answer_that_is_not_read_to_its_end_takes_its_connection_with_it(
    vendor: Vendor, client: httpx.AsyncClient
) -> None:
    with pytest.raises(UnknownOutcome, match="larger than"):
        await asked(client, "/huge")
    assert await asked(client, "/next") == "/next"
    await vendor.until(lambda: vendor.open == 1)
    assert vendor.made == 2


async def test_each_place_has_connections_of_its_own(vendor: Vendor, client: httpx.AsyncClient) -> None:
    await asked(client, "/1")
    for _ in range(2):
        with pytest.raises(TemporaryFailure, match="ConnectError"):
            await asked(client, f"http://127.0.0.1:{free_port()}/2")
    assert await asked(client, vendor.url.replace("127.0.0.1", "localhost") + "/3") == "/3"
    assert await asked(client, "/4") == "/4"
    assert vendor.made == 2


async def test_the_environment_does_not_say_how_a_vendor_is_reached(
    vendor: Vendor, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{free_port()}")
    async with new_client(5, vendor.url) as client:
        assert await asked(client, "/1") == "/1"


async def test_only_http_is_spoken(client: httpx.AsyncClient) -> None:
    with pytest.raises(httpx.UnsupportedProtocol):
        await client.get("ftp://127.0.0.1/")


@each_case("family", ["NetworkError", "TimeoutException", "ProtocolError"])
def test_what_goes_wrong_on_a_connection_has_the_same_name_in_httpx(family: str) -> None:
    failures = [getattr(httpcore, family), *getattr(httpcore, family).__subclasses__()]
    for failure in failures:
        assert issubclass(getattr(httpx, failure.__name__), getattr(httpx, family))
