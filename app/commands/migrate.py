"""`python -m app migrate`: brings the database to the schema of this version."""

import argparse

from app.config import Settings
from app.db.engine import provided_database
from app.db.migrate import migrate


def run(settings: Settings, _: argparse.Namespace) -> int:
    with provided_database(settings) as url:
        migrate(url)
    return 0
