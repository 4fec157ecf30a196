"""JSON as vendors write it: one bad character costs no more than itself."""

import json
from typing import Any

import pytest

from app.providers.toolbox.json_documents import mended, read_json
from tests.cases import each_case

_BOM = "\ufeff"


@each_case(
    "written, read",
    [
        (rb'["caf\udce9", "next"]', ["caf\ufffd", "next"]),
        (rb'["\ude00\ud83d", "next"]', ["\ufffd\ufffd", "next"]),
        (rb'["\ud83d\ud83d\ude02"]', ["\ufffd\U0001f602"]),
        (rb'["\uD83D\uDE02 \\ud83d \/"]', ["\U0001f602 \\ud83d /"]),
        (rb'["cut \ud8", "next"]', ["cut \ufffd", "next"]),
        (rb'["cut \u", "next"]', ["cut \ufffd", "next"]),
        (rb'{"\udfff": 1, "b": 2}', {"\ufffd": 1, "b": 2}),
        (rb'["it\'s \x41"]', ["it's x41"]),
        (b'["one\ntwo\ttabs\x1b", "next"]', ["one\ntwo\ttabs\x1b", "next"]),
        (b'["one\\\ntwo"]', ["one\ntwo"]),
        (b'["na\xefve", "next"]', ["na\ufffdve", "next"]),
        (b'["cut \xf0\x9f\x98", "next"]', ["cut \ufffd", "next"]),
        (b'["\xed\xa0\xbd", "next"]', ["\ufffd", "next"]),
        (b'["\xed\xa0\xbd\xed\xb8\x82"]', ["\U0001f602"]),
        (b'[NaN, -Infinity, +inf, -nan, "NaN", 1]', [None, None, None, None, "NaN", 1]),
        (b'{"a": NaN,"b":[Infinity]}', {"a": None, "b": [None]}),
        (
            b'{"from": +12016661234, "to": 0049151, "rate": .5, "n": -0.5}',
            {"from": "+12016661234", "to": "0049151", "rate": ".5", "n": -0.5},
        ),
        (b'{"a": undefined, "b": None, "c": True, "d": FALSE}', {"a": None, "b": None, "c": True, "d": False}),
        (b"[" + b"9" * 5_000 + b", 2]", [None, 2]),
        (b'{"a": [1, 2,], "b": "3,]",\r\n}', {"a": [1, 2], "b": "3,]"}),
        (b' {"a": 1}\r\n\x00\x00', {"a": 1}),
        (f'{_BOM}{{"a": "ü"}}'.encode(), {"a": "ü"}),
        (f'{_BOM}{_BOM}{{"a": "ü"}}'.encode(), {"a": "ü"}),
        (f'{_BOM}{{"a": "ü€"}}'.encode("utf-16-le"), {"a": "ü€"}),
        ('{"a": "ü€"}'.encode("utf-16-be"), {"a": "ü€"}),
        ('{"a": "ü€"}'.encode("utf-32"), {"a": "ü€"}),
        ('["half \\ud83d"]', ["half \ufffd"]),
    ],
)
def test_what_is_slightly_off_is_read(written: bytes | str, read: object) -> None:
    assert read_json(written) == read


@each_case("written", [b"", b"{", b"{]", b'{"a"}', b'["open', b"'a'", b"[1] [2]", b"<html>", b"\x00", b"[" * 50_000])
def test_what_is_no_json_is_a_value_error(written: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        read_json(written)


@each_case(
    "value",
    ["", 0, -1.5e300, None, True, [[], {}], {"a": {"b": ["\\", '"', "\u2028", "\ufffd", "€", "😀", "[,]", "NaN"]}}],
)
@each_case("is_ascii", [True, False])
def test_json_stays_as_it_is(value: Any, is_ascii: bool) -> None:
    written = json.dumps(value, ensure_ascii=is_ascii).encode()
    assert mended(written) == written
    assert read_json(written) == value


@each_case(
    "hostile",
    [b'"' * 300_000, b"\\" * 300_000, b'"' + b"\\" * 300_001, b", " * 150_000, b"\\ud83d" * 50_000, b"9" * 300_000],
)
def test_hostile_documents_end(hostile: bytes) -> None:
    mended(hostile)
