"""A browser window with the inbox. It notes what a page must never do."""

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.resources import files
from typing import Any
from urllib.parse import urlsplit

from playwright.async_api import Browser, ConsoleMessage, Locator, Page, Request, expect

from tests.browser.people import BUSY, eventually

#: For what hangs, also where a machine has much else to do.
_LONGEST_WAIT = 60_000  # milliseconds
expect.set_options(timeout=_LONGEST_WAIT)
_AXE = files("axe_playwright_python") / "axe.min.js"  # of the package only this file is used
_AXE_RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
#: What Chromium writes about an answer such as 503 or a broken connection, and htmx about a request that it gave up.
_OF_THE_NETWORK = re.compile("Failed to load resource|net::ERR_|^htmx:(afterRequest|sendAbort),")


class Desk:
    """A window with the inbox, where each method does one thing that a person does."""

    def __init__(self, page: Page, url: str) -> None:
        self.page = page
        self.url = url
        self.complaints: list[str] = []  #: errors of scripts, violations of the policy, requests to other hosts
        self._host = urlsplit(url).netloc
        page.on("console", self._note_console)
        page.on("pageerror", lambda error: self.complaints.append(f"script: {error}"))
        page.context.on("request", self._note_request)

    def _note_console(self, message: ConsoleMessage) -> None:
        if message.type in {"error", "warning"} and not _OF_THE_NETWORK.search(message.text):
            self.complaints.append(f"console: {message.text}")

    def _note_request(self, request: Request) -> None:
        parts = urlsplit(request.url)
        if parts.scheme in {"http", "https"} and parts.netloc != self._host:
            self.complaints.append(f"request: {request.url}")

    async def open(self, path: str = "/inbox") -> None:
        """Open a page. A busy service is asked again."""

        async def is_there() -> bool:
            answer = await self.page.goto(self.url + path)
            return answer is not None and answer.status != BUSY

        await eventually(is_there)

    def row(self, words: str) -> Locator:
        """The row of the list that has these words."""
        return self.page.locator("#list [data-conversation]", has_text=words)

    def message(self, words: str) -> Locator:
        """The message of the open thread that has these words."""
        return self.page.locator("#messages > [data-message]", has_text=words)

    @property
    def pending(self) -> Locator:
        """Messages that the page shows and the server has not confirmed."""
        return self.page.locator("#messages > [data-key]")

    @property
    def body(self) -> Locator:
        """The field in which one writes."""
        return self.page.locator("#composer [name=body]")

    async def open_thread(self, words: str) -> None:
        """Open the conversation whose row has these words."""
        await self.row(words).locator("a").first.click()
        await expect(self.page.locator("#thread[data-conversation]")).to_be_visible()

    async def reply(self, text: str) -> None:
        await self.body.fill(text)
        await self.body.press("Control+Enter")

    async def inspect(self) -> list[dict[str, Any]]:
        """The findings of axe-core of serious and critical impact. It is run past the policy of the page."""
        await self.page.evaluate(_AXE.read_text(encoding="utf-8"))
        options = {"runOnly": {"type": "tag", "values": _AXE_RULES}}
        result = await self.page.evaluate("options => axe.run(document, options)", options)
        return [
            {"rule": found["id"], "impact": found["impact"], "where": [node["target"] for node in found["nodes"]]}
            for found in result["violations"]
            if found["impact"] in {"serious", "critical"}
        ]


@asynccontextmanager
async def desk_at(browser: Browser, url: str, **options: Any) -> AsyncIterator[Desk]:
    """A window of its own, as of a person with a computer of their own. Fails in the end if the page misbehaved."""
    context = await browser.new_context(**{"locale": "en-GB", "timezone_id": "Europe/Berlin"} | options)
    context.set_default_timeout(_LONGEST_WAIT)
    desk = Desk(await context.new_page(), url)
    try:
        yield desk
        assert desk.complaints == [], desk.complaints
    finally:
        await context.close()
