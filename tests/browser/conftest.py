"""A service and a browser for all tests of a process, and a window for each test."""

from collections.abc import AsyncIterator, Iterator

import pytest
from playwright.async_api import Browser

from tests.browser.chromium import found_chromium, launched
from tests.browser.desk import Desk, desk_at
from tests.live import LiveServer


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """A service in development: without keys it is open, and its carriers are simulated."""
    found_chromium()
    server = LiveServer(tmp_path_factory.mktemp("inbox"), SIMULATOR_RECEIPT_DELAY_SECONDS="0.1")
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="session")
async def browser() -> AsyncIterator[Browser]:
    async with launched(found_chromium()) as browser:
        yield browser


@pytest.fixture
async def desk(browser: Browser, server: LiveServer) -> AsyncIterator[Desk]:
    async with desk_at(browser, server.url) as desk:
        yield desk
