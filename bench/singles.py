"""Single messages with pauses between them, as an idle service gets them."""

import asyncio
import itertools
import random

import httpx

from bench.load import messages
from bench.processes import HOST, BenchError

#: Random seconds between two messages: regular ones could coincide with a worker's polling.
_PAUSES = (0.05, 0.25)
_SEED = 20241101


async def send_singly(port: int, count: int, pairs: int) -> int:
    """Send `count` messages. Returns the number of answers with 2xx. Raises `BenchError` if a connection breaks."""
    chance = random.Random(_SEED)  # noqa: S311 - repeatable, not secret
    answered = 0
    try:
        async with httpx.AsyncClient(base_url=f"http://{HOST}:{port}", trust_env=False) as client:
            for message in itertools.islice(itertools.cycle(messages(pairs)), count):
                answer = await client.post("/api/messages/sms", json=message)
                answered += answer.is_success
                await asyncio.sleep(chance.uniform(*_PAUSES))
    except httpx.TransportError as error:
        raise BenchError(f"The service did not answer a single message: {error!r}") from None
    return answered
