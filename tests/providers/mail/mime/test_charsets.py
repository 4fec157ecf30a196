"""Texts in the charsets that mails state, mean, or leave out."""

from app.providers.mail.mime.charset_names import codec_of
from app.providers.mail.mime.charsets import html_of, text_of
from app.providers.mail.mime.headers import decoded
from tests.cases import each_case


@each_case(
    ("written", "codec"),
    [
        ("UTF8", "utf-8"),
        ('"utf-8"', "utf-8"),
        ("charset=utf-8", "utf-8"),
        ("utf-8; format=flowed", "utf-8"),
        ("utf-8*de", "utf-8"),
        ("en_US.UTF-8", "utf-8"),
        ("CP65001", "utf-8"),
        ("latin1", "cp1252"),
        ("Cp1252", "cp1252"),
        ("win-1251", "cp1251"),
        ("x-cp1250", "cp1250"),
        ("ISO_8859-1:1987", "cp1252"),
        ("8859_15", "iso-8859-15"),
        ("ISO-8859-9", "cp1254"),
        ("iso-8859-8-i", "iso-8859-8"),
        ("TIS-620", "cp874"),
        ("cp-850", "cp850"),
        ("IBM437", "cp437"),
        ("x-mac-ce", "mac_latin2"),
        ("koi8-ru", "koi8-u"),
        ("x-ms-cp932", "cp932"),
        ("MS_Kanji", "cp932"),
        ("cp51932", "euc-jp"),
        ("eucJP-ms", "euc-jp"),
        ("cp50220", "iso-2022-jp"),
        ("_iso-2022-jp$ESC", "iso-2022-jp"),
        ("ks_c_5601-1987", "cp949"),
        ("x-windows-949", "cp949"),
        ("gb2312-80", "gb18030"),
        ("x-euc-cn", "gb18030"),
        ("cn-big5", "big5"),
        ("Big5-HKSCS", "big5"),
        ("unicode-1-1-utf-7", "utf-7"),
        ("HZ-GB-2312", "hz"),
        *((unclear, None) for unclear in ["us-ascii", "ansi_x3.110", "unknown-8bit", "x-unknown", "8bit"]),
        *(
            (odd, None)
            for odd in ["", "x" * 5000, "a\x00b", "punycode", "idna", "hex", "undefined", "cp037", "utf-80"]
        ),
    ],
)
def test_a_charset_is_known_by_the_names_that_mails_use(written: str, codec: str | None) -> None:
    assert codec_of(written) == codec


@each_case(
    ("content", "charset", "text"),
    [
        (b"\x1b$B-j@8;:\x1b(B", "iso-2022-jp", "㈱生産"),
        (b"\x1b$B|b\x1b(B \x1b(I1\x1b(B", "iso-2022-jp", "髙 ｱ"),
        (b"\x1b$(D0!\x1b(B", "iso-2022-jp-1", "丂"),
        (b"\x1b$A<O@C\x1b(B", "iso-2022-jp-2", "枷烂"),
        (b"\x1b$B%F%9%H", None, "テスト"),
        (b"\x1b$B%F%9%H\x1b(B", "utf-8", "テスト"),
        (b"\x1b$)C\x0e>H3g\x0f", "us-ascii", "안녕"),
        ("髙﨑①".encode("cp932"), "shift_jis", "髙﨑①"),
        (b"\xad\xa1\xfc\xe2\x8e\xb1\x8f\xb0\xa1", "euc-jp", "①髙ｱ丂"),
        (b"\xa5\xc6\xa5\xb9\xff\xa5\xc8", "euc-jp", "テス\ufffdト"),
        ("똠방각하".encode("cp949"), "euc-kr", "똠방각하"),
        ("裏恒粧€".encode("cp950"), "big5", "裏恒粧€"),
        (b"\x8f\x40\xfa\x40", "big5", b"\x8f\x40\xfa\x40".decode("big5hkscs")),
        ("朱镕基㐀".encode("gb18030"), "gb2312", "朱镕基㐀"),
        (b"\x80 50", "gbk", "€ 50"),
        ("สวัสดี €".encode("cp874"), "tis-620", "สวัสดี €"),
        ("İğ “ş”".encode("cp1254"), "iso-8859-9", "İğ “ş”"),
        ("naïve œuvre".encode("mac-roman"), "macintosh", "naïve œuvre"),
        ("Żółć".encode("cp852"), "ibm852", "Żółć"),
        ("Hi €".encode("utf-16"), "utf-16", "Hi €"),
        ("Hi €".encode("utf-16-be"), "utf-16be", "Hi €"),
        (b"plain", "utf-16", "plain"),
        (b"Hi Mom +Jjo-!", "utf-7", "Hi Mom ☺!"),
        (b"\xef\xbb\xbfHello", "iso-8859-1", "Hello"),
        ("\ufeffGrüße".encode(), None, "Grüße"),
        # a broken byte costs one character
        (b"\xff" + "日本".encode(), "utf-8", "\ufffd日本"),
        ("Straße".encode()[:-1] + b"\xe9", "utf-8", "Straß\ufffd"),
        ("注文".encode("cp932") + b"\xff", "shift_jis", "注文\ufffd"),
        ("주문".encode("cp949") + b"\xff!", "euc-kr", "주문\ufffd!"),
        # what can't be in the charset that is stated
        ("Grüße".encode(), "iso-8859-1", "Grüße"),
        ("Grüße, 日本".encode(), "iso-2022-jp", "Grüße, 日本"),
        ("Grüße".encode("latin-1"), "utf-8", "Grüße"),
        ("Grüße".encode("latin-1"), "us-ascii", "Grüße"),
        ("Grüße".encode(), "x-unknown", "Grüße"),
    ],
)
def test_the_charset_that_is_meant_is_read(content: bytes, charset: str | None, text: str) -> None:
    assert text_of(content, charset) == text


