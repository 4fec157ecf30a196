"""The content of WhatsApp messages as a person reads it. The message itself stays in the kept callback.

Contents: https://developers.facebook.com/documentation/business-messaging/whatsapp/webhooks/reference/messages
"""

from collections.abc import Callable, Iterator

from app.providers.base import FileFacts
from app.providers.chat.fields import Fields, fields_in, lines, objects_in, text_in, text_of
from app.providers.toolbox.json_documents import read_json

_MEDIA = ("image", "video", "audio", "voice", "document", "sticker")
#: In characters, of a vendor's name in brackets.
_LONGEST_NAME = 80
#: Fields of a form that the person neither saw nor filled in.
_OF_THE_FORM = {"flow_token", "wa_flow_response_params"}


def words_of(message: Fields) -> str:
    """The text that was written, chosen or filled in; for a kind without words its name in brackets.

    The advertisement or product that a message answers stands below it.
    """
    kind = _kind_of(message)
    words = _RENDERED[kind](message) if kind in _RENDERED else ""
    if not words and kind not in _MAY_BE_EMPTY:
        words = _named(kind or "message", _error_in(message) or text_in(message, kind, "type"))
    return lines(words, _referral(fields_in(message, "referral")), _product(message))


def media_of(message: Fields) -> dict[str, FileFacts]:
    """The files in a message, by the ids that Meta gives them."""
    if edited := fields_in(message, "edit", "message"):
        return media_of(edited)
    return {
        id_: FileFacts(text_in(message, kind, "filename"), text_in(message, kind, "mime_type"))
        for kind in _MEDIA
        if (id_ := text_in(message, kind, "id"))
    }


def _kind_of(message: Fields) -> str:
    """The kind that a message names, or else that of its content."""
    named = text_in(message, "type")
    return named or next((kind for kind in _RENDERED if message.get(kind)), "")


def _named(kind: str, detail: str = "") -> str:
    detail = f": {detail}" if detail and detail != kind else ""
    return f"[{kind.replace('_', ' ')[:_LONGEST_NAME]}{detail[:_LONGEST_NAME]}]"


def _error_in(message: Fields) -> str:
    if kind := text_in(message, "unsupported", "type"):
        return kind.replace("_", " ")
    for error in objects_in(message, "errors"):
        if said := text_in(error, "title") or text_in(error, "message"):
            return said
    return ""


def _audio(message: Fields) -> str:
    return "[voice message]" if fields_in(message, "audio").get("voice") is True else ""


def _document(message: Fields) -> str:
    caption, name = (text_in(message, "document", field) for field in ("caption", "filename"))
    return lines(caption, name if name != caption else "")


def _button(message: Fields) -> str:
    return text_in(message, "button", "text") or text_in(message, "button", "payload")


def _interactive(message: Fields) -> str:
    interactive = fields_in(message, "interactive")
    for kind in ("button_reply", "list_reply"):
        if chosen := text_in(interactive, kind, "title") or text_in(interactive, kind, "id"):
            return chosen
    if form := fields_in(interactive, "nfm_reply"):
        return _form(form)
    if answer := text_in(interactive, "call_permission_reply", "response"):
        return _named("call permission", answer)
    return text_in(interactive, "body", "text")


def _form(form: Fields) -> str:
    """The answers of a form, a line each; the form's own text where they can't be read."""
    answers = form.get("response_json")
    if isinstance(answers, str):
        try:
            answers = read_json(answers)
        except ValueError:
            answers = None
    return "\n".join(_answers(answers)) or text_in(form, "body")


def _answers(answers: object) -> Iterator[str]:
    for name, answer in answers.items() if isinstance(answers, dict) else ():
        if name in _OF_THE_FORM:
            continue
        if isinstance(answer, dict):
            yield from _answers(answer)
        elif value := _value(answer):
            yield f"{name}: {value}"


def _value(answer: object) -> str:
    if isinstance(answer, list):
        return ", ".join(value for each in answer if (value := _value(each)))
    if isinstance(answer, dict):
        return text_in(answer, "title") or text_in(answer, "file_name") or " ".join(_answers(answer))
    return text_of(answer)


def _reaction(message: Fields) -> str:
    return text_in(message, "reaction", "emoji") or "[reaction removed]"


def _location(message: Fields) -> str:
    place = fields_in(message, "location")
    position = ", ".join(part for name in ("latitude", "longitude") if (part := text_in(place, name)))
    return lines(text_in(place, "name"), text_in(place, "address"), position, text_in(place, "url"))


def _order(message: Fields) -> str:
    order = fields_in(message, "order")
    return lines(text_in(order, "text"), *map(_ordered, objects_in(order, "product_items")))


def _ordered(item: Fields) -> str:
    price = " ".join(part for name in ("item_price", "currency") if (part := text_in(item, name)))
    product = f"{text_in(item, 'quantity') or '1'} x {text_in(item, 'product_retailer_id')}"
    return f"{product} at {price}" if price else product


def _contacts(message: Fields) -> str:
    return lines(*map(_contact, objects_in(message, "contacts")))


def _contact(contact: Fields) -> str:
    """The name, company, numbers and mail addresses of a contact that was shared, on one line."""
    name = fields_in(contact, "name")
    full = text_in(name, "formatted_name") or " ".join(
        part for key in ("prefix", "first_name", "middle_name", "last_name", "suffix") if (part := text_in(name, key))
    )
    numbers = [_number(phone) for phone in objects_in(contact, "phones")]
    mails = [text_in(mail, "email") for mail in objects_in(contact, "emails")]
    parts = [full, text_in(contact, "org", "company"), *numbers, *mails]
    return ", ".join(dict.fromkeys(part for part in parts if part))


def _number(phone: Fields) -> str:
    id_ = text_in(phone, "wa_id")
    return text_in(phone, "phone") or (f"+{id_.lstrip('+')}" if id_ else "")


def _edit(message: Fields) -> str:
    return f"[edited] {words_of(fields_in(message, 'edit', 'message'))}".strip()


def _referral(referral: Fields) -> str:
    parts = [text_in(referral, "headline"), text_in(referral, "body"), text_in(referral, "source_url")]
    said = ", ".join(part for part in parts if part)
    return f"[{text_in(referral, 'source_type') or 'ad'}: {said}]" if said else ""


def _product(message: Fields) -> str:
    product = text_in(message, "context", "referred_product", "product_retailer_id")
    return f"[product: {product}]" if product else ""


_RENDERED: dict[str, Callable[[Fields], str]] = {
    "text": lambda message: text_in(message, "text", "body") or text_in(message, "text"),
    "image": lambda message: text_in(message, "image", "caption"),
    "video": lambda message: text_in(message, "video", "caption"),
    "audio": _audio,
    "voice": lambda _: "[voice message]",
    "document": _document,
    "sticker": lambda _: "[sticker]",
    "button": _button,
    "interactive": _interactive,
    "reaction": _reaction,
    "location": _location,
    "contacts": _contacts,
    "order": _order,
    "edit": _edit,
    "revoke": lambda _: "[message deleted]",
    "system": lambda message: text_in(message, "system", "body"),
}
#: The files of the last two speak for themselves.
_MAY_BE_EMPTY = {"text", "image", "video"}
