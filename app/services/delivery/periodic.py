"""Periodic tasks: a table of them runs in every worker, and of some only one worker of all takes each turn."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import structlog
from sqlalchemy import Float, Text, bindparam, func, not_, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncEngine

from app.db.connectivity.outage import outage
from app.db.engine import is_unavailable
from app.db.models import SharedTask
from app.db.statements.batches import SECOND

log = structlog.get_logger(__name__)

#: A shared task takes a fiftieth of the time at most, but it is never put off for longer.
_SHARE, _LONGEST_PAUSE_SECONDS = 0.02, 5.0
#: The part of its pause after which a task may run again, since workers do not wake up at the same moments.
_EARLY = 0.9


@dataclass(frozen=True, slots=True)
class PeriodicTask:
    """A piece of work that is done every so many seconds; an exception is logged as `on_failure`."""

    name: str
    seconds: float
    run: Callable[[], Awaitable[object]]
    on_failure: str
    is_shared: bool = False  #: done by one worker of all each time


_NAME, _PAUSE = bindparam("task", type_=Text()), bindparam("pause", type_=Float())
_next_turn = func.now() + _PAUSE * SECOND
# A time that lies much further ahead was set before the clock went back.
_is_waiting = SharedTask.due_at.between(
    func.now(), func.now() + 2 * func.greatest(_PAUSE, _LONGEST_PAUSE_SECONDS) * SECOND
)
_TAKE_TURN = (
    insert(SharedTask)
    .values(name=_NAME, due_at=_next_turn)
    .on_conflict_do_update(index_elements=[SharedTask.name], set_={"due_at": _next_turn}, where=not_(_is_waiting))
    .returning(SharedTask.name)
)
_PUT_OFF = update(SharedTask).where(SharedTask.name == _NAME).values(due_at=_next_turn)


async def take_turn(engine: AsyncEngine, name: str, seconds: float) -> bool:
    """True for one of all workers that ask within `seconds`. One that dies with its turn delays the task by one."""
    async with engine.begin() as connection:
        taken = await connection.execute(_TAKE_TURN, {"task": name, "pause": seconds * _EARLY})
        return taken.scalar() is not None


async def repeat(engine: AsyncEngine, task: PeriodicTask) -> None:
    """Run a task again and again, until it is cancelled."""
    clock = asyncio.get_running_loop().time
    while True:
        await asyncio.sleep(task.seconds)
        try:
            if not task.is_shared:
                await task.run()
            elif await take_turn(engine, task.name, task.seconds):
                began = clock()
                await task.run()
                pause = min((clock() - began) / _SHARE, _LONGEST_PAUSE_SECONDS)
                if pause > task.seconds:
                    async with engine.begin() as connection:
                        await connection.execute(_PUT_OFF, {"task": task.name, "pause": pause})
        except Exception as error:
            if is_unavailable(error):
                outage.note(error, batch=task.name)
            else:
                log.warning(task.on_failure, error=type(error).__name__)
