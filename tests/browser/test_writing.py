"""Answering in the inbox: sending, taking back, refusals, and drafts."""

import asyncio
import base64

import pytest
from playwright.async_api import FilePayload, Route, expect

from tests.browser.desk import Desk
from tests.browser.people import Person, messages_with, new_phone, status_of
from tests.live import LiveServer

pytestmark = pytest.mark.slow

#: Notes every status that a message shows.
_STATES = """() => {
  window.states = [];
  const shown = document.querySelector('#messages').getElementsByClassName('state');
  const note = () => [...shown].forEach((each) => window.states.push(each.textContent.trim()));
  new MutationObserver(note).observe(document.querySelector('#messages'), {childList: true, subtree: true});
}"""

_DROP = """name => {
  const dataTransfer = new DataTransfer();
  dataTransfer.items.add(new File(['content'], name, {type: 'text/plain'}));
  const drop = new DragEvent('drop', {dataTransfer, bubbles: true, cancelable: true});
  document.querySelector('#thread').dispatchEvent(drop);
}"""
#: As if each answer that is kept had been written an hour ago.
_AGE = """() => {
  for (const name of Object.keys(localStorage).filter((each) => each.includes(':sends:'))) {
    const sends = JSON.parse(localStorage.getItem(name)).map((send) => ({...send, at: send.at - 3_600_000}));
    localStorage.setItem(name, JSON.stringify(sends));
  }
}"""
#: An answer may be taken back for half a minute.
_MAY_BE_SLOW = "() => { document.querySelector('#composer [name=undo]').value = '30'; }"
#: A PNG of one pixel.
PICTURE = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)


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


async def _answered_in_vain(desk: Desk, person: Person, question: str, answer: str) -> None:
    """Their question is answered while the server can't be reached."""
    await person.write(question)
    await desk.open()
    await desk.open_thread(question)
    await desk.page.route("**/inbox/c/*/messages", lambda route: route.abort())
    await desk.reply(answer)
    await expect(desk.pending).to_contain_text("Not sent")


async def test_an_answer_of_an_hour_ago_is_not_sent_before_it_is_asked_for(desk: Desk, server: LiveServer) -> None:
    person = new_phone(server.url)
    await _answered_in_vain(desk, person, "Where are you?", "I'll be there in ten minutes")
    await desk.page.evaluate(_AGE)
    await desk.page.unroute_all()
    await desk.open()
    await desk.page.locator("#toasts").get_by_role("button", name="Show").click()
    await person.write("Are you there?")
    await expect(desk.message("Are you there?")).to_be_visible()  # the page has caught up by now
    await expect(desk.pending).to_contain_text("Not sent")
    assert await messages_with(server.url, "I'll be there in ten minutes") == []
    await desk.pending.get_by_role("button", name="Try again").click()
    await status_of(server.url, "I'll be there in ten minutes", "delivered")


async def test_an_answer_leaves_though_its_conversation_is_not_opened_again(desk: Desk, server: LiveServer) -> None:
    await _answered_in_vain(desk, new_phone(server.url), "Did you answer?", "A moment ago")
    await desk.page.goto("about:blank")
    await desk.page.unroute_all()
    await desk.open()
    await status_of(server.url, "A moment ago", "delivered")


async def test_undo_stops_the_answer_and_gives_the_text_back(desk: Desk, server: LiveServer) -> None:
    person = new_phone(server.url)
    await person.write("Is it free?")
    await desk.open()
    await desk.open_thread(person.address[-4:])
    await desk.page.evaluate(_MAY_BE_SLOW)
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


