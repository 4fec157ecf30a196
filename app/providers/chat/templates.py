"""Templates of chats: texts that the vendor has approved, with places that a message fills in."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self


@dataclass(frozen=True, slots=True)
class FilledTemplate:
    """A template as a message fills it in.

    - `parameters` are the values of the body, by the names of their places. These are numbers from 1 on, if the
      template has no names.
    - `header` is the value of a header of text. A picture, a video or a document is the attachment of the message.
    - `buttons` are the values of buttons, by their places from 0 on: the end of a link, or a code.
    """

    name: str
    language: str
    parameters: Mapping[str, str] = field(default_factory=dict)
    header: str | None = None
    buttons: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, details: Mapping[str, Any] | None) -> Self | None:
        """The template in the details of a stored message."""
        found = (details or {}).get("template")
        return None if found is None else cls(**found)


@dataclass(frozen=True, slots=True)
class VendorTemplate:
    """A template as the vendor has it, in one language.

    `status` and `category` are the vendor's words. `header` is `text`, `image`, `video`, `document` or `location`.
    `header_parameters` and `parameters` are the names of the places in the header and in the body, in their order.
    `buttons` are the kinds of those buttons that have a value, by their places from 0 on.
    """

    name: str
    language: str
    status: str
    category: str
    body: str = ""
    header: str | None = None
    header_parameters: Sequence[str] = ()
    parameters: Sequence[str] = ()
    buttons: Mapping[str, str] = field(default_factory=dict)


def misfit(template: FilledTemplate, known: Sequence[VendorTemplate]) -> str | None:
    """The reason for which a template can't be sent as it is filled in; None if it can. A sentence."""
    of_name = [each for each in known if each.name == template.name]
    if not of_name:
        return "There is no template of this name."
    found = next((each for each in of_name if each.language == template.language), None)
    if found is None:
        return f"This template is there in {', '.join(sorted(each.language for each in of_name))}."
    if found.status.upper() != "APPROVED":
        return f"This template is not approved: it is {found.status.lower()}."
    if set(template.parameters) != set(found.parameters):
        return f"This template has the parameters {', '.join(found.parameters) or 'none'}."
    if bool(template.header) != bool(found.header_parameters):
        return f"The header of this template has {'a' if found.header_parameters else 'no'} value."
    if set(template.buttons) != set(found.buttons):
        return f"The buttons of this template have values at {', '.join(found.buttons) or 'no place'}."
    return None
