"""The shared part of `tenants` and `keys`: one transaction for the chosen action."""

import argparse
import asyncio
from collections.abc import Awaitable, Callable, Iterable

from pydantic import ValidationError
from sqlalchemy.ext.asyncio import AsyncSession

from app.addresses import InvalidAddress
from app.commands import ACTOR, refuse, say
from app.config import Settings
from app.db.connectivity.pooler import with_pooler_known
from app.db.engine import create_serving_engine
from app.db.schema.migrate import prepared_database
from app.services.tenancy.administration import AdministrationService

#: Rows fetched at a time when a whole list is printed.
PAGE = 1000

#: Performs an action and returns the lines to print.
Action = Callable[[AdministrationService, argparse.Namespace, Settings], Awaitable[Iterable[str]]]


def run(settings: Settings, chosen: argparse.Namespace) -> int:
    """Run the chosen action, even while the service runs; 0 when it is done, 2 if it is refused."""
    with prepared_database(settings) as url:
        try:
            say(*asyncio.run(_in_a_transaction(url, settings, chosen)))
        except InvalidAddress as error:
            return refuse(str(error))
        except ValidationError as error:
            return refuse(*(f"{each['loc'][0]}: {each['msg']}" for each in error.errors(include_input=False)))
    return 0


async def _in_a_transaction(url: str, settings: Settings, chosen: argparse.Namespace) -> list[str]:
    engine = create_serving_engine(url, await with_pooler_known(url, settings))
    try:
        async with AsyncSession(engine, expire_on_commit=False) as session, session.begin():
            return list(await chosen.does(AdministrationService(session, actor=ACTOR), chosen, settings))
    finally:
        await engine.dispose()


def add_action(
    chosen: "argparse._SubParsersAction[argparse.ArgumentParser]", name: str, does: Action, help: str
) -> argparse.ArgumentParser:
    parser = chosen.add_parser(name, help=help)
    parser.set_defaults(does=does)
    return parser
