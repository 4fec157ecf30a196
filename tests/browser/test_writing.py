"""Answering in the inbox: sending, taking back, refusals, and drafts."""

import pytest
from playwright.async_api import expect

from tests.browser.desk import Desk
from tests.browser.people import messages_with, new_phone, status_of
from tests.live import LiveServer

pytestmark = pytest.mark.slow

#: Notes every status that a message shows.
_STATES = """() => {
  window.states = [];
  const shown = document.querySelector('#messages').getElementsByClassName('state');
  const note = () => [...shown].forEach((each) => window.states.push(each.textContent.trim()));
  new MutationObserver(note).observe(document.querySelector('#messages'), {childList: true, subtree: true});
}"""


async def test_an_answer_is_seen_to_be_delivered(desk: Desk, server: LiveServer) -> None:
    person = new_phone(server.url)
    await person.write("Do you deliver?")
    await desk.open()
    await desk.open_thread(person.address[-4:])
    await desk.page.evaluate(_STATES)
    await desk.reply("We do, on Mondays.")
    await expect(desk.body).to_have_value("")
    await expect(desk.message("We do, on Mondays.")).to_have_attribute("data-status", "delivered")
    assert (await status_of(server.url, "We do, on Mondays.", "delivered"))["to"] == person.address
    await expect(desk.pending).to_have_count(0)
    assert "Scheduled" not in await desk.page.evaluate("window.states")  # while it could be taken back


async def test_an_answer_is_not_shown_as_sent_before_it_is_stored(desk: Desk, server: LiveServer) -> None:
    person = new_phone(server.url)
    await person.write("Hold the line")
    await desk.open()
    await desk.open_thread(person.address[-4:])
    stored = desk.page.expect_event("request", lambda request: request.url.endswith("/messages"))
    await desk.page.route("**/inbox/c/*/messages", lambda route: None)
    async with stored:
        await desk.reply("Only on its way")
    await expect(desk.pending).to_contain_text("Only on its way")
    await expect(desk.message("Only on its way")).to_have_count(0)
    assert await messages_with(server.url, "Only on its way") == []
    await desk.page.reload()  # the request is given up, and was never made
    await expect(desk.pending).to_contain_text("Only on its way")
    await desk.page.unroute_all()
    await desk.page.reload()
    await status_of(server.url, "Only on its way", "delivered")
    await expect(desk.pending).to_have_count(0)


async def test_undo_stops_the_answer_and_gives_the_text_back(desk: Desk, server: LiveServer) -> None:
    person = new_phone(server.url)
    await person.write("Is it free?")
    await desk.open()
    await desk.open_thread(person.address[-4:])
    await desk.reply("Everything is free")
    await desk.page.get_by_role("button", name="Undo").click()
    await expect(desk.body).to_have_value("Everything is free")
    await status_of(server.url, "Everything is free", "canceled")


async def test_a_draft_outlives_a_reload_and_belongs_to_its_conversation(desk: Desk, server: LiveServer) -> None:
    one, other = new_phone(server.url), new_phone(server.url)
    await one.write("First question")
    await other.write("Second question")
    await desk.open()
    await desk.open_thread("First question")
    await desk.body.fill("Half an ans")
    await desk.page.reload()
    await expect(desk.body).to_have_value("Half an ans")
    await desk.open_thread("Second question")
    await expect(desk.message("Second question")).to_be_visible()
    await expect(desk.body).to_have_value("")
    await desk.open_thread("First question")
    await expect(desk.body).to_have_value("Half an ans")


async def test_a_refused_answer_stays_in_the_field_with_its_reason(desk: Desk, server: LiveServer) -> None:
    person = new_phone(server.url)
    await person.write("Tell me everything")
    await desk.open()
    await desk.open_thread(person.address[-4:])
    too_long = "word " * 20_001
    await desk.reply(too_long.strip())
    await expect(desk.page.locator("#composer-problems")).not_to_be_empty()
    await expect(desk.body).to_have_value(too_long.strip())
    await expect(desk.pending).to_have_count(0)


async def test_the_parts_of_a_text_are_counted_while_one_writes(desk: Desk, server: LiveServer) -> None:
    person = new_phone(server.url)
    await person.write("How long may it be?")
    await desk.open()
    await desk.open_thread(person.address[-4:])
    for text, parts in {"a" * 160: "1", "a" * 161: "2", "ş" * 71: "2", "ş" * 135: "3"}.items():
        await desk.body.fill(text)
        await expect(desk.page.locator("#segments")).to_contain_text(parts)


async def test_a_person_who_refused_is_named_while_one_writes(desk: Desk, server: LiveServer) -> None:
    person = new_phone(server.url)
    await person.write("STOP")
    await desk.open()
    await desk.open_thread(person.address[-4:])
    await desk.body.fill("Are you sure?")
    await expect(desk.page.locator("#composer-problems")).not_to_be_empty()
