"""`python -m app backup DIRECTORY`: backs up the database and the files of messages, while the service runs."""

import argparse
from pathlib import Path

from app.backup.taking import take
from app.commands import refuse, remark, say
from app.config import Settings
from app.db.engine import provided_database


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("directory", type=Path, help="a new directory, which is there once the backup is complete")


def run(settings: Settings, chosen: argparse.Namespace) -> int:
    with provided_database(settings) as url:
        try:
            taken = take(url, settings, chosen.directory.absolute())
        except OSError as error:
            return refuse(f"{error.filename or chosen.directory} can't be written: {error.strerror}.")
    rows = taken.manifest.rows
    say(f"{chosen.directory} has {rows['messages']} messages and {taken.manifest.files} files on disk.")
    if taken.gone:
        remark(f"{taken.gone} files were removed while it was made.")
    return 0
