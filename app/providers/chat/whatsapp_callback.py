"""Reading of WhatsApp's callbacks: messages, statuses, and echoes of what was sent from the business's own phone.

Callbacks: https://developers.facebook.com/documentation/business-messaging/whatsapp/webhooks/overview
People without a number: https://developers.facebook.com/documentation/business-messaging/whatsapp/business-scoped-user-ids
Groups: https://developers.facebook.com/documentation/business-messaging/whatsapp/groups/groups-messaging
Echoes: https://developers.facebook.com/documentation/business-messaging/whatsapp/webhooks/reference/smb_message_echoes
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from app.consent import ReportedConsent
from app.details import MessageDetails
from app.domain import Direction, MessageStatus
from app.phone_numbers import compared_form
from app.providers.base import CallbackItem, InboundMessage, Receipt, Unread
from app.providers.chat.fields import Fields, fields_in, objects_in, text_in
from app.providers.chat.whatsapp_content import media_of, words_of
from app.providers.toolbox.models import moment_of
from app.providers.toolbox.verification import with_plus

#: `deleted` has no counterpart. `played` is a voice message's `read`. `failed` is WhatsApp's only status for an
#: accepted message that it could not deliver; it refuses others in its answer.
STATUSES = {
    "sent": MessageStatus.SENT,
    "delivered": MessageStatus.DELIVERED,
    "read": MessageStatus.READ,
    "played": MessageStatus.READ,
    "failed": MessageStatus.UNDELIVERED,
}
#: The error for a person who wants no marketing messages of this business. Other messages still arrive.
NO_MARKETING = 131050
#: The kind and the prefix of the address of a person without a visible number, and the prefix of a group's.
NUMBERLESS, GROUP = "whatsapp:", "whatsapp:group-"

#: Lists of a change's value; the fields of a webhook that have them.
_FIELDS = {"messages", "message_echoes", "smb_message_echoes"}
_CHANGES_OF_PERSON = {"user_changed_number", "customer_changed_number", "user_changed_user_id"}
#: An id that an address can hold.
_ID = re.compile(r"[\x21-\x7e]{1,190}")
_LONGEST_ID = 400
_LONGEST_STATUS = 63


@dataclass(frozen=True, slots=True)
class _Person:
    """A person by number, by Meta's id for the business, or by both, and the name of the profile."""

    number: str
    user_id: str
    name: str = ""

    @property
    def address(self) -> str:
        """The number, if it is told; empty if nothing is."""
        return self.number or (f"{NUMBERLESS}{self.user_id}" if self.user_id else "")

    @property
    def alias(self) -> str | None:
        return f"{NUMBERLESS}{self.user_id}" if self.number and self.user_id else None


def items_of(document: object, numbers: Mapping[str, str]) -> Iterator[CallbackItem | Unread]:
    """The items of a callback; `numbers` are ours by their ids. Changes of other fields do not concern us.

    Raises `ValueError` for a document that is no callback of WhatsApp.
    """
    if text_in(document, "object") != "whatsapp_business_account" or not _has_list(document, "entry"):
        raise ValueError("not a callback about a WhatsApp business account")
    for entry in objects_in(document, "entry"):
        if not _has_list(entry, "changes"):
            yield Unread("an entry without a list of changes")
        for change in objects_in(entry, "changes"):
            if text_in(change, "field") in _FIELDS or not change.get("field"):
                yield from _items(fields_in(change, "value"), numbers)


def _has_list(document: object, name: str) -> bool:
    return isinstance(document, dict) and isinstance(document.get(name), list)


def _items(value: Fields, numbers: Mapping[str, str]) -> Iterator[CallbackItem | Unread]:
    """The items of one change, one by one, so that none that can't be read costs another."""
    number = re.sub(r"[^0-9]", "", text_in(value, "metadata", "display_phone_number"))
    ours = numbers.get(text_in(value, "metadata", "phone_number_id")) or (f"+{number}" if number else "")
    if not ours:
        yield Unread("a change names one of our numbers in its metadata")
        return
    for name, read in (("messages", _messages), ("message_echoes", _echoes), ("statuses", _receipts)):
        written = value.get(name) or []
        for item in written if isinstance(written, list) else [written]:
            try:
                if not isinstance(item, dict):
                    raise ValueError(f"{name} are objects")
                is_echo = read is _messages and _is_ours(item, ours)
                yield from _echoes(item, value, ours) if is_echo else read(item, value, ours)
            except ValueError as error:
                yield Unread(str(error))


def _is_ours(message: Fields, ours: str) -> bool:
    """True for a message that the business sent, though it stands among those that came in."""
    is_from_us = compared_form(_number(text_in(message, "from"))) == compared_form(ours)
    return is_from_us and bool(text_in(message, "to") or text_in(message, "to_user_id"))


def _messages(message: Fields, value: Fields, ours: str) -> Iterator[InboundMessage]:
    """A message, or two about a changed number: one in the conversation of each."""
    system = fields_in(message, "system")
    number = text_in(message, "from") or text_in(system, "customer")
    user_id = text_in(message, "from_user_id") or text_in(system, "previous_user_id")
    sender = _person(value, number, user_id)
    if not sender.address:
        raise ValueError("a message has a sender")
    if text_in(system, "type") in _CHANGES_OF_PERSON:
        yield from _changes(message, sender, ours)
        return
    group = _group(message)
    yield InboundMessage(
        provider_message_id=_id(message),
        channel="whatsapp",
        type="whatsapp",
        from_address=group or sender.address,
        to_address=ours,
        body=words_of(message),
        attachments=list(media_of(message)),
        kept=media_of(message),
        sent_at=moment_of(message.get("timestamp")),
        details=MessageDetails(from_name=sender.name or None, author=sender.address if group else None),
        alias=None if group else sender.alias,
    )


