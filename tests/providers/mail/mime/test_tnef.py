"""Files named winmail.dat, as Outlook and Exchange write them and as hostile senders do."""

import struct

from compressed_rtf import compress

from app.providers.base import InboundFile
from app.providers.mail.mime.parts import MailParts, without_containers
from app.providers.mail.mime.rtf import read_rtf
from app.providers.mail.mime.tnef import unpacked
from tests.cases import each_case

SIGNATURE = b"\x78\x9f\x3e\x22\x01\x00"
CODEPAGE, PROPERTIES, BODY, NEW_FILE, TITLE, DATA, FILE_PROPERTIES = (
    *(0x9007, 0x9003, 0x800C, 0x9002, 0x8010, 0x800F, 0x9005),
)


def attribute(name: int, value: bytes) -> bytes:
    return struct.pack("<BHHI", 1, name, 6, len(value)) + value + struct.pack("<H", sum(value) & 0xFFFF)


def padded(value: bytes) -> bytes:
    return value + b"\0" * (-len(value) % 4)


def properties(*of: tuple[int, int, bytes]) -> bytes:
    """Each is a kind, a name and a value; a number's value is its four bytes."""
    written = struct.pack("<I", len(of))
    for kind, name, value in of:
        length = b"" if kind == 3 else struct.pack("<II", 1, len(value))
        written += struct.pack("<HH", kind, name) + length + padded(value)
    return written


def winmail(*attributes: tuple[int, bytes]) -> bytes:
    everything = ((CODEPAGE, struct.pack("<II", 1251, 0)), *attributes)
    return SIGNATURE + b"".join(attribute(name, value) for name, value in everything)


def mail_with(content: bytes, text: str = "") -> MailParts:
    return without_containers(MailParts([], text, "", [InboundFile("winmail.dat", "application/ms-tnef", content)]))


def test_files_come_out_with_their_names() -> None:
    mail = mail_with(
        winmail(
            (NEW_FILE, b"\0" * 14),
            (TITLE, "план.pdf\0".encode("cp1251")),
            (DATA, b"%PDF\0\0"),
            (NEW_FILE, b"\0" * 14),
            (TITLE, b"PHOTO~1.JPG\0"),
            (DATA, b"\xff\xd8"),
            (
                FILE_PROPERTIES,
                properties((0x1F, 0x3707, "Фото 日本.jpg\0".encode("utf-16-le")), (0x1E, 0x370E, b"image/jpeg\0")),
            ),
        ),
        "See the files.",
    )
    assert mail.text == "See the files."
    assert [(file.name, file.content_type, file.content) for file in mail.files] == [
        ("план.pdf", "application/octet-stream", b"%PDF\0\0"),
        ("Фото 日本.jpg", "image/jpeg", b"\xff\xd8"),
    ]


RTF = rb"{\rtf1\ansi\ansicpg1251{\fonttbl{\f0 Arial;}}\pard \'c7\'e0\'ea\'e0\'e7 \u8364?\par {\*\generator x;}Two}"
HTML_RTF = (
    rb"{\rtf1\ansi\fromhtml1{\*\htmltag64 <p>}\htmlrtf {\b \htmlrtf0 Gr\'fc\'dfe"
    rb"{\*\htmltag84 &nbsp;}\htmlrtf  \htmlrtf0 there\htmlrtf }\htmlrtf0 {\*\htmltag72 </p>}}"
)


@each_case(
    ("attributes", "text", "html"),
    [
        ([(BODY, "Заказ\0".encode("cp1251"))], "Заказ", ""),
        ([(PROPERTIES, properties((0x1F, 0x1000, "日本\0".encode("utf-16-le"))))], "日本", ""),
        ([(PROPERTIES, properties((0x102, 0x1013, "<p>Заказ</p>".encode("cp1251"))))], "", "<p>Заказ</p>"),
        (
            [(PROPERTIES, properties((3, 0x3FDE, struct.pack("<I", 20866)), (0x102, 0x1013, "Да".encode("koi8-r"))))],
            "",
            "Да",
        ),
        ([(PROPERTIES, properties((0x102, 0x1009, compress(RTF))))], "Заказ €\nTwo", ""),
        ([(PROPERTIES, properties((0x102, 0x1009, compress(HTML_RTF))))], "", "<p>Grüße&nbsp;there</p>"),
    ],
)
def test_its_text_counts_where_the_mail_has_no_other(
    attributes: list[tuple[int, bytes]], text: str, html: str
) -> None:
    mail = mail_with(winmail(*attributes))
    assert (mail.text, mail.html, mail.files) == (text, html, [])
    assert mail_with(winmail(*attributes), "Hello").text == "Hello"


def test_a_mail_within_is_a_text_and_its_files() -> None:
    inner = winmail((BODY, b"Inner words"), (NEW_FILE, b""), (TITLE, b"a.txt"), (DATA, b"a"))
    mail = bytes.fromhex("0703020000000000c000000000000046") + inner
    named = properties((0x0D, 0x3701, mail), (0x1E, 0x3001, b"Offer\0"))
    files = mail_with(winmail((NEW_FILE, b""), (FILE_PROPERTIES, named))).files
    assert [(file.name, file.content) for file in files] == [("Offer.txt", b"Inner words"), ("a.txt", b"a")]


def many(count: int, value: bytes = b"") -> bytes:
    return struct.pack("<IHHI", 1, 0x1003, 0x1000, count) + value


@each_case(
    "content",
    [
        SIGNATURE,
        SIGNATURE + b"\xff" * 500,
        winmail((BODY, b"Hello"))[:-10],
        winmail((NEW_FILE, b""), (FILE_PROPERTIES, b"\xff" * 11)),
        winmail((PROPERTIES, b"\xff\xff\xff\xff\x1e\x00\x00\x10\xff\xff\xff\xff")),
        winmail(*[(NEW_FILE, b"")] * 30_000),
        winmail(*[(NEW_FILE, b"")] * 1000),
        SIGNATURE + b"\0" * 3_000_000,
        winmail((PROPERTIES, many(0xFFFFFFFF))),
        winmail((PROPERTIES, struct.pack("<IHHI", 0xFFFFFFFF, 0x101E, 0x1000, 0xFFFFFFFF) + b"\0" * 100_000)),
        winmail((PROPERTIES, properties((0x102, 0x1009, b"LZFu" * 9)))),
    ],
)
def test_a_broken_one_stays_a_file(content: bytes) -> None:
    assert [(file.name, file.content) for file in mail_with(content).files] == [("winmail.dat", content)]


def test_what_only_has_the_name_stays_a_file() -> None:
    assert unpacked(SIGNATURE) is None
    assert mail_with(b"no such format").files[0].content == b"no such format"


@each_case("piece", ["{", "}", "\\", "{\\*", "\\u-1 ", "\\'", "\\bin99999999", "{\\field{\\*\\fldinst{", "\\f1"])
def test_rich_text_is_read_in_linear_time(piece: str) -> None:
    read_rtf("{\\rtf1" + piece * (100_000 // len(piece))).text.encode()
