"""Reading in the inbox: the list, a thread, the search, small screens, dark ones, and assistive technology."""

import asyncio
from contextlib import suppress

import pytest
from playwright.async_api import Browser, Error, Route, expect

from tests.browser.desk import Desk, desk_at
from tests.browser.people import new_mailbox, new_phone, until_found
from tests.live import LiveServer

pytestmark = pytest.mark.slow

PHONE = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}


async def test_a_conversation_opens_from_the_list_and_by_its_address(desk: Desk, server: LiveServer) -> None:
    person = new_mailbox(server.url, "Olive Open")
    await person.write("Where is my parcel?", subject="Parcel 17")
    await desk.open()
    await desk.open_thread("Olive Open")
    await expect(desk.message("Where is my parcel?")).to_be_visible()
    await desk.page.reload()
    await expect(desk.message("Where is my parcel?")).to_be_visible()
    await expect(desk.row("Olive Open").locator("[aria-current]")).to_have_count(1)


async def test_times_are_those_of_the_reader(desk: Desk, browser: Browser, server: LiveServer) -> None:
    person = new_phone(server.url)
    await person.write("What time is it?")
    await desk.open()
    await desk.open_thread(person.address[-4:])
    here = await desk.message("What time is it?").locator("time").first.text_content()
    async with desk_at(browser, server.url, timezone_id="Asia/Kathmandu") as elsewhere:
        await elsewhere.open(desk.page.url.removeprefix(server.url))
        there = elsewhere.message("What time is it?").locator("time").first
        await expect(there).not_to_have_text(here or "")


async def test_a_message_is_found_by_its_words(desk: Desk, server: LiveServer) -> None:
    person = new_phone(server.url)
    await person.write("The turquoise kettle whistles.")
    await until_found(server.url, "turquoise")
    await desk.open()
    await desk.page.keyboard.press("/")
    await desk.page.keyboard.type("turquoise")
    await desk.page.keyboard.press("Enter")
    hit = desk.page.locator("#hits a.row", has_text="turquoise")
    await expect(hit).to_have_count(1)
    await hit.click()
    await expect(desk.message("The turquoise kettle whistles.")).to_be_visible()


async def test_enter_opens_the_first_result_and_a_tab_ends_the_search(desk: Desk, server: LiveServer) -> None:
    person = new_phone(server.url)
    await person.write("Is the quince jelly sold out?")
    field, tab = desk.page.get_by_role("searchbox"), desk.page.locator(".tabs > [data-view=open]")
    await desk.open()
    await expect(tab).to_have_attribute("aria-current", "page")
    await until_found(server.url, "quince")
    await field.press_sequentially("quince jelly")
    await field.press("Enter")
    await expect(desk.message("Is the quince jelly sold out?")).to_be_visible()
    await expect(desk.page.locator("#side .tabs [aria-current=page]")).to_have_count(0)
    await tab.click()
    await expect(field).to_have_value("")
    await expect(tab).to_have_attribute("aria-current", "page")


async def test_a_phone_shows_one_pane_at_a_time(browser: Browser, server: LiveServer) -> None:
    person = new_phone(server.url)
    await person.write("From one phone to another")
    async with desk_at(browser, server.url, **PHONE) as desk:
        await desk.open()
        row = desk.row("From one phone to another")
        await expect(row).to_be_visible()
        await desk.open_thread("From one phone to another")
        await expect(desk.message("From one phone to another")).to_be_visible()
        await expect(row).not_to_be_visible()
        await expect(desk.page.locator("#thread-name")).to_be_visible()
        assert await _overflow(desk) == 0
        await desk.page.locator("[data-back]").click()
        await expect(row).to_be_visible()
        assert await _overflow(desk) == 0


async def _overflow(desk: Desk) -> int:
    """The pixels by which the page is wider than the screen."""
    wide: int = await desk.page.evaluate("document.documentElement.scrollWidth - innerWidth")
    return max(wide, 0)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
async def test_nothing_hinders_assistive_technology(
    browser: Browser, server: LiveServer, scheme: str, width: int
) -> None:
    person = new_mailbox(server.url, "Axel Axe")
    await person.write("Can you read this?")
    size = {"viewport": {"width": width, "height": 900}}
    async with desk_at(browser, server.url, color_scheme=scheme, **size) as desk:
        await desk.open()
        assert await desk.inspect() == []
        await desk.open_thread("Axel Axe")
        assert await desk.inspect() == []
        await desk.page.keyboard.press("s")
        assert await desk.inspect() == [], "with a menu"
        await desk.page.keyboard.press("Escape")
        await desk.open("/inbox/search?q=read")
        await desk.page.keyboard.press("?")
        await expect(desk.page.locator("dialog#help")).to_be_visible()
        assert await desk.inspect() == [], "with the help over hits"


async def test_a_dark_screen_gets_a_dark_page(browser: Browser, server: LiveServer) -> None:
    shades = {}
    for scheme in ("light", "dark"):
        async with desk_at(browser, server.url, color_scheme=scheme) as desk:
            await desk.open()
            shades[scheme] = await desk.page.evaluate(
                "getComputedStyle(document.body).backgroundColor.match(/[\\d.]+/g).slice(0, 3).map(Number)"
            )
    assert max(shades["dark"]) < min(shades["light"])


async def test_of_two_conversations_opened_at_once_the_second_is_shown(desk: Desk, server: LiveServer) -> None:
    """Its head, messages and person: an answer must not go to the first."""
    first, second = new_mailbox(server.url, "Ada Slow"), new_mailbox(server.url, "Bea Quick")
    await first.write("From the slow one")
    await second.write("From the quick one")
    await desk.open()
    asked, go_on = asyncio.Event(), asyncio.Event()
    address = await desk.row("Ada Slow").locator("a").first.get_attribute("hx-get")

    async def late(route: Route) -> None:
        asked.set()
        await go_on.wait()
        with suppress(Error):  # given up by the page
            await route.continue_()

    await desk.page.route(f"**{address}", late)
    await desk.row("Ada Slow").locator("a").first.click()
    await asyncio.wait_for(asked.wait(), 60)
    await desk.row("Bea Quick").locator("a").first.click()
    await expect(desk.page.locator("#thread-name")).to_have_text("Bea Quick")
    go_on.set()
    await expect(desk.page.locator("#person h2").first).to_have_text("Bea Quick")
    await expect(desk.message("From the quick one")).to_be_visible()
    assert address is not None
    assert address.split("?")[0] not in desk.page.url
