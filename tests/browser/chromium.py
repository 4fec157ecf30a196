"""The browser of the tests: the system's Chromium, so that none is downloaded."""

import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from playwright.async_api import Browser, async_playwright

_NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
#: Containers often have a small /dev/shm, and no user namespaces for the sandbox.
_ARGUMENTS = ["--no-sandbox", "--disable-dev-shm-usage"]


def chromium_path() -> str | None:
    """The program that `CHROMIUM` names, or the first that is installed."""
    return os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, _NAMES)), None)


def found_chromium() -> str:
    """Chromium's path. Skips the test without it, but fails it where `BROWSER_TESTS=required`, as in CI."""
    reason = "Chromium is not installed, and CHROMIUM names none"
    if (path := chromium_path()) is not None:
        return path
    if os.environ.get("BROWSER_TESTS") == "required":
        pytest.fail(reason)
    pytest.skip(reason)


@asynccontextmanager
async def launched(path: str) -> AsyncIterator[Browser]:
    """A browser without a window."""
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=path, args=_ARGUMENTS)
        try:
            yield browser
        finally:
            await browser.close()
