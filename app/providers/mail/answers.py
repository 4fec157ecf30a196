"""The mails that an inbound mail answers, by the Message-IDs in its headers (RFC 5322, 3.6.4)."""

import re
from collections.abc import Iterator
from itertools import islice

from app.providers.mail.mime.headers import MESSAGE_ID, Headers
from app.references import parse_reference

#: The most that are looked up. A thread may name hundreds.
_MOST = 10
#: Message-IDs by which a vendor replaces ours; the part before the @ is the id in its answer to a send.
_RENAMED = {
    "ses": re.compile(r"(email|[a-z]{2}(-[a-z]+)+-\d)\.amazonses\.com"),
    "postmark": re.compile(r"mtasv\.net"),
    "sendgrid": re.compile(r"(geopod-)?ismtpd[a-z0-9.-]*"),
}


def answered(headers: Headers) -> list[tuple[str, str]]:
    """The mails of ours that a mail names, the one that it answers first, as in `MailClaims.answers`; unchecked.

    In-Reply-To comes first, then References from its end.
    """
    named = dict.fromkeys(each for message_id in _named(headers) if (each := _ours(message_id)))
    return list(islice(named, _MOST))


def _named(headers: Headers) -> Iterator[str]:
    for wanted in ("in-reply-to", "references"):
        for name, value in headers:
            if name.lower() == wanted:
                yield from reversed(MESSAGE_ID.findall(value))


def _ours(message_id: str) -> tuple[str, str] | None:
    local, _, domain = message_id.strip("<>").rpartition("@")
    if parse_reference(local):
        return "", local
    return next(((vendor, local) for vendor, its in _RENAMED.items() if its.fullmatch(domain.lower())), None)
