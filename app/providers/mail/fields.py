"""The fields that only a mail has: names, copies, the addresses that want an answer, and further headers."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class MailFields:
    """The optional fields of an outbound mail, as its message's details have them.

    `names` are those of `cc`, `bcc` and `reply_to`, by address.
    """

    from_name: str = ""
    to_name: str = ""
    cc: Sequence[str] = ()
    bcc: Sequence[str] = ()
    reply_to: Sequence[str] = ()
    names: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, details: Mapping[str, Any] | None, left_out: Collection[str] = ()) -> "MailFields":
        """The fields in the document of a message's details, without the copies that are left out."""
        if not details:
            return NO_FIELDS
        return cls(
            from_name=details.get("from_name") or "",
            to_name=details.get("to_name") or "",
            cc=[each for each in details.get("cc", ()) if each not in left_out],
            bcc=[each for each in details.get("bcc", ()) if each not in left_out],
            reply_to=details.get("reply_to", ()),
            names=details.get("names", {}),
            headers=details.get("headers", {}),
        )

    @property
    def copies(self) -> list[str]:
        """The addresses that get a copy."""
        return [*self.cc, *self.bcc]

    @property
    def change_the_mail(self) -> bool:
        """True if a provider that knows none of these fields would send another mail."""
        return bool(self.cc or self.bcc or self.reply_to or self.headers)


NO_FIELDS = MailFields()
