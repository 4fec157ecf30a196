"""The status page in a browser: on a phone, in the dark, and without a script."""

from typing import Any

import pytest
from playwright.async_api import Browser

from tests.browser.desk import desk_at
from tests.cases import each_case
from tests.factories import sms, until
from tests.live import LiveServer

pytestmark = pytest.mark.slow

_NEITHER_SCROLLS = "document.documentElement.scrollWidth <= document.documentElement.clientWidth"


@each_case(
    "options",
    [
        {"viewport": {"width": 390, "height": 844}, "color_scheme": "light", "java_script_enabled": False},
        {"viewport": {"width": 390, "height": 844}, "color_scheme": "dark"},
        {"viewport": {"width": 1280, "height": 800}, "color_scheme": "light"},
    ],
)
async def test_the_page_fits_its_window_and_loads_itself_again(
    browser: Browser, server: LiveServer, options: dict[str, Any]
) -> None:
    async with desk_at(browser, server.url, **options) as desk:
        assert (await desk.page.request.post(f"{server.url}/api/messages/sms", data=sms())).status == 200
        # A page that loads itself again has to offer another that does not (WCAG 2.2.1): its first link.
        await desk.open("/status")
        await desk.page.get_by_role("link", name="Stop").click()
        await desk.page.wait_for_url("**/status?refresh=off")
        if options.get("java_script_enabled", True):
            assert await desk.page.evaluate(_NEITHER_SCROLLS)
            assert await desk.inspect() == []
        await desk.page.get_by_role("link", name="Refresh").click()
        await desk.page.wait_for_url("**/status")
        moment = desk.page.locator("header time")
        first = await moment.get_attribute("datetime")
        await until(lambda: moment.get_attribute("datetime"), lambda found: found != first)
        assert desk.complaints == []
