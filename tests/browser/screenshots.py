"""Pictures of the inbox for the documents: `python -m tests.browser.screenshots docs/images`.

They are taken of a service that is started for them, with the people of the demo. Japanese and emoji need their fonts
(Debian: `fonts-ipafont-gothic`, `fonts-noto-color-emoji`).
"""

import asyncio
import base64
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from playwright.async_api import Browser, expect

from tests.browser.chromium import chromium_path, launched
from tests.browser.desk import Desk, desk_at
from tests.live import LiveServer

LARGEST = 150_000  #: bytes of a picture
SHOWN, ITS_LAST_WORDS = "Miguel Santos", "That sounds good"
_CONVERSATIONS = 12
_WIDE: dict[str, Any] = {"viewport": {"width": 1280, "height": 800}}
_PHONE: dict[str, Any] = {"viewport": {"width": 390, "height": 844}, "is_mobile": True, "has_touch": True}
#: The pictures: the options of their window, and the thread that is open.
PICTURES: dict[str, tuple[dict[str, Any], str | None]] = {
    "inbox-light": (_WIDE | {"color_scheme": "light"}, SHOWN),
    "inbox-dark": (_WIDE | {"color_scheme": "dark"}, SHOWN),
    "inbox-phone-list": (_PHONE, None),
    "inbox-phone-thread": (_PHONE, SHOWN),
}


async def play(desk: Desk) -> None:
    """Play the demo, and wait for its conversations."""
    await desk.open()
    await desk.page.locator("form[action='/inbox/demo'] button").click()
    await expect(desk.page.locator("#list [data-conversation]")).to_have_count(_CONVERSATIONS)


async def take(browser: Browser, url: str, folder: Path) -> list[Path]:
    """Take all pictures, and return their files."""
    files = []
    for name, (options, words) in PICTURES.items():
        async with desk_at(browser, url, **options) as desk:
            await desk.open()
            if words is not None:
                await desk.open_thread(words)
                await expect(desk.message(ITS_LAST_WORDS)).to_be_visible()
                await expect(desk.row(words)).to_have_attribute("data-unread", "0")
            await desk.page.evaluate("document.activeElement.blur()")
            file = folder / f"{name}.webp"
            file.write_bytes(await _picture(desk))
            files.append(file)
    return files


async def _picture(desk: Desk) -> bytes:
    """The window as WebP, a third of the size of a PNG. Playwright alone does not write it."""
    session = await desk.page.context.new_cdp_session(desk.page)
    taken = await session.send("Page.captureScreenshot", {"format": "webp", "quality": 90})
    return base64.b64decode(taken["data"])


async def take_all(path: str, folder: Path) -> list[Path]:
    """Take the pictures of a service that is started for them, with the browser at `path`."""
    with tempfile.TemporaryDirectory() as directory:
        server = LiveServer(Path(directory), SIMULATOR_RECEIPT_DELAY_SECONDS="0.1")
        await asyncio.to_thread(server.start)
        try:
            async with launched(path) as browser:
                async with desk_at(browser, server.url) as desk:
                    await play(desk)
                return await take(browser, server.url, folder)
        finally:
            await asyncio.to_thread(server.stop)


def main(arguments: Sequence[str]) -> None:
    if len(arguments) != 1:
        sys.exit("usage: python -m tests.browser.screenshots FOLDER")
    path = chromium_path()
    if path is None:
        sys.exit("Chromium is not installed, and CHROMIUM names none.")
    folder = Path(arguments[0])
    folder.mkdir(parents=True, exist_ok=True)
    for file in asyncio.run(take_all(path, folder)):
        size = file.stat().st_size
        print(f"{file}: {size:,} bytes")
        if size > LARGEST:
            sys.exit(f"{file} is larger than {LARGEST:,} bytes.")


if __name__ == "__main__":
    main(sys.argv[1:])
