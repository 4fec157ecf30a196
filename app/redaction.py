"""Redact secrets and whole addresses from a text of any origin."""

import re
from collections.abc import Callable

_Mask = Callable[["re.Match[str]"], str]
#: An address search starts once between two of these characters, so that the time stays linear in the length.
_ENDS = r"\s@<>'\"=(),;/?&"
_TOP_LEVEL = re.compile(r"\.[^\W\d_]+$")
_MASKS: list[tuple[re.Pattern[str], str | _Mask]] = [
    (re.compile(r"\b(msk|mss)_[\w-]+"), r"\1_***"),
    (re.compile(r"\b(whsec|whsk)_[\w+/=-]+"), r"\1_***"),
    (re.compile(r"\bv1a?,[\w+/=-]{8,}"), "v1,***"),
    (re.compile(r"\b(Bearer|Basic)\s+[^\s'\",]+", re.IGNORECASE), r"\1 ***"),
    (re.compile(r"://[^\s/@]+@"), "://***@"),
    # The tokens of unsubscribe links, in addresses and in the subjects of mails.
    (re.compile(r"(/u/|\bunsubscribe(?:%20|\s))[\w%-]{40,}", re.IGNORECASE), r"\1***"),
    # The signatures of addresses of files.
    (re.compile(r"([?&]signature=)[\w%-]{20,}"), r"\1***"),
    # The first letter and the top-level domain of a mail address.
    (
        re.compile(rf"(?<![^{_ENDS}])(%*[^{_ENDS}%])[^{_ENDS}]*(?:@|%40)([^{_ENDS}]*)"),
        lambda match: f"{match[1]}***@***{''.join(_TOP_LEVEL.findall(match[2]))}",
    ),
    # The last four digits of a phone number: with its country code, as a bare run, or the way Americans write it.
    (
        re.compile(
            r"(?:\+|%2B)\d(?:[\s().-]*\d){6,14}"
            r"|(?<![\w.-])\d{10,15}(?![\w-])"
            r"|(?<![\w-])\(?\d{3}\)?[ .-]\d{3}[ .-]\d{4}(?![\w-])",
            re.IGNORECASE,
        ),
        lambda match: "***" + re.sub(r"\D", "", match[0])[-4:],
    ),
]


def redacted(text: str) -> str:
    """The text with only as much of each secret or address as tells two of them apart."""
    for pattern, replacement in _MASKS:
        text = pattern.sub(replacement, text)
    return text
