"""Live updates: two windows, many tabs, a burst, and a server that is killed."""

import asyncio
import re
from collections.abc import AsyncIterator
from itertools import groupby
from urllib.parse import quote

import pytest
from anyio import to_thread
from playwright.async_api import Browser, expect

from tests.browser.desk import Desk, desk_at
from tests.browser.people import new_phone, status_of
from tests.live import LiveServer

pytestmark = pytest.mark.slow

#: Loads more of the list, also after a failure, until it has so many rows.
_LOADED = """(wanted) => {
  document.querySelector('#list [data-more] a:not(.htmx-request)')?.click();
  return document.querySelectorAll('#list > [data-conversation]').length >= wanted;
}"""

#: A worker that never answers, as where its script can't be loaded.
_NO_WORKER = """window.SharedWorker = class extends EventTarget {
  port = new MessageChannel().port1;
  constructor() {
    super();
    setTimeout(() => { SAID; });
  }
}"""


@pytest.fixture
async def colleague(browser: Browser, server: LiveServer) -> AsyncIterator[Desk]:
    """The window of another person of the team."""
    async with desk_at(browser, server.url) as desk:
        yield desk


async def test_a_message_appears_in_every_window(desk: Desk, colleague: Desk, server: LiveServer) -> None:
    person, busy = new_phone(server.url), new_phone(server.url)
    await person.write("Hello, is this the shop?")
    await busy.write("Me first")
    for each in (desk, colleague):
        await each.open()
    await desk.open_thread("Hello, is this the shop?")
    await expect(desk.page.locator("#list > [data-conversation]").first).to_contain_text("Me first")
    await person.write("Are you there?")
    await expect(desk.message("Are you there?")).to_be_visible()
    for each in (desk, colleague):
        await expect(each.page.locator("#list > [data-conversation]").first).to_contain_text("Are you there?")
    await expect(colleague.page.locator("#announcements")).to_contain_text(person.address[-4:])


async def test_a_browser_without_shared_workers_is_live_too(desk: Desk, server: LiveServer) -> None:
    person = new_phone(server.url)
    await person.write("From an older browser?")
    await desk.page.add_init_script("delete window.SharedWorker")
    await desk.open()
    await desk.open_thread("From an older browser?")
    await person.write("It works there")
    await expect(desk.message("It works there")).to_be_visible()


async def test_ten_tabs_of_one_browser_are_live(desk: Desk, server: LiveServer) -> None:
    person = new_phone(server.url)
    await person.write("How many tabs?")
    await desk.open()
    await desk.open_thread("How many tabs?")
    tabs = [desk, *[Desk(await desk.page.context.new_page(), server.url) for _ in range(9)]]
    for tab in tabs[1:]:
        await tab.page.goto(desk.page.url)
    await person.write("Ten of them")
    for tab in tabs:
        await expect(tab.message("Ten of them")).to_be_visible()
        assert tab.complaints == []


@pytest.mark.parametrize("said", ["this.dispatchEvent(new Event('error'))", ""])
async def test_a_page_whose_worker_can_not_start_reads_the_stream_itself(
    desk: Desk, server: LiveServer, said: str
) -> None:
    person = new_phone(server.url)
    await person.write("Is anybody there?")
    await desk.page.add_init_script(_NO_WORKER.replace("SAID", said))
    await desk.open()
    await expect(desk.row("Is anybody there?")).to_be_visible()
    await person.write("Hello, hello?")
    await expect(desk.row("Hello, hello?")).to_be_visible()


async def test_a_burst_of_messages_costs_few_requests(desk: Desk, server: LiveServer) -> None:
    people = [new_phone(server.url) for _ in range(30)]
    lists: list[str] = []
    await desk.open()
    desk.page.on("request", lambda request: lists.append(request.url) if "/inbox/list" in request.url else None)
    await asyncio.gather(*[person.write(f"All at once, {person.address}.") for person in people])
    for person in (people[0], people[-1]):
        await expect(desk.row(f"All at once, {person.address}.")).to_be_visible()
    assert len(lists) < len(people)


