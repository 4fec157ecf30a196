"""Parts of texts that several vendors share: RCS, groups, subjects, and failures of a part."""

import hashlib
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace

from app.domain import IN_PART, Keyword
from app.providers.base import InboundMessage, OutboundMessage

#: The type of a message that came by Rich Communication Services, beside `sms` and `mms`.
RCS = "rcs"
_GROUP = "group:"
#: Of the value of an address, in characters.
_LONGEST_GROUP = 200
_RCS_NUMBER = re.compile(r"rcs:(\+?[0-9]{3,15})", re.ASCII)
#: Phones add people by their mail addresses too.
_MEMBER = re.compile(r"\+?[0-9]{3,15}|[^\s,]+@[^\s,]+", re.ASCII)
#: What phones write into the subject of a message that has none.
_NO_SUBJECT = re.compile(r"[\s()<>\[\]._\-]*(?:no[ _-]?subject)?[\s()<>\[\]._\-]*", re.IGNORECASE)
#: The keywords that vendors act on and reply to themselves, as Twilio and Telnyx name them.
_HANDLED = {"STOP": Keyword.STOP, "START": Keyword.START, "HELP": Keyword.HELP}


def handled_keyword(word: str | None) -> Keyword | None:
    """The keyword that the vendor has already acted on, by its name for it."""
    return _HANDLED.get((word or "").upper())


def without_rcs(address: str) -> str:
    """The number in `rcs:+18045551234`: it has one conversation for all that its owner writes. Others stay."""
    found = _RCS_NUMBER.fullmatch(address)
    return found[1] if found else address


def with_subject(subject: str | None, text: str) -> str:
    """The words of a media message: its subject above its text, unless there is none, or the text begins with it."""
    subject = (subject or "").strip()
    if _NO_SUBJECT.fullmatch(subject) or text.lstrip().startswith(subject):
        return text
    return f"{subject}\n{text}" if text.strip() else subject


def place(latitude: object, longitude: object, *names: str | None) -> str:
    """A place that was shared, as lines of text; empty without one."""
    if latitude in {None, ""} or longitude in {None, ""}:
        return ""
    return "\n".join(line for line in (*names, f"{latitude}, {longitude}") if line)


def in_part(said: str | None, parts: str = "one of its parts did not arrive") -> str:
    """The detail of a failure that concerns some of a text's parts, or some of a group's members."""
    return f"{IN_PART}: {parts}" + (f" ({said})" if said else "")


def in_its_group(message: InboundMessage, others: Iterable[str]) -> InboundMessage:
    """The message in the conversation of its group, if others than the two ends got it; the author is a detail.

    A group is named by its members without us, in any order: `group:+18045551234,+18045557777`.
    """
    named = {each for each in others if _MEMBER.fullmatch(each)}
    members = {message.from_address, *named} - {message.to_address, ""}
    if len(members) < 2:
        return message
    details = replace(message.details, author=message.from_address)
    return replace(message, from_address=_group_of(members), details=details)


def recipient_of(members: Collection[str]) -> str:
    """The address that a message went to: that of one person, or that of a group."""
    return next(iter(members)) if len(members) == 1 else _group_of(set(members))


def _group_of(members: Iterable[str]) -> str:
    named = sorted(members)
    value = ",".join(named)
    if len(value) > _LONGEST_GROUP or not all(_MEMBER.fullmatch(member) for member in named):
        value = f"sha256-{hashlib.sha256(value.encode()).hexdigest()}"
    return f"{_GROUP}{value}"


def is_group(address: str) -> bool:
    """True for the address of a group."""
    return address.startswith(_GROUP)


def members_of(address: str) -> list[str]:
    """The members that an address of a group names; none if it names them in another way than messages do."""
    members = address.removeprefix(_GROUP).split(",")
    return members if len(members) > 1 and _group_of(set(members)) == address else []


def refused_group(payload: OutboundMessage) -> Mapping[str, str]:
    """The `refusals` of a vendor that can't send to a group."""
    if not is_group(payload.to_address):
        return {}
    return {"to": "This provider can't write to a group. Write to each of its members."}
