"""`python -m app migrate`: brings the database to the schema of this version."""

import argparse

from app.config import Settings
from app.db.engine import provided_database
from app.db.schema.migrate import migrate


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--distributed",
        action="store_true",
        help="distribute the tables over the nodes of a Citus cluster, whose coordinator DATABASE_URL names",
    )


def run(settings: Settings, chosen: argparse.Namespace) -> int:
    with provided_database(settings) as url:
        migrate(url, distributed=chosen.distributed)
    return 0
