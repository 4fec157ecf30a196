"""The shared part of `tenants` and `keys`: one transaction for the chosen action."""

import argparse
import asyncio
import sys
from collections.abc import Awaitable, Callable, Iterable

from pydantic import ValidationError
from sqlalchemy.ext.asyncio import AsyncSession

from app.addresses import InvalidAddress
from app.config import Settings
from app.db.engine import create_serving_engine, provided_database
from app.db.migrate import prepare
from app.errors import ServiceError
from app.services.tenancy.administration import AdministrationService

_ACTOR = "command line"
#: Rows fetched at a time when a whole list is printed.
PAGE = 1000

#: Performs an action and returns the lines to print.
Action = Callable[[AdministrationService, argparse.Namespace, Settings], Awaitable[Iterable[str]]]


def run(settings: Settings, chosen: argparse.Namespace) -> int:
    """Run the chosen action, even while the service runs; 0 when it is done, 2 if it is refused."""
    with provided_database(settings) as url:
        prepare(url, production=settings.is_production)
        try:
            asyncio.run(_in_a_transaction(url, settings, chosen))
        except (ServiceError, InvalidAddress) as error:
            return _refused(str(error))
        except ValidationError as error:
            return _refused(*(f"{each['loc'][0]}: {each['msg']}" for each in error.errors(include_input=False)))
    return 0


def _refused(*sentences: str) -> int:
    for sentence in sentences:
        print(sentence, file=sys.stderr)  # noqa: T201 - the answer to the command
    return 2


async def _in_a_transaction(url: str, settings: Settings, chosen: argparse.Namespace) -> None:
    engine = create_serving_engine(url, settings)
    try:
        async with AsyncSession(engine, expire_on_commit=False) as session, session.begin():
            lines = list(await chosen.does(AdministrationService(session, actor=_ACTOR), chosen, settings))
    finally:
        await engine.dispose()
    for line in lines:
        print(line, file=sys.stdout)  # noqa: T201 - the output of the command


def add_action(
    chosen: "argparse._SubParsersAction[argparse.ArgumentParser]", name: str, does: Action, help: str
) -> argparse.ArgumentParser:
    parser = chosen.add_parser(name, help=help)
    parser.set_defaults(does=does)
    return parser
