"""Measures how soon an inbound text is seen: `python -m tests.browser.latency [messages a second] [texts]`.

While a generator sends messages at a steady rate, texts arrive by webhook. Two browser windows with an open thread,
and a program that reads the event stream, note the moment at which they have a text. Printed are milliseconds after
the webhook's 200.
"""

import asyncio
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import httpx
from playwright.async_api import expect

from bench.load import messages
from tests.browser.chromium import found_chromium, launched
from tests.browser.desk import Desk, desk_at
from tests.browser.people import new_phone
from tests.live import LiveServer

_PAIRS = 1000
_SILENCE = 60  # seconds
_CONNECTIONS = 16
_HEAD = b"POST /api/messages/sms HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
#: Notes the time at which each text of the measurement is first in the thread.
_WATCH = """() => {
  window.seen = {};
  const note = () => {
    for (const text of document.querySelector('#messages').innerText.match(/text \\d+ of \\d+/g) || [])
      window.seen[text] ??= Date.now();
  };
  new MutationObserver(note).observe(document.querySelector('#messages'), {childList: true, subtree: true});
}"""


async def _send(port: int, per_second: float) -> None:
    """Send messages at a steady rate until cancelled, and print once a second how many were accepted."""
    bodies = [json.dumps(each).encode() for each in messages(_PAIRS)]
    begun, number, accepted = time.monotonic(), 0, 0

    async def connection() -> None:
        nonlocal number, accepted
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        while True:
            mine, number = number, number + 1
            await asyncio.sleep(begun + mine / per_second - time.monotonic())
            body = bodies[mine % len(bodies)]
            writer.write(_HEAD % len(body) + body)
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
            await reader.readexactly(length)
            accepted += head.startswith(b"HTTP/1.1 200")

    tasks = [asyncio.create_task(connection()) for _ in range(_CONNECTIONS)]
    while not any(task.done() for task in tasks):
        before = accepted
        await asyncio.sleep(1)
        print(accepted - before, flush=True)
    await asyncio.gather(*tasks)


async def _read(url: str, seen: dict[str, float], is_open: asyncio.Event) -> None:
    """Note when the event stream tells each text."""
    async with (
        httpx.AsyncClient(timeout=_SILENCE) as client,
        client.stream("GET", f"{url}/api/events/stream") as stream,
    ):
        is_open.set()
        async for line in stream.aiter_lines():
            if line.startswith("data:") and '"body":"text ' in (dense := line.replace('": "', '":"')):
                seen.setdefault(dense.split('"body":"', 1)[1].split('"', 1)[0], time.time() * 1000)


async def _measure(server: LiveServer, per_second: float, texts: int) -> None:
    async with (
        launched(found_chromium()) as browser,
        desk_at(browser, server.url) as one,
        desk_at(browser, server.url) as two,
    ):
        person = new_phone(server.url)
        await person.write("Is it live?")
        for desk in (one, two):
            await _show(desk)
        streamed: dict[str, float] = {}
        is_open = asyncio.Event()
        reading = asyncio.create_task(_read(server.url, streamed, is_open))
        await is_open.wait()
        generator = None
        if per_second:
            port = server.url.rsplit(":", 1)[1]
            generator = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "tests.browser.latency",
                "load",
                port,
                str(per_second),
                stdout=asyncio.subprocess.PIPE,
            )
            assert generator.stdout is not None
            for _ in range(4):
                await generator.stdout.readline()
        answered: dict[str, float] = {}
        for number in range(texts):
            text = f"text {number} of {texts}"
            await person.write(text)
            answered[text] = time.time() * 1000
            await asyncio.sleep(0.37)
        await expect(one.message(text)).to_be_visible()
        await expect(two.message(text)).to_be_visible()
        if generator is not None and generator.stdout is not None:
            generator.terminate()
            rates = [int(line) for line in (await generator.stdout.read()).split()]
            print(f"accepted a second: median {median(rates)}, of {per_second} that were sent")
        reading.cancel()
        for name, seen in {
            "first window": await one.page.evaluate("window.seen"),
            "second window": await two.page.evaluate("window.seen"),
            "event stream": streamed,
        }.items():
            after = sorted(seen[text] - at for text, at in answered.items() if text in seen)
            print(f"{name:<14} {_summary(after)}, {texts - len(after)} missing")


async def _show(desk: Desk) -> None:
    await desk.open()
    await desk.open_thread("Is it live?")
    await desk.page.evaluate(_WATCH)


def _summary(after: Sequence[float]) -> str:
    return f"median {median(after):.0f} ms, 95 % {after[int(len(after) * 0.95)]:.0f}, slowest {after[-1]:.0f}"


def main(words: Sequence[str]) -> None:
    if words[:1] == ["load"]:
        asyncio.run(_send(int(words[1]), float(words[2])))
        return
    per_second, texts = (*map(int, words), *(1000, 50)[len(words) :])
    with TemporaryDirectory() as directory:
        server = LiveServer(Path(directory))
        server.start()
        try:
            asyncio.run(_measure(server, per_second, texts))
        finally:
            server.stop()


if __name__ == "__main__":
    main(sys.argv[1:])
