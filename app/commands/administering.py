"""What `tenants` and `keys` have in common: a transaction for what was chosen."""

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
#: Of a list that is fetched whole.
PAGE = 1000

#: What comes of it is printed, a line each.
Deed = Callable[[AdministrationService, argparse.Namespace, Settings], Awaitable[Iterable[str]]]


def run(settings: Settings, chosen: argparse.Namespace) -> int:
    """Do what was chosen, also while the service runs; 0 when it is done, 2 when it can't be."""
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
        print(sentence, file=sys.stderr)  # noqa: T201 - for whoever typed it
    return 2


async def _in_a_transaction(url: str, settings: Settings, chosen: argparse.Namespace) -> None:
    engine = create_serving_engine(url, settings)
    try:
        async with AsyncSession(engine, expire_on_commit=False) as session, session.begin():
            lines = list(await chosen.does(AdministrationService(session, actor=_ACTOR), chosen, settings))
    finally:
        await engine.dispose()
    for line in lines:
        print(line, file=sys.stdout)  # noqa: T201 - it is what was asked for


def add_action(
    chosen: "argparse._SubParsersAction[argparse.ArgumentParser]", name: str, does: Deed, help: str
) -> argparse.ArgumentParser:
    parser = chosen.add_parser(name, help=help)
    parser.set_defaults(does=does)
    return parser
