"""Charsets of East Asia with the rows that vendors added, where Python's codecs lack them.

NEC's row 13, IBM's characters (CP50220, CP51932), half-width kana in ISO-2022-JP, extensions of Big5, the euro.
JIS rows are read by way of Shift_JIS, whose codec `cp932` has them all (WHATWG Encoding, index jis0208).
"""

import codecs
import re
from collections.abc import Callable

#: A handler costs some microseconds for each broken byte. Beyond these bytes, only replacement characters appear.
_LONGEST_MENDED = 300_000
_LONGEST_SHIFTED = 2_000_000
_LOST = "\ufffd"

#: Python makes private characters of bytes that stand for none.
_NO_CHARACTERS = dict.fromkeys(range(0xF8F0, 0xF8F4), _LOST)
_HIGH = bytes(byte | 0x80 if 0x21 <= byte <= 0x7E else byte for byte in range(256))
_PAIR = re.compile(rb"[\xa1-\xfe]{2}")
#: Escapes and shifts in ISO-2022-JP and its relatives (RFC 1468, RFC 1554, RFC 2237, CP50222).
_SHIFT = re.compile(rb"\x1b(?:&@\x1b)?(\$[@AB]|\$\([@-DOPQ]|\([ABHIJ])|([\x0e\x0f])")
_CODEC_AFTER = {
    b"$A": "gb18030",
    b"$(A": "gb18030",
    b"$(C": "cp949",
    b"$(O": "euc_jis_2004",
    b"$(Q": "euc_jis_2004",
    b"$(D": "euc_jp",
    b"$(P": "euc_jis_2004",
}
#: Their characters take three bytes in EUC.
_SECOND_SETS = {b"$(D", b"$(P"}
_KANA = {b"(I", b"\x0e"}
_ROMAN = {b"(A", b"(B", b"(H", b"(J", b"\x0f"}


def _iso_2022_jp(content: bytes) -> str:
    pieces: list[str] = []
    shift, place = b"(B", 0
    content, rest = content[:_LONGEST_SHIFTED], content[_LONGEST_SHIFTED:]
    for found in _SHIFT.finditer(content):
        pieces.append(_shifted(content[place : found.start()], shift))
        shift, place = found[1] or found[2], found.end()
    return "".join([*pieces, _shifted(content[place:], shift), rest.decode("iso2022_jp_ext", "replace")])


def _shifted(content: bytes, shift: bytes) -> str:
    if shift in _ROMAN:
        return _shift_jis(content)
    content = content.translate(_HIGH)
    if shift in _KANA:
        return _shift_jis(content)
    if shift in _SECOND_SETS:
        content = _PAIR.sub(lambda pair: b"\x8f" + pair[0], content)
    codec = _CODEC_AFTER.get(shift)
    return _euc_jp(content) if codec is None else content.decode(codec, "replace")


def _shift_jis(content: bytes) -> str:
    return content.decode("cp932", "replace").translate(_NO_CHARACTERS)


def _euc_jp(content: bytes) -> str:
    return _mended(content, "euc_jp", "mail-jis-rows")


def _big5(content: bytes) -> str:
    return _mended(content, "big5hkscs", "mail-eten-rows")


def _gb18030(content: bytes) -> str:
    return _mended(content, "gb18030", "mail-gbk-euro")


def _mended(content: bytes, codec: str, handler: str) -> str:
    if len(content) <= _LONGEST_MENDED:
        return content.decode(codec, handler)
    end = content.rfind(b"\n", 0, _LONGEST_MENDED) + 1 or _LONGEST_MENDED
    return content[:end].decode(codec, handler) + content[end:].decode(codec, "replace")


def _mend_jis(error: UnicodeError) -> tuple[str, int]:
    """Read two bytes of EUC-JP as the row and cell that they name, written in Shift_JIS."""
    assert isinstance(error, UnicodeDecodeError)
    pair = error.object[error.start : error.start + 2]
    if not _PAIR.fullmatch(pair):
        return _LOST, error.start + 1
    row, cell = pair[0] - 0xA1, pair[1] - 0xA1
    lead = (row >> 1) + (0x81 if row < 62 else 0xC1)
    trail = cell + (0x9F if row % 2 else 0x40 if cell < 63 else 0x41)
    return bytes([lead, trail]).decode("cp932", "replace")[:1], error.start + 2


def _mend_big5(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeDecodeError)
    try:
        return error.object[error.start : error.start + 2].decode("cp950"), error.start + 2
    except ValueError:
        return _LOST, error.start + 1


def _mend_gbk(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeDecodeError)
    return "€" if error.object[error.start] == 0x80 else _LOST, error.start + 1


codecs.register_error("mail-jis-rows", _mend_jis)
codecs.register_error("mail-eten-rows", _mend_big5)
codecs.register_error("mail-gbk-euro", _mend_gbk)

#: Decoders by the names that `charset_names` gives. None of them raises.
DECODERS: dict[str, Callable[[bytes], str]] = {
    "big5": _big5,
    "cp932": _shift_jis,
    "euc-jp": _euc_jp,
    "gb18030": _gb18030,
    "iso-2022-jp": _iso_2022_jp,
}
