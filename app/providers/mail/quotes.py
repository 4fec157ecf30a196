"""The new text of a mail, separated from the text that it quotes.

Not by a library: those match patterns on whole texts, which a hostile text keeps busy for minutes, strip signatures
and indentation, or need lxml. This code reads each line once. In doubt it leaves the text in place: repeated text is
a nuisance, lost text is worse.
"""

import re

from app.providers.mail.introductions import (
    LINES_OF_HEAD,
    LONGEST_LINE,
    MOST_LINES_OF_ATTRIBUTION,
    begins_forward,
    begins_quotation,
    ends_attribution,
    is_attribution,
    is_forward_subject,
    is_own_introduction,
    is_plain_attribution,
    is_quoted,
)

_RULE = re.compile(r"[_-]{10,}")
#: Lines from the beginning of an introduction to the first quoted line.
_LINES_OF_INTRODUCTION = LINES_OF_HEAD + 3
#: What the program `diff` prints above a line that begins with `>`.
_DIFFERENCE = re.compile(r"---|<(?: .*)?|[\d,]{1,20}[acd][\d,]{1,20}")

#: First and last line of a piece of text.
_Block = tuple[int, int]


def split_quoted(text: str, subject: str | None = None) -> tuple[str, str | None]:
    """The new text of a mail, and the quoted text or None.

    - What an attribution or the head of a mail introduces is quoted.
    - Lines marked with `>` that nothing introduces are quoted at the beginning or at the end of the text. Between
      other lines, or below a line such as "It prints:", they are the author's own.
    - Replies between quoted lines stay in the new text together with the quotation.
    - A forwarded mail is new. A line marks it; where no program writes one, `subject` tells it from a quotation.

    The whole text counts as new if it is all quoted. Blank lines at both ends are removed.
    """
    new, quoted = _split(text.split("\n"), is_forward=is_forward_subject(subject))
    if not any(line.strip() for line in new):
        return text.strip(), None
    return "\n".join(new).strip(), "\n".join(quoted).strip() or None


def _split(lines: list[str], *, is_forward: bool) -> tuple[list[str], list[str]]:
    forward = next((number for number in range(len(lines)) if begins_forward(lines, number)), len(lines))
    answer, forwarded = lines[:forward], lines[forward:]
    start = _start_of_quotation(answer)
    is_marked = start is not None and any(map(is_quoted, answer[start : start + _LINES_OF_INTRODUCTION]))
    if is_forward and not is_marked:
        return lines, []
    if start is not None and not is_marked:
        return lines[:start], lines[start:]
    new, quoted = _without_marked_lines(answer, start)
    return [*new, *forwarded], quoted


def _start_of_quotation(lines: list[str]) -> int | None:
    """The first line that introduces a quotation."""
    for number, line in enumerate(lines):
        if line.strip() and not is_quoted(line) and begins_quotation(lines, number):
            above = number - 1
            return above if above >= 0 and _RULE.fullmatch(lines[above].strip()[:LONGEST_LINE]) else number
    return None


def _without_marked_lines(lines: list[str], start: int | None) -> tuple[list[str], list[str]]:
    """Separate the new lines from those marked with `>`. `start` is the line that introduces them, if one does."""
    blocks = _blocks(lines, start or 0)
    if not blocks:
        return lines, []
    first, last = blocks[-1]
    if len(blocks) == 1 and start is not None:
        return _without(lines, start, last)
    begin = _start_of_introduction(lines, first)
    names_its_author = is_attribution(
        [line.lstrip().removeprefix(">") for line in lines[first : first + MOST_LINES_OF_ATTRIBUTION]], 0
    )
    is_at_an_end = _is_at_the_end(lines, last) or (
        len(blocks) == 1 and (names_its_author or not any(line.strip() for line in lines[:begin]))
    )
    is_quotation = names_its_author or begin < first or _is_quotation(lines, first, last)
    return _without(lines, begin, last) if is_at_an_end and is_quotation else (lines, [])


def _without(lines: list[str], first: int, last: int) -> tuple[list[str], list[str]]:
    return lines[:first] + lines[last + 1 :], lines[first : last + 1]


def _blocks(lines: list[str], start: int) -> list[_Block]:
    """The pieces of marked lines from `start` on, with the blank lines in them."""
    blocks: list[_Block] = []
    is_open = False
    for number in range(start, len(lines)):
        if is_quoted(lines[number]):
            blocks[-1:] = [(blocks[-1][0], number)] if is_open else [*blocks[-1:], (number, number)]
            is_open = True
        elif lines[number].strip():
            is_open = False
    return blocks


def _start_of_introduction(lines: list[str], first: int) -> int:
    """The first line of the attribution above a block, or the block's own first line if there is none."""
    above = first - 1
    while above >= 0 and not lines[above].strip():
        above -= 1
    if above < 0:
        return first
    for number in range(max(0, above - MOST_LINES_OF_ATTRIBUTION + 1), above + 1):
        if not any(map(ends_attribution, lines[number:above])) and is_attribution(lines, number):
            return number
    return above if is_plain_attribution(lines[above]) else first


def _is_at_the_end(lines: list[str], last: int) -> bool:
    """True if nothing but a signature is below."""
    below = next((line for line in lines[last + 1 :] if line.strip()), "")
    return not below or below.rstrip() == "--"


def _is_quotation(lines: list[str], first: int, last: int) -> bool:
    """True for a block that nothing introduces, unless it is pasted output, or below "It prints:"."""
    if all(line.lstrip().startswith(">>>") for line in lines[first : last + 1] if line.strip()):
        return False  # of Python, or of a merge: the mail that is answered has one mark
    above = next((line for line in reversed(lines[:first]) if line.strip()), "")
    is_difference = first > 0 and _DIFFERENCE.fullmatch(lines[first - 1].strip()[:LONGEST_LINE]) is not None
    return not is_difference and not is_own_introduction(above)