def _changes(message: Fields, before: _Person, ours: str) -> Iterator[InboundMessage]:
    """The news of a changed number, for the conversation of the old one and for that of the new one."""
    system = fields_in(message, "system")
    now = _Person(_number(text_in(system, "wa_id") or text_in(system, "new_wa_id")), _user_id(system, "user_id"))
    # A new form of the same number is no change of the conversation.
    is_told = now.address != "" and compared_form(now.address) != compared_form(before.address)
    body = f"{before.address} is now {now.address}." if is_told else words_of(message)
    for id_, address, alias in (("", before.address, None), (":new", now.address, now.alias)):
        if id_ == "" or is_told:
            yield InboundMessage(
                provider_message_id=f"{_id(message)}{id_}",
                channel="whatsapp",
                type="whatsapp",
                from_address=address,
                to_address=ours,
                body=body,
                sent_at=moment_of(message.get("timestamp")),
                details=MessageDetails(from_name=before.name or None),
                alias=alias,
            )


def _echoes(echo: Fields, value: Fields, ours: str) -> Iterator[InboundMessage]:
    """A message that the business sent from its phone or another device."""
    recipient = _person(value, text_in(echo, "to"), text_in(echo, "to_user_id"))
    group = _group(echo)
    if not (group or recipient.address):
        raise ValueError("an echo has a recipient")
    yield InboundMessage(
        provider_message_id=_id(echo),
        channel="whatsapp",
        type="whatsapp",
        from_address=ours,
        to_address=group or recipient.address,
        body=words_of(echo),
        attachments=list(media_of(echo)),
        kept=media_of(echo),
        sent_at=moment_of(echo.get("timestamp")),
        direction=Direction.OUTBOUND,
        alias=None if group else recipient.alias,
    )


def _receipts(status: Fields, value: Fields, ours: str) -> Iterator[Receipt]:
    """A receipt. Each member of a group has receipts of its own."""
    word = text_in(status, "status")
    if not 0 < len(word) <= _LONGEST_STATUS:
        raise ValueError("a status has a word")
    recipient = _Person(_number(text_in(status, "recipient_id")), _user_id(status, "recipient_user_id"))
    is_of_group = text_in(status, "recipient_type") == "group"
    address = f"{GROUP}{text_in(status, 'recipient_id')}" if is_of_group else recipient.address
    member = text_in(status, "recipient_participant_id") or text_in(status, "recipient_participant_user_id")
    errors = objects_in(status, "errors")
    wants_no_marketing = any(text_in(error, "code") == str(NO_MARKETING) for error in errors)
    parts = [_id(status), word, text_in(status, "timestamp"), member]
    yield Receipt(
        event_id=":".join(parts if member else parts[:-1]),
        status=STATUSES.get(word),
        provider_message_id=_id(status),
        idempotency_key=text_in(status, "biz_opaque_callback_data") or None,
        detail="; ".join(map(_error, errors)) or None,
        occurred_at=moment_of(status.get("timestamp")),
        raw=status,
        recipient=address or None,
        alias=None if is_of_group else recipient.alias,
        consent=ReportedConsent.NO_MARKETING if wants_no_marketing and not is_of_group else None,
    )


def _error(error: Fields) -> str:
    said = (text_in(error, "error_data", "details"), text_in(error, "title"), text_in(error, "message"))
    return f"{text_in(error, 'code')} {next(filter(None, said), '')}".strip()[:300]


def _person(value: Fields, number: str, user_id: str) -> _Person:
    """A person whom a message names, with what the contacts beside it tell of the same one."""
    contacts = objects_in(value, "contacts")
    names = {number, user_id} - {""}
    known = next((each for each in contacts if names & {text_in(each, "wa_id"), text_in(each, "user_id")}), {})
    if not known and len(contacts) == 1:  # ids and numbers may differ, as in Brazil
        known = contacts[0]
    return _Person(
        _number(number or text_in(known, "wa_id")),
        user_id if _ID.fullmatch(user_id) else _user_id(known, "user_id"),
        text_in(known, "profile", "name") or text_in(known, "profile", "username"),
    )


def _number(id_: str) -> str:
    return with_plus(id_.strip())


def _user_id(document: Fields, name: str) -> str:
    id_ = text_in(document, name)
    return id_ if _ID.fullmatch(id_) else ""


def _group(message: Fields) -> str:
    """The address of the group that a message was sent to; empty for a message to one person."""
    group = text_in(message, "group_id")
    if group and not _ID.fullmatch(group):
        raise ValueError("the id of a group has at most 190 visible characters")
    return f"{GROUP}{group}" if group else ""


def _id(item: Fields) -> str:
    id_ = text_in(item, "id")
    if not 0 < len(id_) <= _LONGEST_ID:
        raise ValueError(f"an id has 1 to {_LONGEST_ID} characters")
    return id_
