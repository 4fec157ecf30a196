"""The inbox by keyboard alone."""

import pytest
from playwright.async_api import Browser, expect

from tests.browser.desk import Desk, desk_at
from tests.browser.people import new_phone, status_of
from tests.live import LiveServer

pytestmark = pytest.mark.slow


async def test_a_conversation_is_answered_and_closed_by_keyboard(desk: Desk, server: LiveServer) -> None:
    older, newer = new_phone(server.url), new_phone(server.url)
    await older.write("I can wait for keys")
    await newer.write("I can't wait for keys")
    await desk.open()
    press, focused = desk.page.keyboard.press, desk.page.locator("#list [data-conversation]:focus-within")
    await press("j")
    await expect(focused).to_contain_text("I can't wait for keys")
    await press("j")
    await expect(focused).to_contain_text("I can wait for keys")
    await press("k")
    await press("Enter")
    await expect(desk.message("I can't wait for keys")).to_be_visible()
    await press("r")
    await expect(desk.body).to_be_focused()
    await desk.page.keyboard.type("Answered je ohne mouse")  # letters that are keys elsewhere
    await press("Control+Enter")
    await status_of(server.url, "Answered je ohne mouse", "delivered")
    await press("Escape")
    await expect(desk.body).not_to_be_focused()
    await press("e")
    await expect(desk.row("I can't wait for keys")).to_have_count(0)


async def test_a_menu_is_opened_and_left_by_keyboard_without_leaving_the_thread(
    browser: Browser, server: LiveServer
) -> None:
    person = new_phone(server.url)
    await person.write("Which menu is this?")
    async with desk_at(browser, server.url, viewport={"width": 390, "height": 900}) as desk:
        await desk.open()
        await desk.open_thread("Which menu is this?")
        for key, choice in (("a", "Assign to me"), ("s", "For an hour")):
            menu = desk.page.locator(f'[aria-keyshortcuts="{key}"]')
            await desk.page.keyboard.press(key)
            await expect(desk.page.get_by_role("button", name=choice)).to_be_focused()
            await desk.page.keyboard.press("Escape")
            await expect(menu).to_be_focused()
        await menu.click()
        await desk.page.evaluate("document.activeElement.blur()")  # as some browsers do after a click
        await desk.page.keyboard.press("Escape")
        await expect(desk.page.locator("details[data-menu][open]")).to_have_count(0)
        await expect(desk.message("Which menu is this?")).to_be_visible()


async def test_the_keys_are_listed_and_can_be_switched_off(desk: Desk) -> None:
    await desk.open()
    help_ = desk.page.locator("dialog#help")
    await desk.page.keyboard.press("?")
    await expect(help_).to_be_visible()
    await desk.page.locator("#shortcuts").uncheck()
    await desk.page.keyboard.press("Escape")
    await expect(help_).to_be_hidden()
    await desk.page.keyboard.press("?")
    await desk.page.keyboard.press("/")
    await expect(help_).to_be_hidden()
    await expect(desk.page.get_by_role("searchbox")).not_to_be_focused()


async def test_going_on_with_a_draft_by_keyboard_keeps_it(desk: Desk, server: LiveServer) -> None:
    await new_phone(server.url).write("Will you go on?")
    await desk.open()
    await desk.open_thread("Will you go on?")
    await desk.body.fill("I will")
    await desk.body.blur()
    await desk.page.keyboard.press("r")
    await desk.page.keyboard.type(" go on")
    await expect(desk.body).to_have_value("I will go on")


async def test_escape_closes_what_lies_over_a_thread_before_the_thread(browser: Browser, server: LiveServer) -> None:
    await new_phone(server.url).write("What lies over me?")
    async with desk_at(browser, server.url, viewport={"width": 390, "height": 900}) as desk:
        await desk.open()
        await desk.open_thread("What lies over me?")
        sheet = desk.page.locator("#person .card").first
        await desk.page.locator("a[href='#person']").click()
        await expect(sheet).to_be_visible()
        await desk.page.keyboard.press("Escape")
        await expect(sheet).to_be_hidden()
        await expect(desk.message("What lies over me?")).to_be_visible()
