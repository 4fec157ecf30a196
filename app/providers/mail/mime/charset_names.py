"""The names of charsets that mails state, and the codec that is meant: the superset where programs write one.

The names are those of the WHATWG Encoding Standard, as browsers read them, and others that mails use.
"""

import re

from webencodings.labels import LABELS

#: Codecs by their name in the standard, where Python's differs. Those of `decoding` are ours.
_MEANT = {
    "euc-kr": "cp949",
    "gbk": "gb18030",
    "ibm866": "cp866",
    "iso-8859-8-i": "iso-8859-8",
    "macintosh": "mac_roman",
    "shift_jis": "cp932",
    "utf-16be": "utf-16-be",
    "utf-16le": "utf-16",
    "windows-874": "cp874",
    "x-mac-cyrillic": "mac_cyrillic",
}
#: Names in the standard that tell nothing: no browser decodes the first two, and ASCII is written about anything.
_UNCLEAR = {"replacement", "x-user-defined"}
_ASCII = {"ansix341968", "ascii", "usascii"}
#: Further names, without anything but letters and digits.
_OTHERS = {
    "big5": "big5eten big5plus big5tw bigfive hkscs macchinesetrad ms950 cnbig5",
    "cp932": "cp942 cp943 macjapanese mskanji shiftjis2004 shiftjisx0213 sjis2004 windows31j",
    "cp949": "eucksc kscode ksc5601 mackorean uhc",
    "euc-jp": "eucjis2004 eucjisx0213 eucjpms eucjpwin ujis",
    "gb18030": "eucchina euccn eucgb2312cn gb231280 hp15cn macchinesesimp ms936",
    "hp_roman8": "hproman8 roman8 r8",
    "hz": "hz hzgb hzgb2312",
    "iso-2022-jp": "iso2022jp1 iso2022jp2 iso2022jp2004 iso2022jp3 iso2022jpesc iso2022jpext iso2022jpms jis jis7",
    "iso-8859-10": "latin6",
    "iso-8859-13": "latin7",
    "iso-8859-14": "l8 latin8",
    "iso-8859-15": "latin0 latin9",
    "iso-8859-16": "l10 latin10",
    "iso2022_kr": "iso2022kr",
    "johab": "johab ksc56011992 ksx1001johab",
    "kz1048": "kz1048 rk1048 strk10482002",
    "mac_croatian": "maccroatian",
    "mac_cyrillic": "maccyrillic macukrainian",
    "mac_greek": "macgreek",
    "mac_iceland": "maciceland macicelandic",
    "mac_latin2": "maccentraleurope maccentraleuroperoman maccentraleurroman macce maclatin2",
    "mac_roman": "mac macintosh macroman",
    "mac_romanian": "macromania macromanian",
    "mac_turkish": "macturkish",
    "ptcp154": "csptcp154 cyrillicasian pt154 ptcp154",
    "utf-16": "ucs2 unicode utf16",
    "utf-16-be": "unicodebig utf16be",
    "utf-32": "iso10646ucs4 ucs4 utf32 utf32le",
    "utf-32-be": "utf32be",
    "utf-7": "unicode11utf7 unicode20utf7 utf7",
    "utf-8": "unicode11utf8 unicode20utf8 utf utf8 utf8bom utf8mac utf8mb4 utf8n",
}
#: Codecs by their number at Microsoft (code page identifiers). Others with a codec are in `_NUMBERED`.
_PAGES = {
    "932": "cp932",
    "936": "gb18030",
    "949": "cp949",
    "950": "big5",
    "1200": "utf-16",
    "1201": "utf-16-be",
    "1361": "johab",
    "10000": "mac_roman",
    "10006": "mac_greek",
    "10007": "mac_cyrillic",
    "10029": "mac_latin2",
    "10081": "mac_turkish",
    "12000": "utf-32",
    "20866": "koi8-r",
    "20932": "euc-jp",
    "20936": "gb18030",
    "20949": "cp949",
    "21866": "koi8-u",
    "28591": "cp1252",
    "28599": "cp1254",
    "38598": "iso-8859-8",
    "50225": "iso2022_kr",
    "51932": "euc-jp",
    "51936": "gb18030",
    "51949": "cp949",
    "52936": "hz",
    "54936": "gb18030",
    "65000": "utf-7",
    "65001": "utf-8",
    **{str(page): "iso-2022-jp" for page in (50220, 50221, 50222)},
    **{str(28590 + part): f"iso-8859-{part}" for part in (2, 3, 4, 5, 6, 7, 8, 13, 15)},
}
_NUMBERED = {
    *(437, 720, 737, 775, 850, 852, 855, 856, 857, 858, 860, 861, 862, 863, 864, 865, 866, 869, 874, 1125),
    *range(1250, 1259),
}
_NOT_IN_NAMES = re.compile(r"[^a-z0-9]+")
_NUMBER = re.compile(r"(?:x|cs)?(?:ansi|codepage|cp|dos|ibm|ms|win|windows)*?0*([1-9]\d{2,4})")
#: Names inside longer ones: `en_US.UTF-8`, `ISO-8859-15@euro`, `8859_1`, `windows-1252http-equivContent-Type`.
_WITHIN = re.compile(r"(utf[-_ ]?8)(?!\d)|8859[-_ ]?(1[0-6]|[1-9])(?!\d)|windows[-_ ]?(125\d)(?!\d)")


def _squeezed(name: str) -> str:
    return _NOT_IN_NAMES.sub("", name.lower())


_CODECS = {
    **{
        _squeezed(label): _MEANT.get(name, name.replace("windows-", "cp"))
        for label, name in LABELS.items()
        if name not in _UNCLEAR and _squeezed(label) not in _ASCII
    },
    **{name: codec for codec, names in _OTHERS.items() for name in names.split()},
}


def codec_of(charset: str | None) -> str | None:
    """The codec for a charset's name as mails write it; None for one that is missing, unknown, or says only ASCII."""
    if not charset:
        return None
    written = charset[:100].lower().strip().removeprefix("charset=").lstrip("\"' ")
    written = re.split(r"[;,*\"']", written, maxsplit=1)[0]
    name = _squeezed(written)
    for known in (name, name.removeprefix("x"), name.removeprefix("xx"), name.removeprefix("cs")):
        if known in _CODECS:
            return _CODECS[known]
    number = _NUMBER.fullmatch(name)
    if number and (number[1] in _PAGES or int(number[1]) in _NUMBERED):
        return _PAGES.get(number[1]) or f"cp{number[1]}"
    if within := _WITHIN.search(written):
        return "utf-8" if within[1] else _CODECS.get(f"iso8859{within[2]}" if within[2] else f"windows{within[3]}")
    return None
