"""Inbound mails that unsubscribe: by the token of a link (RFC 2369), or by a keyword alone."""

import re

from app.consent import ConsentSource
from app.domain import Channel, Direction, Keyword, NewMessage
from app.keywords import ExtraWords, keyword_in
from app.providers.mail.html_source import looks_like_html, text_of_html
from app.providers.mail.quotes import split_quoted
from app.providers.mail.subjects import is_answer
from app.services.consent.ledger import Said
from app.services.consent.links import Subscription, UnsubscribeLinks

_WORD = "unsubscribe"
#: Characters; a mail with a longer body was not written to say one word.
_LONGEST_BODY = 20_000
#: The first line of a signature: the delimiter of RFC 3676, 4.3, or the line of a program on a telephone.
_SIGNATURE = re.compile(
    r"^(?:-- ?$|(?:sent from|get outlook for|envoyé (?:de|depuis)|enviado (?:desde|de|do)|gesendet (?:von|mit)|"
    r"von mein\w+ \w+ gesendet)\b)",
    re.IGNORECASE | re.MULTILINE,
)


def is_inbound_mail(message: NewMessage) -> bool:
    return message.channel == Channel.EMAIL and message.direction is Direction.INBOUND


def subscription_in(message: NewMessage, links: UnsubscribeLinks) -> Subscription | None:
    """The subscription whose token the subject of a mail holds, as a link by mail writes it.

    Any address may send it. Spaces within a token come from programs that fold long headers.
    """
    subject = (message.subject or "").strip()
    if subject[: len(_WORD)].lower() != _WORD:
        return None
    return links.opened("".join(subject[len(_WORD) :].split()))


def is_refusal(message: NewMessage, extra: ExtraWords) -> bool:
    """True for a mail by a person that says nothing but STOP, in the subject or in the body.

    With STOP in the subject the body is empty or says STOP, too. With STOP in the body the subject is empty, or that
    of an answer. A quotation and a signature do not count.
    """
    if message.details.automatic is not None or len(message.body) > _LONGEST_BODY:
        return False
    subject = (message.subject or "").strip()
    says_stop = keyword_in(subject, extra) is Keyword.STOP
    if not says_stop and subject and not is_answer(subject):
        return False
    body = _own_text(message.body, subject)
    return (says_stop and not body) or keyword_in(body, extra) is Keyword.STOP


def stop_by(message: NewMessage, message_id: int) -> Said:
    """The refusal of everything by the sender of a mail."""
    detail = f"{message.subject or ''} {message.body}".strip()[:64]
    return Said(message.contact.value, message.contact.type, ConsentSource.MAIL, message_id=message_id, detail=detail)


def _own_text(body: str, subject: str) -> str:
    """The text of a mail without quotation and signature. A quotation is in the body only if no provider split it."""
    if looks_like_html(body):
        body, _ = split_quoted(text_of_html(body, mark_quotes=True), subject)
    signature = _SIGNATURE.search(body)
    return (body[: signature.start()] if signature else body).strip()