async def test_files_go_with_an_answer(desk: Desk, server: LiveServer) -> None:
    person = new_phone(server.url)
    await person.write("Have you a menu?")
    await desk.open()
    await desk.open_thread(person.address[-4:])
    menu: FilePayload = {"name": "menu of today.png", "mimeType": "image/png", "buffer": PICTURE}
    prices: FilePayload = {"name": "prices.txt", "mimeType": "text/plain", "buffer": b"Bread 2"}
    await desk.page.locator("#composer [type=file]").set_input_files([menu, prices])
    attached = desk.page.locator("#composer .file")
    await expect(attached).to_have_count(2)
    await expect(desk.page.locator("#composer .uploading")).to_have_count(0)
    await desk.page.get_by_role("button", name="Remove prices.txt").click()
    await expect(attached).to_have_text(["menu of today.png\u00d7"])
    await desk.page.reload()  # it is part of the draft
    await expect(attached).to_have_text(["menu of today.png\u00d7"])
    await desk.body.press("Control+Enter")  # without a text
    await expect(desk.page.locator("#messages .outbound .picture img")).to_have_attribute("alt", "menu of today.png")
    await expect(attached).to_have_count(0)
    await expect(desk.pending).to_have_count(0)
    await expect(desk.page.locator("#messages > :last-child .status")).to_be_in_viewport()


async def test_a_file_that_is_dropped_is_attached_and_undo_gives_it_back(desk: Desk, server: LiveServer) -> None:
    person = new_phone(server.url)
    await person.write("A receipt, please")
    await desk.open()
    await desk.open_thread(person.address[-4:])
    await desk.page.evaluate(_DROP, "receipt.txt")
    await expect(desk.page.locator("#composer .file:not(.uploading)")).to_have_text("receipt.txt\u00d7")
    await desk.page.evaluate(_MAY_BE_SLOW)
    await desk.reply("Here it is")
    await desk.page.get_by_role("button", name="Undo").click()
    await expect(desk.body).to_have_value("Here it is")
    await expect(desk.page.locator("#composer .file")).to_have_text("receipt.txt\u00d7")


async def test_a_file_that_is_refused_says_why(desk: Desk, server: LiveServer) -> None:
    person = new_phone(server.url)
    await person.write("Send me nothing")
    await desk.open()
    await desk.open_thread(person.address[-4:])
    await desk.page.locator("#composer [type=file]").set_input_files(
        {"name": "nothing.txt", "mimeType": "text/plain", "buffer": b""}
    )
    told = desk.page.locator("#toasts")
    await expect(told).to_contain_text("nothing.txt was not uploaded.")
    await expect(told).to_contain_text("empty")
    await expect(desk.page.locator("#composer .file")).to_have_count(0)


async def test_a_file_that_is_uploaded_meanwhile_joins_what_was_written_since(desk: Desk, server: LiveServer) -> None:
    person, other = new_phone(server.url), new_phone(server.url)
    await person.write("A large file, please")
    await other.write("I am next")
    await desk.open()
    await desk.open_thread("A large file, please")
    may_go_on = asyncio.Event()

    async def held(route: Route) -> None:
        await may_go_on.wait()
        await route.continue_()

    await desk.page.route("**/inbox/files?*", held)
    await desk.body.fill("First words")
    large: FilePayload = {"name": "large.txt", "mimeType": "text/plain", "buffer": b"large"}
    await desk.page.locator("#composer [type=file]").set_input_files(large)
    waiting = desk.page.locator("#composer .uploading")
    await expect(waiting).to_have_text("large.txt")
    await desk.open_thread("I am next")
    await expect(waiting).to_have_count(0)
    await desk.open_thread("A large file, please")
    await expect(waiting).to_have_text("large.txt")
    await desk.body.fill("Better words")
    await desk.body.press("Control+Enter")
    await expect(desk.page.locator("#composer-problems")).to_contain_text("still being uploaded")
    await desk.open_thread("I am next")
    may_go_on.set()
    kept = "() => Object.values(localStorage).some((each) => each.includes('large.txt'))"
    await desk.page.wait_for_function(kept, polling=200)
    await desk.open_thread("A large file, please")
    await expect(desk.body).to_have_value("Better words")
    await expect(desk.page.locator("#composer .file")).to_have_text("large.txt\u00d7")
