"""The words of a Slack message: its text, blocks and attachments, as plain text.

Text: https://docs.slack.dev/messaging/formatting-message-text
Blocks: https://docs.slack.dev/reference/block-kit/blocks
Attachments: https://docs.slack.dev/legacy/legacy-messaging/legacy-secondary-message-attachments
"""

import html
import re

from app.providers.chat.fields import Fields, fields_in, items_in, lines, objects_in, text_in

#: A mention, a command or a link, not any `<` that was not escaped.
_REFERENCE = re.compile(r"<((?:[@#!]|[A-Za-z][A-Za-z0-9+.-]*:)[^<>]*)>")
_SCHEME = re.compile(r"(?:https?://|mailto:|tel:)")
#: The text that Slack puts beside blocks that came without one.
_NO_TEXT = "This content can't be displayed."


def words_of(message: Fields) -> str:
    """The text of a message, and below it the words of its blocks and attachments.

    Blocks show what a person has typed once more. With those of an app, Slack hides the text, which may repeat them.
    The preview of a link is not what the sender wrote.
    """
    text, blocks = plain(text_in(message, "text")), _blocks(message)
    is_by_an_app = bool(text_in(message, "bot_id") or text_in(message, "app_id"))
    if not text or (blocks and text == _NO_TEXT):
        text = blocks
    elif is_by_an_app:
        text = _joined(text, blocks)
    for attachment in objects_in(message, "attachments"):
        is_preview = text_in(attachment, "from_url") and attachment.get("is_share") is not True
        if not (is_preview and text) and (words := _attachment(attachment)) != text:
            text = lines(text, words)
    return text


def plain(text: str) -> str:
    """Slack's text with references written out: `<https://a.example|here>` is `here (https://a.example)`."""
    return html.unescape(_REFERENCE.sub(_written_out, text))


def _written_out(reference: re.Match[str]) -> str:
    target, _, label = reference[1].partition("|")
    if target.startswith(("@", "#")):
        return target[0] + (label.lstrip("@#") or target[1:])
    if target.startswith("!date"):
        return label
    if target.startswith("!"):
        return "@" + (label or target.removeprefix("!").removeprefix("subteam^")).lstrip("@")
    return _link(target, label)


def _link(address: str, label: str) -> str:
    """An address with its label, unless Slack itself made the address of the label."""
    if not label:
        return address.removeprefix("mailto:").removeprefix("tel:")
    is_label = _SCHEME.sub("", address, count=1).rstrip("/") == _SCHEME.sub("", label, count=1).rstrip("/")
    return label if not address or is_label else f"{label} ({address})"


def _joined(text: str, blocks: str) -> str:
    """Both texts, or the one that holds the letters and digits of the other."""
    one, other = ("".join(filter(str.isalnum, each)) for each in (text, blocks))
    if other in one:
        return text
    return blocks if one in other else lines(text, blocks)


def _blocks(owner: Fields) -> str:
    return lines(*map(_block, objects_in(owner, "blocks")))


def _block(block: Fields) -> str:
    """The words of a block, or of an element of one: a line for each part."""
    kind = text_in(block, "type")
    if kind == "rich_text":
        return lines(*map(_rich, objects_in(block, "elements")))
    if kind == "table":
        return lines(*map(_row, items_in(block, "rows")))
    said = lines(*(_said(block, name) for name in ("title", "label", "text", "description")))
    address = next((found for name in ("url", "title_url", "image_url") if (found := text_in(block, name))), "")
    own = _link(address, said or text_in(block, "alt_text")) if address or not said else said
    parts = [*objects_in(block, "fields"), *objects_in(block, "elements")]
    if accessory := fields_in(block, "accessory"):
        parts.append(accessory)
    return lines(own, *map(_block, parts))


def _said(block: Fields, name: str) -> str:
    """A text of a block, which is written as it is or as an object."""
    return plain(text_in(block, name) or text_in(block, name, "text"))


def _row(cells: object) -> str:
    return " | ".join(map(_block, objects_in({"cells": cells}, "cells")))


def _rich(element: Fields) -> str:
    """The words of a section, quotation, code or list of rich text."""
    parts = objects_in(element, "elements")
    if text_in(element, "type") != "rich_text_list":
        return "".join(map(_inline, parts)).strip("\n")
    is_numbered = text_in(element, "style") == "ordered"
    return lines(*(f"{f'{number}.' if is_numbered else '-'} {_rich(each)}" for number, each in enumerate(parts, 1)))


def _inline(element: Fields) -> str:
    kind = text_in(element, "type")
    if kind == "link":
        return _link(text_in(element, "url"), text_in(element, "text"))
    sign, name, end = _INLINE.get(kind, ("", "text", ""))
    found = text_in(element, name)
    return f"{sign}{found}{end}" if found else text_in(element, "fallback")


#: Of a kind of element: what stands before its text, the field of its text, and what stands behind it.
_INLINE = {
    "user": ("@", "user_id", ""),
    "usergroup": ("@", "usergroup_id", ""),
    "broadcast": ("@", "range", ""),
    "channel": ("#", "channel_id", ""),
    "emoji": (":", "name", ":"),
    "color": ("", "value", ""),
    "date": ("", "fallback", ""),
}


def _attachment(attachment: Fields) -> str:
    """The words of an attachment in the order in which Slack shows them; its summary only where there are none."""
    title = _link(text_in(attachment, "title_link"), plain(text_in(attachment, "title")))
    pairs = (
        lines(plain(text_in(pair, "title")), plain(text_in(pair, "value")))
        for pair in objects_in(attachment, "fields")
    )
    words = lines(
        *(plain(text_in(attachment, name)) for name in ("pretext", "author_name")),
        title,
        plain(text_in(attachment, "text")),
        *(pair.replace("\n", ": ", 1) for pair in pairs),
        _blocks(attachment),
        *map(_block, objects_in(attachment, "actions")),
        text_in(attachment, "image_url"),
        plain(text_in(attachment, "footer")),
    )
    return words or plain(text_in(attachment, "fallback"))
