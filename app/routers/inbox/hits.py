"""Hits of a search as templates show them."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from app.routers.inbox.views import spoken, time_of


@dataclass(frozen=True, slots=True)
class Hit:
    """A hit: its title, the text in parts that may be marked, and the conversation that it opens.

    `person` is the name or address of the other end; `title` the subject of a mail, or what else was found.
    """

    kind: str
    title: str
    conversation_id: int | None
    message_id: int | None = None
    channel: str | None = None
    is_ours: bool = False
    at: datetime | None = None
    person: str = ""
    parts: tuple[tuple[str, bool], ...] = ()

    @property
    def address(self) -> str | None:
        """The page that it opens; None where the contact has no conversation."""
        if self.conversation_id is None:
            return None
        place = f"?message={self.message_id}#message-{self.message_id}" if self.message_id else ""
        return f"/inbox/c/{self.conversation_id}{place}"


def shown_hit(hit: Mapping[str, Any]) -> Hit:
    """A hit as the search returns it, of any kind."""
    conversation_id = hit.get("conversation_id")
    person = spoken(hit.get("person") or "")
    if hit["kind"] == "contact":
        address = spoken(hit["address"])
        name = hit.get("name")
        return Hit("contact", name or address, conversation_id, parts=((address, False),) if name else ())
    if hit["kind"] == "tag":
        return Hit("tag", person, conversation_id, parts=((hit["tag"], True),))
    return Hit(
        "message",
        hit.get("subject") or "",
        conversation_id,
        hit["message_id"],
        hit["channel"],
        hit["direction"] == "outbound",
        time_of(hit["sent_at"]),
        person,
        tuple((each["text"], bool(each["match"])) for each in hit["snippet"]),
    )
