"""The files that a vendor takes, by its documentation: what it would refuse is refused before it is asked."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from app.providers.base import OutboundFile, OutboundMessage

_MEGABYTE = 1_000_000


@dataclass(frozen=True, slots=True)
class TakenFiles:
    """The largest size of each type, in bytes, that of any other type, and that of all files of a message together.

    Without `others` a type that is not in `types` is refused.
    """

    vendor: str
    types: Mapping[str, int] = field(default_factory=dict)
    others: int | None = None
    together: int | None = None

    def refusals(self, message: OutboundMessage) -> dict[str, str]:
        """The refusal of the attachments, if there is one, with the names of the files."""
        said = [sentence for file in message.files.values() if (sentence := self._refused(file))]
        if (
            not said
            and self.together is not None
            and sum(each.size for each in message.files.values()) > self.together
        ):
            names = ", ".join(each.name for each in message.files.values())
            said = [f"{self.vendor} takes {_size(self.together)} in a message: {names} are larger together."]
            if len(message.files) == 1:
                said = [f"{self.vendor} takes {_size(self.together)} in a message: {names} is larger."]
        return {"attachments": " ".join(said)} if said else {}

    def _refused(self, file: OutboundFile) -> str | None:
        most = self.types.get(file.content_type, self.others)
        if most is None:
            return f"{self.vendor} takes no file of the type {file.content_type}: {file.name}."
        if file.size > most:
            return f"{self.vendor} takes {_size(most)} of {file.content_type}: {file.name} is larger."
        return None


def _size(count: int) -> str:
    return f"{count / _MEGABYTE:g} MB"
