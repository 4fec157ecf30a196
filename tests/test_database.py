"""Making connections, where no test of what stands on them would show it."""

import asyncio
import gc

import pytest

from app.database import connect

pytestmark = pytest.mark.anyio


async def test_whoever_gives_up_while_connecting_leaves_no_error_behind(database_url: str) -> None:
    """Whichever step it is at: what is left behind is reported by asyncio, to whoever happens to run then."""
    loop = asyncio.get_running_loop()
    reported: list[dict[str, object]] = []
    usual = loop.get_exception_handler()
    loop.set_exception_handler(lambda _, context: reported.append(context))
    steps = 0
    try:
        while True:
            connecting = asyncio.create_task(connect(database_url))
            for _ in range(steps):
                await asyncio.sleep(0)
            given_up = connecting.cancel()
            [outcome] = await asyncio.gather(connecting, return_exceptions=True)
            if not given_up:
                break
            assert isinstance(outcome, asyncio.CancelledError)
            steps += 1
        assert not isinstance(outcome, BaseException)
        await outcome.close()
        while left := [task for task in asyncio.all_tasks() if task.get_name() == "connecting"]:
            await asyncio.wait(left)
        gc.collect()
        await asyncio.sleep(0)
    finally:
        loop.set_exception_handler(usual)
    assert steps > 3
    assert reported == []
