"""The time of one retention pass: `python -m bench.retention URL` prints its seconds.

Another pass precedes it, which removes what has expired, and has the statements compiled.
"""

import asyncio
import sys
import time

import structlog

from app.config import Settings
from app.db.engine import create_serving_engine
from app.services.people.retention import remove_what_is_over


async def _pass_seconds(url: str) -> float:
    settings = Settings(retention_days=365)
    engine = create_serving_engine(url, settings)
    try:
        await remove_what_is_over(engine, settings)
        started = time.perf_counter()
        await remove_what_is_over(engine, settings)
        return time.perf_counter() - started
    finally:
        await engine.dispose()


if __name__ == "__main__":
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    print(asyncio.run(_pass_seconds(sys.argv[1])))
