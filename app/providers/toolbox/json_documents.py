"""JSON as vendors and gateways write it, in which one bad character costs no more than itself."""

import json
import re
from typing import Any

from pydantic_core import from_json

#: A string, also one without its end; a comma before a closing bracket; or a bare word, such as a number.
_TOKEN = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"?|,(?=\s*[\]}])|[^\s"\[\]{}:,]+', re.DOTALL)
#: An escape that JSON knows, the rest of any other one, or a control character.
_IN_A_STRING = re.compile(
    r"""(?P<known>\\(?:["\\/bfnrt]
          |u(?![dD][89a-fA-F])[0-9a-fA-F]{4}
          |u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}))
      |(?P<half>\\u[0-9a-fA-F]{0,4})
      |\\?(?P<control>[\x00-\x1f])
      |\\""",
    re.VERBOSE,
)
#: Values as other languages write them.
_OTHER_WORDS = dict.fromkeys(("nan", "inf", "infinity", "undefined", "none"), "null")
_OTHER_WORDS |= {"true": "true", "false": "false"}
#: Digits that are no number in JSON: a plus or zeros in front, as phone numbers have, or no digit before the point.
_ODD_NUMBER = re.compile(r"\+[0-9]+(?:\.[0-9]+)?|-?0[0-9]+(?:\.[0-9]+)?|[+-]?\.[0-9]+", re.ASCII)
#: Python refuses to read longer integers, since that takes quadratic time.
_LONGEST_NUMBER = 4_000


def read_json(content: bytes | str) -> Any:
    """The value in a document. Raises `ValueError`.

    A document that is no JSON is read once more as `mended` writes it.
    """
    try:
        return from_json(content, allow_inf_nan=False)
    except ValueError:
        return from_json(mended(content), allow_inf_nan=False)


def mended(content: bytes | str) -> bytes:
    """A document with the usual faults of its writers taken out, in UTF-8; JSON (RFC 8259) stays as it is.

    Half of a surrogate pair, a byte that is no UTF-8, and an escape without its digits become U+FFFD. Control
    characters in strings are escaped, other unknown escapes lose their backslash. NaN, infinity, undefined, None and
    numbers of thousands of digits become null, and digits after a plus or a zero become a text. A byte order mark,
    NUL after the document and a comma before a closing bracket go. UTF-16 and UTF-32 are read. The time is linear in
    the length.
    """
    text = content if isinstance(content, str) else _decoded(content)
    # The two halves of a pair may have been written one by one; a half that remains alone is replaced.
    text = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return _TOKEN.sub(_mended_token, text.strip("\ufeff\x00 \t\r\n")).encode()


def _decoded(content: bytes) -> str:
    encoding = json.detect_encoding(content)
    try:
        return content.decode(encoding, "surrogatepass")
    except UnicodeDecodeError:
        return content.decode(encoding, "replace")


def _mended_token(found: re.Match[str]) -> str:
    written = found[0]
    if written.startswith('"'):
        return _IN_A_STRING.sub(_mended_character, written)
    if written == ",":
        return ""
    if _ODD_NUMBER.fullmatch(written):
        return f'"{written}"'
    digits = written.lstrip("+-")
    if len(digits) > _LONGEST_NUMBER and digits.isdigit():
        return "null"
    return _OTHER_WORDS.get(digits.lower(), written)


def _mended_character(found: re.Match[str]) -> str:
    if found["known"]:
        return found["known"]
    if found["half"]:
        return "\\ufffd"
    return f"\\u{ord(found['control']):04x}" if found["control"] else ""
