"""Templates of WhatsApp: how Meta lists them, and how a message names one.

List: https://developers.facebook.com/documentation/business-messaging/whatsapp/templates/template-management
Sending: https://developers.facebook.com/documentation/business-messaging/whatsapp/messages/template-messages
"""

import re
from collections.abc import Iterator, Mapping, Sequence

from app.providers.chat.fields import Fields, objects_in, text_in
from app.providers.chat.templates import FilledTemplate, VendorTemplate

_PLACE = re.compile(r"\{\{\s*([A-Za-z0-9_]+)\s*\}\}")
#: The kinds of buttons whose value a message gives, and what Meta calls them when it does.
_WITH_VALUE = {"QUICK_REPLY": "quick_reply", "COPY_CODE": "copy_code", "OTP": "url", "URL": "url"}


def listed_templates(answer: Fields) -> list[VendorTemplate]:
    """The templates of one page of Meta's list. What can't be read is left out."""
    return [_template(each) for each in objects_in(answer, "data") if text_in(each, "name")]


def _template(listed: Fields) -> VendorTemplate:
    components = {text_in(each, "type").upper(): each for each in objects_in(listed, "components")}
    header, body = components.get("HEADER", {}), components.get("BODY", {})
    return VendorTemplate(
        name=text_in(listed, "name"),
        language=text_in(listed, "language"),
        status=text_in(listed, "status"),
        category=text_in(listed, "category").lower(),
        body=text_in(body, "text"),
        header=text_in(header, "format").lower() or None,
        header_parameters=_places(text_in(header, "text")),
        parameters=_places(text_in(body, "text")) or _code(listed),
        buttons=dict(_buttons(components.get("BUTTONS", {}))),
    )


def _places(text: str) -> list[str]:
    return list(dict.fromkeys(_PLACE.findall(text)))


def _code(listed: Fields) -> list[str]:
    """The place of the code: Meta writes the body of an authentication template itself."""
    return ["1"] if text_in(listed, "category").upper() == "AUTHENTICATION" else []


def _buttons(buttons: Fields) -> Iterator[tuple[str, str]]:
    for place, button in enumerate(objects_in(buttons, "buttons")):
        kind = text_in(button, "type").upper()
        is_filled = kind in {"OTP", "COPY_CODE"} or (kind == "URL" and _PLACE.search(text_in(button, "url")))
        if is_filled:
            yield str(place), kind.lower()


def written_template(
    template: FilledTemplate, medium: Mapping[str, object] | None, known: VendorTemplate | None
) -> dict[str, object]:
    """The object `template` of a request; `medium` is the parameter of a header that is a file.

    `known` tells the kinds of the buttons; without it, each is a link.
    """
    components: list[dict[str, object]] = []
    header = medium or (_text(template.header) if template.header else None)
    if header:
        components.append({"type": "header", "parameters": [header]})
    if template.parameters:
        components.append({"type": "body", "parameters": _body(template.parameters)})
    kinds = known.buttons if known is not None else {}
    for place, value in template.buttons.items():
        kind = _WITH_VALUE[kinds.get(place, "url").upper()]
        parameter = {"type": "coupon_code", "coupon_code": value} if kind == "copy_code" else _text(value)
        components.append({"type": "button", "sub_type": kind, "index": place, "parameters": [parameter]})
    return {"name": template.name, "language": {"code": template.language}, "components": components}


def _body(parameters: Mapping[str, str]) -> Sequence[Mapping[str, object]]:
    """The values in the order of their numbers, or with their names."""
    if all(name.isdecimal() for name in parameters):
        return [_text(parameters[name]) for name in sorted(parameters, key=int)]
    return [_text(value) | {"parameter_name": name} for name, value in parameters.items()]


def _text(value: str) -> dict[str, object]:
    return {"type": "text", "text": value}