@each_case(
    ("content", "likely", "text"),
    [
        ("Заказ".encode("koi8-r"), "koi8-r", "Заказ"),
        ("Заказ".encode(), "koi8-r", "Заказ"),
        ("注文".encode("cp932"), "shift_jis", "注文"),
        ("Grüße".encode("cp1252"), "utf-8", "Grüße"),
        ("Grüße".encode("cp1252"), "no-charset", "Grüße"),
    ],
)
def test_without_a_charset_that_of_the_neighbours_counts(content: bytes, likely: str, text: str) -> None:
    assert text_of(content, None, likely) == text


@each_case(
    ("html", "charset"),
    [
        ('<meta http-equiv="Content-Type" content="text/html; charset=windows-1251">', "cp1251"),
        ("<html><head><META CHARSET = 'koi8-r'>", "koi8-r"),
        ('<?xml version="1.0" encoding="ibm866"?>', "cp866"),
        ("<meta charset=utf-16>", "utf-8"),
        ("<meta charset=koi8-r>", "utf-8"),
        ("<p>charset=koi8-r</p>", "utf-8"),
        ("<meta " * 10_000, "utf-8"),
    ],
)
def test_html_is_read_in_the_charset_that_it_states(html: str, charset: str) -> None:
    assert html_of(f"{html}Заказ".encode(charset), None) == f"{html}Заказ"


@each_case(
    ("written", "read"),
    [
        # a character may begin in one word and end in the next
        ("=?utf-8?Q?Gr=C3?= =?utf-8?Q?=BC=C3=9Fe?=", "Grüße"),
        ("=?UTF-8?B?5rOo5pY=?=\r\n =?utf-8?B?hw==?=", "注文"),
        ("=?utf-8?B?5rOo5?= =?utf-8?B?paH?=", "注文"),
        ("=?iso-2022-jp?B?GyRCJUY=?= =?iso-2022-jp?B?JTklSBsoQg==?=", "テスト"),
        ("=?utf-8?Q?a?= =?iso-8859-1?Q?=FC?= b =?utf-8?Q?c?=", "aü b c"),
        ("=?utf-8?Q?a?=x=?utf-8?Q?b?=", "axb"),
        # a language, missing padding, charsets by other names
        ("=?utf-8*en?Q?caf=C3=A9?=", "café"),
        ("=?utf-8?B?Y2Fmw6k?=", "café"),
        ("=?iso-2022-jp?B?GyRCLWobKEI=?=", "㈱"),
        ("=?ks_c_5601-1987?B?wdbDrg==?=", "주챤"),
        ("=?cp-850?Q?Gr=81=E1e?=", "Grüße"),
        ("=?unknown-8bit?Q?J=FCrgen?=", "Jürgen"),
        ("=?us-ascii?Q?J=C3=BCrgen?=", "Jürgen"),
        # what RFC 2047 forbids
        ("=?utf-8?Q?two words, really??=", "two words, really?"),
        ("=?utf-8?Q?Gr\xfc\xdfe?=", "Grüße"),
        ('"=?utf-8?Q?caf=C3=A9?="', '"café"'),
        ("=?utf-8?Q?a=?=", "a="),
        ("=?utf-8?X?a?=", "=?utf-8?X?a?="),
        ("=?utf-8?Q?a", "=?utf-8?Q?a"),
        ("\x1b$B%F%9%H\x1b(B", "テスト"),
    ],
)
def test_encoded_words_are_one_text(written: str, read: str) -> None:
    assert decoded(written) == read


@each_case(
    ("content", "charset", "text"),
    [
        ("Grüße".encode(), "utf-8", "Grüße"),
        ("Grüße".encode(), None, "Grüße"),
        ("Grüße".encode(), "us-ascii", "Grüße"),
        ("Grüße".encode(), "iso-2022-jp", "Grüße"),
        ("Grüße".encode("latin-1"), "utf-8", "Grüße"),
        ("“80 €”".encode("cp1252"), "iso-8859-1", "“80 €”"),
        ("会議".encode("iso-2022-jp"), "ISO-2022-JP", "会議"),
        ("你好".encode("gb18030"), "gb2312", "你好"),
        (b"a\x81b", "utf-8", "a\ufffdb"),
        (b"a\x00b", "utf-8", "a\ufffdb"),
        (b"a+2AA-b", "utf-7", "a\ufffdb"),
        (b"a\r\nb", "utf-8", "a\nb"),
        *(
            (b"plain", charset, "plain")
            for charset in ["", "x" * 5000, "a\x00b", "punycode", "idna", "hex", "undefined"]
        ),
    ],
)
def test_a_text_is_read_whatever_charset_it_claims(content: bytes, charset: str | None, text: str) -> None:
    assert text_of(content, charset) == text
