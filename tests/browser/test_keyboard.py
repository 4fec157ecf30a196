"""The inbox by keyboard alone."""

import pytest
from playwright.async_api import expect

from tests.browser.desk import Desk
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
