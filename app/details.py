"""The facts that few messages have, stored as one JSON document beside a message. It imports nothing of ours."""

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

#: Characters of the name of a person.
LONGEST_NAME = 200


class Automatic(StrEnum):
    """The kind of a message that no person wrote."""

    REPLY = "reply"  #: such as an out-of-office notice.
    BOUNCE = "bounce"  #: a mail is late, or could not be delivered.
    DISPOSITION = "disposition"  #: a mail was displayed or deleted.
    COMPLAINT = "complaint"  #: a mail is unwanted.
    LIST = "list"  #: mail to the subscribers of a list.


@dataclass(frozen=True, slots=True)
class MessageDetails:
    """The optional facts of a message that few messages have, stored as one JSON document without empty fields.

    - `from_name` is the sender's name, as the sender wrote it, and `to_name` that of the recipient, as the tenant
      wrote it. `author` is the address of the person who wrote to a group or channel.
    - `reply_to` are the addresses that a mail wants its answer at, `cc` and `bcc` those that get a copy. `names` are
      the display names of these, by address. `left_out` are those that got no copy, because they refuse it.
    - `headers` are further headers of an outbound mail.
    - `metadata` are the pairs that a client has given the message.
    - `automatic` is None for a message by a person.
    - `date` is the sender's time, for a mail that is ordered by its arrival.
    - `in_reply_to_message` is the id of the message that a mail answers, by the Message-IDs in its headers.
    - `sent_to` is the address that an outbound mail went to, if the mail that it answers wants its answer elsewhere.
    - `sent_with` is the id of the first message of a request to several recipients; that one has none.
    - `verdicts` are those of the vendor's filters, by the names `spam` and `virus`.
    - `quiet_until` is the end of the quiet hours for which an outbound message was held.
    - `template` is the vendor's template that an outbound message fills in: its `name` and `language`, and the values
      `header`, `parameters` and `buttons`.
    - `traceparent` is the span of the request that an outbound message came with, if that is recorded.
    """

    from_name: str | None = None
    to_name: str | None = None
    author: str | None = None
    reply_to: list[str] = field(default_factory=list)
    cc: list[str] = field(default_factory=list)
    bcc: list[str] = field(default_factory=list)
    names: dict[str, str] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)
    headers: dict[str, str] = field(default_factory=dict)
    metadata: dict[str, str] = field(default_factory=dict)
    automatic: Automatic | None = None
    date: datetime | None = None
    in_reply_to_message: int | None = None
    sent_to: str | None = None
    sent_with: int | None = None
    verdicts: dict[str, str] = field(default_factory=dict)
    quiet_until: datetime | None = None
    template: dict[str, object] | None = None
    traceparent: str | None = None

    def document(self) -> dict[str, object] | None:
        """The fields that are not empty, ready for JSON; None if all are."""
        filled = {name: value for name in self.__slots__ if (value := getattr(self, name))}
        for name, time in (("date", self.date), ("quiet_until", self.quiet_until)):
            if time is not None:
                filled[name] = time.isoformat()
        return filled or None


NO_DETAILS = MessageDetails()
