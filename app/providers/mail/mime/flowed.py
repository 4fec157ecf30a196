"""Paragraphs of a text in format=flowed (RFC 3676), which its mail program broke into lines."""

_SIGNATURE = "-- "


def unflowed(text: str, *, delete_space: bool = False) -> str:
    """The text with each paragraph in one line. With `delete_space` (DelSp), the space before a break is no word's.

    Quoted lines begin with one `>` a level. A blank line ends a paragraph in any case. A line that only looks quoted
    keeps the space that was put before it.
    """
    paragraphs: list[str] = []
    pieces: list[str] = []
    depth = 0

    def finish() -> None:
        if pieces:
            paragraphs.append(_quoted("".join(pieces), depth))
            pieces.clear()

    for line in text.split("\n"):
        unquoted = line.lstrip(">")
        if len(line) - len(unquoted) != depth:
            finish()
        depth = len(line) - len(unquoted)
        written = unquoted.removeprefix(" ")
        is_flowed = written.endswith(" ") and written != _SIGNATURE
        if written in {_SIGNATURE, ""}:
            finish()
        pieces.append(written[:-1] if is_flowed and delete_space else written)
        if not is_flowed:
            finish()
    finish()
    return "\n".join(paragraphs)


def _quoted(paragraph: str, depth: int) -> str:
    if depth:
        return f"{'>' * depth} {paragraph}".rstrip() if paragraph != _SIGNATURE else f"{'>' * depth} {paragraph}"
    return f" {paragraph}" if paragraph.startswith(">") else paragraph
