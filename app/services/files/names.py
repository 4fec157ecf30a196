"""Names and media types of files, made safe: what a sender or a vendor has written is not trusted."""

import re
import unicodedata
from urllib.parse import unquote, urlsplit

from app.providers.base import FileFacts
from app.providers.mail.mime.file_endings import ENDINGS

ANY_TYPE = "application/octet-stream"

#: Characters of a name. File systems take 255 bytes, and programs append endings of their own.
_LONGEST_NAME = 100
_MEDIA_TYPE = re.compile(r"[a-z0-9][a-z0-9!#$&^_.+-]{0,60}/[a-z0-9][a-z0-9!#$&^_.+-]{0,60}")


def safe_name(written: str) -> str:
    """A file name without a path, invisible characters, or dots at its ends."""
    name = unicodedata.normalize("NFC", written.encode("utf-8", "replace").decode()).replace("\\", "/")
    name = "".join(character for character in name.rpartition("/")[2] if unicodedata.category(character)[0] != "C")
    stem, dot, ending = re.sub(r"\s+", " ", name).strip(" .").rpartition(".")
    if not dot or len(ending) > 20:
        stem, dot, ending = stem + dot + ending, "", ""
    return stem[: _LONGEST_NAME - len(dot + ending)].rstrip(" .") + dot + ending or "file"


def safe_type(written: str) -> str:
    """A media type in lower case without parameters; `ANY_TYPE` for anything else."""
    return read_type(written) or ANY_TYPE


def read_type(written: str) -> str | None:
    """The same, and None for anything else."""
    kind = written.partition(";")[0].strip().lower()
    return kind if _MEDIA_TYPE.fullmatch(kind) else None


def unnamed(content_type: str) -> str:
    """The name of a file that has none."""
    return "file" + ENDINGS.get(content_type, "")


def name_of_kept(reference: str, facts: FileFacts) -> str:
    """The name of a file that a vendor keeps: its own, or the end of its address with an ending for its type."""
    if facts.name:
        return safe_name(facts.name)
    try:
        last = unquote(urlsplit(reference).path).rstrip("/").rpartition("/")[2]
    except ValueError:
        last = ""
    name = safe_name(last)
    return name if "." in name else name + ENDINGS.get(safe_type(facts.content_type), "")
