"""`python -m app restore DIRECTORY`: restores a backup, after which the service sends nothing twice."""

import argparse
from pathlib import Path

from app.backup.restoring import restore, settle
from app.commands import refuse, remark, say
from app.config import Settings
from app.db.engine import provided_database
from app.db.schema.migrate import prepare
from app.errors import ConfigurationError
from app.installation import command_name

_NEXT = (
    "What waited then may have been sent since. It is `unknown` now, and is not sent again by itself: a receipt "
    "settles it, and POST /api/messages/retry sends it. See docs/backup.md."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("directory", type=Path, nargs="?", help="the directory of a backup")
    parser.add_argument("--replace", action="store_true", help="drop all tables of the database first")
    parser.add_argument(
        "--keep-queue",
        action="store_true",
        help="send what waited: only if the service was stopped for the backup and has not run since",
    )
    parser.add_argument(
        "--settle-only",
        action="store_true",
        help="restore nothing, and put in doubt what waits in a database that was restored in another way",
    )


def run(settings: Settings, chosen: argparse.Namespace) -> int:
    if chosen.settle_only != (chosen.directory is None) or (chosen.settle_only and chosen.keep_queue):
        raise ConfigurationError("Name the directory of a backup, or --settle-only and nothing else.")
    with provided_database(settings) as url:
        if chosen.settle_only:
            prepare(url, production=True)
            in_doubt = settle(url, settings)
            say(f"{in_doubt} messages are in doubt.", *([_NEXT] if in_doubt else []))
            return 0
        try:
            done = restore(url, settings, chosen.directory, replace=chosen.replace, keep_queue=chosen.keep_queue)
        except OSError as error:
            return refuse(f"{error.filename} can't be copied: {error.strerror}.")
    manifest = done.manifest
    messages, files = manifest.rows["messages"], manifest.files
    say(f"The backup of {manifest.taken_at} is restored: {messages} messages, {files} files on disk.")
    if done.missing:
        remark(f"{done.missing} files are not in it, because they were removed while it was made.")
    if done.in_doubt:
        say(f"{done.in_doubt} messages are in doubt.", _NEXT)
    say(f"Next: `{command_name()} doctor`.")
    return 0