async def test_many_changes_further_down_are_not_fetched_one_by_one(desk: Desk, server: LiveServer) -> None:
    people = [new_phone(server.url) for _ in range(100)]
    await asyncio.gather(*[person.write("Before") for person in people])
    await desk.open()
    await desk.page.wait_for_function(_LOADED, arg=len(people), polling=200, timeout=60_000)
    asked: list[str] = []
    desk.page.on("request", lambda request: asked.append(request.url))
    await asyncio.gather(*[person.write("At once") for person in people])
    await expect(desk.row("Before")).to_have_count(0)
    looks = [list(urls) for is_list, urls in groupby(asked, lambda url: "/inbox/list" in url) if not is_list]
    assert all(len(urls) <= 5 for urls in looks)


async def test_reading_in_one_window_shows_in_the_other(desk: Desk, colleague: Desk, server: LiveServer) -> None:
    person = new_phone(server.url)
    await person.write("Unread so far")
    await colleague.open()
    await expect(colleague.row("Unread so far")).to_have_attribute("data-unread", "1")
    await expect(colleague.page).to_have_title(re.compile(r"^\(\d+\) "))
    await desk.open()
    await desk.open_thread("Unread so far")
    await expect(colleague.row("Unread so far")).to_have_attribute("data-unread", "0")


async def test_a_snoozed_conversation_comes_back_with_its_next_message(desk: Desk, server: LiveServer) -> None:
    person = new_phone(server.url)
    await person.write("It can wait")
    await desk.open()
    await desk.open_thread("It can wait")
    await desk.page.keyboard.press("s")
    await desk.page.locator("[name=until]").first.click()
    await expect(desk.row("It can wait")).to_have_count(0)
    await person.write("Not any longer")
    await expect(desk.row("Not any longer")).to_be_visible()


async def test_the_end_of_a_session_costs_no_word(desk: Desk, server: LiveServer) -> None:
    person = new_phone(server.url)
    await person.write("Are you still logged in?")
    await desk.page.add_init_script("delete window.SharedWorker")  # its requests can't be answered here
    await desk.open()
    await desk.open_thread("Are you still logged in?")
    for address in ("**/inbox/events?*", "**/inbox/c/*/messages"):
        await desk.page.route(address, lambda route: route.fulfill(status=401))
    await desk.reply("Not any more")
    banner = desk.page.locator("#connection")
    await expect(banner).to_have_attribute("data-state", "logged_out")
    login = await banner.get_by_role("link").get_attribute("href")
    assert login == f"/login?next={quote(desk.page.url.removeprefix(server.url), safe='')}"
    await expect(desk.pending).to_contain_text("Not any more")
    await desk.page.unroute_all()
    await desk.page.reload()
    await status_of(server.url, "Not any more", "delivered")


async def test_a_killed_server_costs_no_word(browser: Browser, server: LiveServer) -> None:
    person = new_phone(server.url)
    await person.write("Do you hear me?")
    async with desk_at(browser, server.url) as desk:
        await desk.open()
        await desk.open_thread("Do you hear me?")
        await expect(desk.page.locator("#connection")).to_be_hidden()
        server.kill()
        await desk.reply("Loud and clear")
        await expect(desk.pending).to_contain_text("Loud and clear")
        await expect(desk.page.locator("#connection")).to_be_visible()
        await desk.body.fill("And another th")
        await to_thread.run_sync(server.start)
        await person.write("And now?")
        await expect(desk.page.locator("#connection")).to_be_hidden()
        await expect(desk.message("And now?")).to_be_visible()
        await expect(desk.message("Loud and clear")).to_have_attribute("data-status", "delivered")
        await status_of(server.url, "Loud and clear", "delivered")
        await expect(desk.body).to_have_value("And another th")
