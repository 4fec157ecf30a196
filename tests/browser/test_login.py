"""Logging in with a key, and what happens when the key is revoked."""

import httpx
import pytest
from playwright.async_api import expect

from tests.browser.desk import Desk
from tests.browser.people import new_phone
from tests.live import LOCAL, LiveServer

pytestmark = pytest.mark.slow


async def test_a_person_is_logged_in_until_the_key_is_revoked(desk: Desk, server: LiveServer) -> None:
    person = new_phone(server.url)
    await person.write("Who answers here?")
    async with httpx.AsyncClient(verify=LOCAL, base_url=server.url) as operator:
        new = {"tenant_id": 1, "name": "Anna Berg", "scopes": ["read", "send"]}
        key = (await operator.post("/api/admin/keys", json=new)).raise_for_status().json()
        await desk.open("/login?next=/inbox")
        await desk.page.get_by_label("API key").fill("msk_1_abcdefghij_wrong")
        await desk.page.get_by_role("button", name="Log in").click()
        await expect(desk.page.get_by_role("alert")).to_be_visible()
        await desk.page.get_by_label("API key").fill(key["token"])
        await desk.page.get_by_role("button", name="Log in").click()
        await expect(desk.page.locator("header")).to_contain_text("Anna Berg")
        await desk.open_thread("Who answers here?")
        await desk.reply("It is me, Anna")
        await expect(desk.message("It is me, Anna")).to_contain_text("Anna Berg")
        await desk.body.fill("A word that must not be lost")
        (await operator.delete(f"/api/admin/keys/1/{key['id']}")).raise_for_status()
        await expect(desk.page.locator("#connection")).to_have_attribute("data-state", "logged_out")
        await expect(desk.body).to_have_value("A word that must not be lost")
