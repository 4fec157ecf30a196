"""Input at the edges: never a 5xx, refused clearly or read back without loss, and never repeated in the answer."""

import asyncio
import base64
import codecs
import json
import re
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import httpx
import psycopg2
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.cases import each_case
from tests.factories import CONTACT, POSTS, SENDS, WEBHOOKS, Factory, email, email_webhook, sms, sms_webhook
from tests.wire import OPERATIONS, locations_of, problem_of, rows_of, stored

pytestmark = pytest.mark.anyio

JSON = {"content-type": "application/json"}
PROVIDER_ID = {"/api/webhooks/sms": "messaging_provider_id", "/api/webhooks/email": "xillio_id"}

each_post = pytest.mark.parametrize("path", POSTS)
each_send = pytest.mark.parametrize("path", SENDS)
each_webhook = pytest.mark.parametrize("path", WEBHOOKS)


def spelled(request: dict[str, Any], **spellings: bytes) -> bytes:
    """A request as JSON in which the values of some fields stand as these bytes, whether that is JSON or not."""
    placed = request | {field: f"@{field}@" for field in spellings}
    content = json.dumps(placed).encode()
    for field, spelling in spellings.items():
        content = content.replace(f'"@{field}@"'.encode(), spelling)
    return content


# What is not JSON, or not of the right shape.


@each_case(
    ("spelling", "location"),
    [
        pytest.param(rb'"a\ud800b"', "body", id="lone surrogate, escaped"),
        pytest.param(rb'"a\udc00\ud800b"', "body", id="surrogates in the wrong order"),
        pytest.param(b'"a\xed\xa0\x80b"', "body", id="lone surrogate, raw"),
        pytest.param(b'"a\xffb"', "body", id="invalid UTF-8"),
        pytest.param(b'"a\xc3"', "body", id="UTF-8 cut off"),
        pytest.param(b'"\xc0\xaf"', "body", id="UTF-8, overlong"),
        pytest.param(b'"a\nb"', "body", id="line break that is not escaped"),
        pytest.param(b'"a\x00b"', "body", id="NUL that is not escaped"),
        pytest.param(b"'a'", "body", id="the wrong quotes"),
        pytest.param(b'"a', "body", id="a string without an end"),
        pytest.param(b"NaN", "body.body", id="NaN"),
        pytest.param(b"-Infinity", "body.body", id="infinity"),
        pytest.param(b"1e400", "body.body", id="beyond a double"),
        pytest.param(b"9" * 5_000, "body", id="5,000 digits"),
        pytest.param(b"[" * 500 + b"]" * 500, "body", id="500 deep"),
        pytest.param(b"[" * 3_000 + b"]" * 3_000, "body", id="3,000 deep"),
        pytest.param(b"[" * 100_000 + b"]" * 100_000, "body", id="100,000 deep"),
        pytest.param(b'{"a":' * 100_000, "body", id="100,000 objects deep"),
    ],
)
async def test_a_value_that_no_text_can_be_is_refused(
    untouched: httpx.AsyncClient, spelling: bytes, location: str
) -> None:
    for path in SENDS:
        response = await untouched.post(path, content=spelled(SENDS[path](), body=spelling), headers=JSON)
        assert locations_of(response) == [location]


@each_case("spelling", [b"'a'", b'"a', b"1e400", b"[" * 3_000 + b"]" * 3_000, b"[" * 100_000, b'{"a":' * 100_000])
async def test_what_no_reader_can_mend_is_refused_of_providers_too(
    untouched: httpx.AsyncClient, spelling: bytes
) -> None:
    for path in WEBHOOKS:
        content = spelled(WEBHOOKS[path](), body=spelling)
        problem_of(await untouched.post(path, content=content, headers=JSON), 422)


@each_case(
    "spelling",
    [b"[" * 3_000 + b"]" * 3_000, b"[" * 100_000 + b"]" * 100_000, b'{"a":' * 100_000, b"9" * 5_000],
    ids=lambda spelling: f"{spelling[:1]!r} {len(spelling)}",
)
async def test_what_is_deep_or_long_is_refused_fast(untouched: httpx.AsyncClient, spelling: bytes) -> None:
    content = spelled(sms(), body=spelling)
    async with asyncio.timeout(60):  # more than a second each would be too much for any machine
        for _ in range(50):
            problem_of(await untouched.post("/api/messages/sms", content=content, headers=JSON), 422)


@each_case(
    "content",
    [
        b"",
        b" ",
        b"null",
        b"true",
        b"17",
        b'"text"',
        b"[]",
        b"[{}]",
        b"{",
        b"{}{}",
        b"[" * 100_000,
        b"\x00",
        b"\xff\x00",
    ],
    ids=lambda content: repr(content[:8]),
)
async def test_a_body_that_is_no_object_is_refused(untouched: httpx.AsyncClient, content: bytes) -> None:
    for path in POSTS:
        assert locations_of(await untouched.post(path, content=content, headers=JSON)) == ["body"]


@each_case("value", [None, True, 7, 1.5, [], ["x"], {}, {"x": "y"}], ids=repr)
async def test_a_value_of_the_wrong_type_is_refused_in_every_field(
    untouched: httpx.AsyncClient, value: object
) -> None:
    for path in POSTS:
        may_be_null = {"attachments", "timestamp"} | ({"body"} if path in WEBHOOKS else set())
        may_be_a_list = {"attachments"} if value == [] or value == ["x"] else set()
        for field in POSTS[path]():
            if field in (may_be_null if value is None else may_be_a_list):
                continue
            response = await untouched.post(path, json=POSTS[path](**{field: value}))
            assert locations_of(response) == [f"body.{field}"]


@each_post
@each_case(
    "encode",
    [
        pytest.param(lambda text: codecs.BOM_UTF8 + text.encode(), id="byte order mark"),
        pytest.param(lambda text: text.encode("utf-16"), id="UTF-16"),
    ],
)
async def test_another_encoding_is_taken_or_said_to_be_unsupported(
    client: httpx.AsyncClient, path: str, encode: Callable[[str], bytes]
) -> None:
    response = await client.post(path, content=encode(json.dumps(POSTS[path]())), headers=JSON)
    if response.status_code == 200:
        assert [message["body"] for message in await stored(client)] == [POSTS[path]()["body"]]
    else:
        problem_of(response, 415)


DUPLICATES = {
    "at the beginning": (b'{"body": "first", ', "body.body"),
    "of the wrong type": (b'{"body": 17, ', "body.body"),
    "with an escape": (rb'{"bod\u0079": "first", ', "body.body"),
    "that nobody reads": (b'{"x": 1, "x": 1, ', "body.x"),
    "within": (b'{"x": [{"y": {"a-b": 1, "a-b": 2}}], ', "body.a-b"),
    "empty": (b'{"": 1, "": 1, ', "body."),
    "odd": ('{"\u202e ß\\n": 1, "\u202e ß\\n": 2, '.encode(), "body.????"),
}


@each_case(("begin", "location"), DUPLICATES.values(), ids=DUPLICATES)
async def test_a_key_that_stands_twice_is_refused_and_named(
    untouched: httpx.AsyncClient, begin: bytes, location: str
) -> None:
    for path, make in POSTS.items():
        content = json.dumps(make()).encode().replace(b"{", begin, 1)
        assert locations_of(await untouched.post(path, content=content, headers=JSON)) == [location]


async def test_the_same_key_in_two_objects_and_in_words_is_no_duplicate(client: httpx.AsyncClient) -> None:
    odd = {"x": [{"body": 1}, {"body": 2}], "y": {"body": {"body": None}}}
    for path, make in POSTS.items():
        response = await client.post(path, json=make(body='{"body": 1, "body": 2}', **odd))
        assert response.status_code == 200, response.text


@each_case(
    ("value", "status"),
    [
        pytest.param(b"[" * 31 + b"]" * 31, 200, id="32 deep"),
        pytest.param(b"[" * 32 + b"]" * 32, 422, id="33 deep"),
        pytest.param(b'{"a":[' * 15 + b"{}" + b"]}" * 15, 200, id="32 deep, of both kinds"),
        pytest.param(b'{"a":[' * 16 + b"]}" * 16, 422, id="33 deep, of both kinds"),
        pytest.param(b'"' + b"[{" * 500 + b'"', 200, id="deep in words"),
        pytest.param(rb'"\"' + b"[{" * 500 + b'"', 200, id="deep in words with a quotation mark"),
        pytest.param(b"[" + b"[],{}," * 500 + b"0]", 200, id="wide"),
    ],
)
async def test_a_body_is_nested_at_most_32_deep(client: httpx.AsyncClient, value: bytes, status: int) -> None:
    for path, make in POSTS.items():
        response = await client.post(path, content=spelled(make(unknown=None), unknown=value), headers=JSON)
        assert response.status_code == status, response.text
        if status == 422:
            assert locations_of(response) == ["body"]


async def test_an_object_has_at_most_1000_keys(client: httpx.AsyncClient) -> None:
    for path, make in POSTS.items():
        many = make() | {f"key-{number}": number for number in range(1_000 - len(make()))}
        assert (await client.post(path, json=many)).status_code == 200
        assert locations_of(await client.post(path, json=many | {"another": 1})) == ["body"]
        within = make(unknown=[dict.fromkeys(map(str, range(1_001)))])
        assert locations_of(await client.post(path, json=within)) == ["body"]


@pytest.mark.parametrize(
    "spelling",
    [
        b"NaN",
        b"-Infinity",
        b"1e400",
        b"9" * 4_000,
        b"[" * 150 + b"]" * 150,
        rb'"\u0000"',
        b'"' + b"x" * 500_000 + b'"',
    ],
    ids=lambda spelling: repr(spelling[:10]),
)
async def test_an_odd_value_in_a_field_that_nobody_reads_does_no_harm(
    client: httpx.AsyncClient, spelling: bytes
) -> None:
    taken = []
    for path, make in POSTS.items():
        response = await client.post(
            path, content=spelled(make(body=path, unknown=None), unknown=spelling), headers=JSON
        )
        if response.status_code == 200:
            taken.append(path)
        else:
            problem_of(response, 422)
    assert sorted(message["body"] for message in await stored(client)) == sorted(taken)


# Words.

ODD_WORDS = {
    "emoji": "👩‍👩‍👧‍👦🏴\U000e0067\U000e007f",
    "both directions": "abc \u202eedoc\u202c שלום",
    "decomposed and composed": "e\u0301 \u00e9",
    "line breaks and tabulators": "a\r\nb\rc\td\x0b\x0c",
    "control characters": "\x01\x1b[31m\x7f\x85\u2028",
    "invisible characters": "\ufeff\u200b\u00ad",
    "what is no character": "\uffff\U0010ffff",
    "quotes and backslashes": "\"'`\\\\u0000 \\x00",
    "SQL": "'; DROP TABLE messages; --",
    "placeholders": "%s %(body)s {0} $1 :body ?",
    "HTML": "</script><img src=x onerror=alert(1)>",
    "JSON": '{"body": null}',
    "spaces around": "  a  \n",
    "four bytes each": "😀" * 1_600,
    "zero": "0",
    "null": "null",
}


@each_post
async def test_words_are_read_back_as_they_were_written(client: httpx.AsyncClient, path: str) -> None:
    for number, words in enumerate(ODD_WORDS.values()):
        ids = {PROVIDER_ID[path]: f"{number}"} if path in WEBHOOKS else {}
        response = await client.post(path, json=POSTS[path](body=words, **ids))
        assert response.status_code == 200, response.text
    assert [message["body"] for message in await stored(client)] == list(ODD_WORDS.values())


@pytest.mark.parametrize("path", ["/api/messages/email", "/api/webhooks/email"])
async def test_a_long_mail_is_read_back_whole(client: httpx.AsyncClient, path: str) -> None:
    words = "<p>Grüße 😀</p>\r\n" * 30_000
    content = json.dumps(POSTS[path](body=words), ensure_ascii=False).encode()
    assert 600_000 < len(content) < 1_000_000
    assert (await client.post(path, content=content, headers=JSON)).status_code == 200
    [message] = await stored(client)
    assert message["body"] == words


async def test_a_text_has_at_most_1600_characters(untouched: httpx.AsyncClient) -> None:
    for words in ("x" * 1_601, "😀" * 1_601, "x" * 900_000):
        assert locations_of(await untouched.post("/api/messages/sms", json=sms(body=words))) == ["body.body"]


@each_case("words", ["", " ", "\n\t\r", "\u00a0\u2003\u3000"], ids=ascii)
async def test_a_message_that_says_nothing_is_not_sent(untouched: httpx.AsyncClient, words: str) -> None:
    for path in SENDS:
        assert locations_of(await untouched.post(path, json=SENDS[path](body=words))) == ["body"]


async def test_nul_in_the_words_is_refused_where_somebody_can_mend_it(untouched: httpx.AsyncClient) -> None:
    for path in SENDS:
        assert locations_of(await untouched.post(path, json=SENDS[path](body="a\x00b"))) == ["body.body"]


async def test_nul_in_the_words_of_a_webhook_does_not_lose_the_message(client: httpx.AsyncClient) -> None:
    for path, make in WEBHOOKS.items():
        response = await client.post(path, json=make(body="a\x00b"))
        assert response.status_code == 200, response.text
    assert {message["body"] for message in await stored(client)} <= {"ab", "a\ufffdb"}


async def test_nul_elsewhere_in_a_webhook_does_not_lose_the_message_either(client: httpx.AsyncClient) -> None:
    for path, make in WEBHOOKS.items():
        given = make(attachments=["https://example.com/a\x00b", "c\x00"], subject="a\x00b\r\nBcc: c\u2028d")
        response = await client.post(path, json=given)
        assert response.status_code == 200, response.text
    messages = await stored(client)
    assert [message["attachments"] for message in messages] == [["https://example.com/ab", "c"]] * len(WEBHOOKS)
    assert {message["subject"] for message in messages} == {None, "a b  Bcc: c d"}


@each_case("break_", ["\r\n", "\n", "\r", "\x00", "\x0b", "\x0c", "\x85", "\u2028", "\u2029"], ids=ascii)
async def test_a_subject_can_not_carry_a_header(untouched: httpx.AsyncClient, break_: str) -> None:
    given = email(subject=f"Greetings{break_}Bcc: other@example.com")
    assert locations_of(await untouched.post("/api/messages/email", json=given)) == ["body.subject"]


async def test_a_subject_has_at_most_998_characters_and_is_read_back(client: httpx.AsyncClient) -> None:
    subjects = ["", "Grüße 😀", "  ", "=?utf-8?q?x?=", "é" * 998]
    for subject in subjects:
        response = await client.post("/api/messages/email", json=email(subject=subject))
        assert response.status_code == 200, response.text
    assert [message["subject"] for message in await stored(client)] == subjects
    assert locations_of(await client.post("/api/messages/email", json=email(subject="é" * 999))) == ["body.subject"]


# Addresses.


@each_case("field", ["from_", "to"])
@each_case(
    "broken",
    [
        "",
        " ",
        "\u00a0",
        "{}\n",
        "{}\r\nBcc: other@example.com",
        "\r{}",
        "{}\x00",
        "{}\x85",
        "{}\u2028",
        "{}" * 40_000,
    ],
    ids=ascii,
)
async def test_an_address_that_is_empty_broken_or_endless_is_refused(
    untouched: httpx.AsyncClient, field: str, broken: str
) -> None:
    for path in POSTS:
        whole = POSTS[path]()[field.removesuffix("_")]
        given = POSTS[path](**{field: broken.replace("{}", whole)})
        assert locations_of(await untouched.post(path, json=given)) == [f"body.{field.removesuffix('_')}"]


@each_case("path", ["/api/messages/email", "/api/webhooks/email"])
@each_case(
    "written",
    [
        "a" * 65 + "@example.com",
        "user@localhost",
        "user@b",
        "user@[127.0.0.1]",
        "user@x.invalid",
        "+12016661234",
    ],
)
async def test_an_address_that_no_mail_reaches_is_refused(
    untouched: httpx.AsyncClient, path: str, written: str
) -> None:
    assert locations_of(await untouched.post(path, json=POSTS[path](to=written))) == ["body.to"]


@each_case("path", ["/api/messages/sms", "/api/webhooks/sms"])
@each_case("written", ["+12016661234;ext=5", "+1201", "a53055a51212a", "+32 475 qsdfqs", "user@example.com"])
async def test_an_address_that_no_phone_has_is_refused(untouched: httpx.AsyncClient, path: str, written: str) -> None:
    assert locations_of(await untouched.post(path, json=POSTS[path](from_=written))) == ["body.from"]


@each_case(
    "written",
    [
        '"Jane <contact@example.com>',
        'Jane" <contact@example.com>',
        "Jane <a@b.example> <contact@example.com>",
        "x" * 201 + " <contact@example.com>",
        "Jane\r\nBcc: x@y.example <contact@example.com>",
        "Jane <>",
        "<Jane>",
    ],
)
async def test_a_name_that_can_not_be_read_is_refused(untouched: httpx.AsyncClient, written: str) -> None:
    for end in ("from", "to"):
        given = email(**{f"{end}_": written})
        assert locations_of(await untouched.post("/api/messages/email", json=given)) == [f"body.{end}"]


@pytest.mark.parametrize("name", ["Jane", '"Doe, Jane"', "Jane Q. Doe", "Jöhn", "Grüße GmbH & Co. KG", "'Jane'", ""])
async def test_a_mail_comes_in_whatever_the_name_beside_its_address(client: httpx.AsyncClient, name: str) -> None:
    given = email_webhook(from_=f"{name} <contact@example.com>")
    response = await client.post("/api/webhooks/email", json=given)
    assert response.status_code == 200, response.text
    [message] = await stored(client)
    assert message["from"] == "contact@example.com"


# Attachments.


@each_case(
    "attachment",
    [
        "javascript:alert(1)",
        "JaVaScRiPt:alert(1)",
        "java\nscript:alert(1)",
        " javascript:alert(1)",
        "\x01javascript:alert(1)",
        "vbscript:x",
        "file:///etc/passwd",
        "data:text/html,<script>alert(1)</script>",
        "ftp://example.com/file",
        "http://",
        "https:///path",
        "https:example.com",
        "http://[::1",
        "https://example.com/a b",
        "https://example.com/\r\nX: y",
        "https://example.com/\u202egpj.exe",
        "",
        " ",
        "https://example.com/" + "x" * 2_029,
    ],
    ids=lambda attachment: ascii(attachment[:30]),
)
async def test_an_attachment_that_is_no_web_address_is_refused(untouched: httpx.AsyncClient, attachment: str) -> None:
    for path in POSTS:
        given = POSTS[path](attachments=["https://example.com/fine.jpg", attachment])
        assert locations_of(await untouched.post(path, json=given)) == ["body.attachments.1"]


async def test_an_attachment_with_nul_is_not_sent(untouched: httpx.AsyncClient) -> None:
    for path in SENDS:
        given = SENDS[path](attachments=["https://example.com/a\x00b"])
        assert locations_of(await untouched.post(path, json=given)) == ["body.attachments.0"]


@each_case("attachment", ["image.jpg", "/image.jpg", "//example.com/image.jpg", "?x", "#x"])
async def test_an_attachment_that_is_half_a_web_address_is_not_sent(
    untouched: httpx.AsyncClient, attachment: str
) -> None:
    for path in SENDS:
        assert locations_of(await untouched.post(path, json=SENDS[path](attachments=[attachment]))) == [
            "body.attachments.0"
        ]


async def test_ten_attachments_are_taken_and_eleven_refused(client: httpx.AsyncClient) -> None:
    urls = [f"https://example.com/{number}/" + "é" * 2_020 for number in range(11)]
    for path, make in POSTS.items():
        assert locations_of(await client.post(path, json=make(attachments=urls))) == ["body.attachments"]
        assert (await client.post(path, json=make(attachments=urls[:10]))).status_code == 200
    assert [message["attachments"] for message in await stored(client)] == [urls[:10]] * len(POSTS)


@each_case("attachments", ["https://example.com/a", "", {}, {"0": "x"}, 0, False], ids=repr)
async def test_attachments_that_are_no_list_are_refused(untouched: httpx.AsyncClient, attachments: object) -> None:
    for path in POSTS:
        assert locations_of(await untouched.post(path, json=POSTS[path](attachments=attachments))) == [
            "body.attachments"
        ]


# Times.


@pytest.mark.parametrize(
    ("written", "shown"),
    [
        ("1970-01-01T00:00:00Z", "1970-01-01T00:00:00Z"),
        ("2100-12-31T23:59:59.999999Z", "2100-12-31T23:59:59.999999Z"),
        ("2101-01-01T01:00:00+02:00", "2100-12-31T23:00:00Z"),
        ("2024-02-29T23:59:59-14:00", "2024-03-01T13:59:59Z"),
        ("2024-11-01T14:00:00.123456789Z", "2024-11-01T14:00:00.123456Z"),  # finer than we keep
        ("2024-11-01 14:00:00Z", "2024-11-01T14:00:00Z"),
        ("2024-11-01t14:00:00z", "2024-11-01T14:00:00Z"),
        ("2024-11-01T14:00:00-00:00", "2024-11-01T14:00:00Z"),
    ],
)
async def test_a_time_at_the_edge_is_read_back(client: httpx.AsyncClient, written: str, shown: str) -> None:
    for path, make in POSTS.items():
        assert (await client.post(path, json=make(timestamp=written))).status_code == 200
    assert [message["sent_at"] for message in await stored(client)] == [shown] * len(POSTS)


@each_case(
    "written",
    [
        "0000-01-01T00:00:00Z",
        "0001-01-01T00:00:00Z",
        "0001-01-01T00:00:00+14:00",
        "1969-12-31T23:59:59.999999Z",
        "1970-01-01T00:00:00+00:01",
        "2101-01-01T00:00:00Z",
        "9999-12-31T23:59:59-12:00",
        "10000-01-01T00:00:00Z",
        "-2024-11-01T14:00:00Z",
        "2024-02-30T00:00:00Z",
        "2023-02-29T00:00:00Z",
        "2024-11-01T14:00:00+25:00",
        "2024-11-01T14:60:00Z",
        "2024-11-01",
        "14:00:00",
        "2024-W44-5T14:00:00Z",
        "２０２４-11-01T14:00:00Z",  # noqa: RUF001 - full-width digits
        "2024-11-01T14:00:00Z\x00",
        "2024-11-01T14:00:00ZZ",
        "yesterday",
        "",
        "1730469600",
        1730469600,
        1730469600000,
        1730469600.5,
        -1,
        True,
        [],
        {},
    ],
    ids=ascii,
)
async def test_a_time_that_is_none_or_far_away_is_refused(untouched: httpx.AsyncClient, written: object) -> None:
    for path in POSTS:
        assert locations_of(await untouched.post(path, json=POSTS[path](timestamp=written))) == ["body.timestamp"]


LEAPS = {"2016-12-31T23:59:60Z": "2017-01-01T00:00:00Z", "2024-11-01T24:00:00Z": "2024-11-02T00:00:00Z"}


@pytest.mark.parametrize("written", LEAPS)
async def test_a_leap_second_and_the_24th_hour_are_refused_where_somebody_can_mend_it(
    untouched: httpx.AsyncClient, written: str
) -> None:
    for path in SENDS:
        assert locations_of(await untouched.post(path, json=SENDS[path](timestamp=written))) == ["body.timestamp"]


@pytest.mark.parametrize(("written", "shown"), LEAPS.items())
async def test_a_leap_second_and_the_24th_hour_of_a_webhook_do_not_lose_the_message(
    client: httpx.AsyncClient, written: str, shown: str
) -> None:
    for path, make in WEBHOOKS.items():
        response = await client.post(path, json=make(timestamp=written))
        assert response.status_code == 200, response.text
    # PostgreSQL reads them the same way.
    assert [message["sent_at"] for message in await stored(client)] == [shown] * len(WEBHOOKS)


@each_case("moment", ["0044-03-15 BC", "1969-12-31", "2101-01-01", "10000-01-01", "-infinity", "infinity"])
async def test_a_time_that_no_driver_could_read_back_can_not_be_stored(
    client: httpx.AsyncClient, database_url: str, moment: str
) -> None:
    await client.post("/api/webhooks/sms", json=sms_webhook())
    with pytest.raises(psycopg2.errors.CheckViolation):
        rows_of(database_url, f"UPDATE messages SET sent_at = '{moment}' RETURNING 1")
    assert len(await stored(client)) == 1


# Ids.


@each_case("provider_id", ["x" * 513, "x" * 15_000, "😀" * 513, "a\x00b"], ids=lambda one: ascii(one[:3]))
async def test_a_provider_s_id_that_no_index_can_hold_is_refused(
    untouched: httpx.AsyncClient, provider_id: str
) -> None:
    for path in WEBHOOKS:
        given = WEBHOOKS[path](**{PROVIDER_ID[path]: provider_id})
        assert locations_of(await untouched.post(path, json=given)) == [f"body.{PROVIDER_ID[path]}"]


async def test_a_provider_s_id_is_kept_and_its_repeat_recognised(client: httpx.AsyncClient) -> None:
    longest = "".join(chr(0x20000 + number * 83) for number in range(512))  # 2,048 bytes that don't compress
    ids = ["x" * 512, longest, " ", "\r\n", "'; --", "\u00e9", "e\u0301", "0"]
    for path, make in WEBHOOKS.items():
        for provider_id in [*ids, *ids]:
            response = await client.post(path, json=make(**{PROVIDER_ID[path]: provider_id}))
            assert response.status_code == 200, response.text
    assert [message["provider_message_id"] for message in await stored(client)] == ids * len(WEBHOOKS)


ADDRESSES_WITH_ID = {
    "/api/conversations/{}/messages": "path.conversation_id",
    "/api/messages/{}": "path.message_id",
}
each_address_with_id = each_case(("address", "location"), ADDRESSES_WITH_ID.items())


@each_address_with_id
async def test_an_id_of_64_bits_is_looked_for(untouched: httpx.AsyncClient, address: str, location: str) -> None:
    for id_ in (1, 2**31, 2**63 - 1):
        problem_of(await untouched.get(address.format(id_)), 404)


@each_address_with_id
@each_case(
    "spelling",
    [
        "0",
        "-1",
        "+1",
        "%2B1",
        "%201",
        "1%20",
        "1%0A",
        "1%00",
        "01",
        "1.0",
        "1_000",
        "1e3",
        "0x1",
        "%D9%A1",  # one, in Arabic digits
        "%EF%BC%91",  # one, full width
        "%C2%B9",  # one, superscript
        "%ff",
        "%ED%A0%80",
        "abc",
        "null",
        "NaN",
        "9223372036854775808",
        "9" * 30,
        "9" * 4_300,
    ],
    ids=lambda spelling: spelling[:20],
)
async def test_an_id_has_one_spelling(
    untouched: httpx.AsyncClient, address: str, location: str, spelling: str
) -> None:
    assert locations_of(await untouched.get(address.format(spelling))) == [location]


@each_address_with_id
async def test_an_address_without_an_end_is_refused(
    untouched: httpx.AsyncClient, address: str, location: str
) -> None:
    problem_of(await untouched.get(address.format("9" * 20_000)), 414)


@each_case("path", ["/api/conversations", "/api/conversations/1/messages", "/api/messages"])
@each_case(
    "spelling",
    [
        *("0", "-1", "+5", "%2B5", " 5", "%205", "5%20", "5%0A", "5%00", "05", "5.0", "1_0", "5e0", "0x5"),
        *("%D9%A5", "%EF%BC%95", "1001", "10000", "9" * 30, "9" * 4_300, "", "null", "NaN"),
    ],
    ids=lambda spelling: spelling[:20],
)
async def test_a_limit_has_one_spelling(untouched: httpx.AsyncClient, path: str, spelling: str) -> None:
    assert locations_of(await untouched.get(f"{path}?limit={spelling}")) == ["query.limit"]


async def test_a_limit_lies_between_1_and_1000(client: httpx.AsyncClient) -> None:
    for spelling in ("1", "10", "999", "1000"):
        assert (await client.get(f"/api/conversations?limit={spelling}")).status_code == 200


async def test_an_odd_spelling_does_not_find_what_is_there(client: httpx.AsyncClient) -> None:
    await client.post("/api/messages/sms", json=sms())
    for address, location in ADDRESSES_WITH_ID.items():
        assert (await client.get(address.format(1))).status_code == 200
        for spelling in ("%2B1", "%201", "01", "1.0", "%D9%A1"):
            assert locations_of(await client.get(address.format(spelling))) == [location]


# Headers.


async def test_an_odd_preference_does_not_stop_a_message(client: httpx.AsyncClient) -> None:
    odd = ["wät=1".encode(), "wait=٣".encode(), b"\xff\xfe", b"", b"wait=" + b"9" * 5_000, b",;=" * 5_000]
    for prefer in [*odd, b"wait" * 5_000, b" wait " * 5_000]:
        headers = [(b"content-type", b"application/json"), (b"prefer", prefer)]
        response = await client.post("/api/messages/sms", content=json.dumps(sms()), headers=headers)
        assert response.status_code == 200, response.text
        assert response.headers.get("preference-applied", "wait=30") == "wait=30"


@each_case(
    "content_type",
    ["application/jsön".encode(), b"\xff\xfe", b"application/json\xa0x", b"application/" + b"j" * 50_000, b";", b"/"],
    ids=lambda content_type: ascii(content_type[:20]),
)
async def test_an_odd_content_type_is_unsupported(untouched: httpx.AsyncClient, content_type: bytes) -> None:
    for path in POSTS:
        headers = [(b"content-type", content_type)]
        problem_of(await untouched.post(path, content=json.dumps(POSTS[path]()), headers=headers), 415)


@each_case("break_", [b"\r\n", b"\n", b"\r", b"\x00", b"\x85", b" ", b"\t"], ids=ascii)
async def test_a_key_that_is_handed_on_to_providers_can_not_carry_a_header(
    untouched: httpx.AsyncClient, break_: bytes
) -> None:
    headers = [(b"content-type", b"application/json"), (b"idempotency-key", b"a" + break_ + b"X-Other: b")]
    for path in SENDS:
        response = await untouched.post(path, content=json.dumps(SENDS[path]()), headers=headers)
        assert locations_of(response) == ["header.Idempotency-Key"]


@each_case("length", [b"", b"-5", b"abc", b"1e9", "٣".encode(), b"\xff", b"+5", b"5,5"], ids=ascii)
async def test_an_odd_length_does_no_harm(untouched: httpx.AsyncClient, length: bytes) -> None:
    headers = [(b"content-type", b"application/json"), (b"content-length", length)]
    response = await untouched.post("/api/messages/sms", content=b"{}", headers=headers)
    problem_of(response, 422 if response.status_code == 422 else 400)


# What came in does not go out again.

MARKER = "marker-4711"


@each_case(
    "value",
    [MARKER, [MARKER], {MARKER: MARKER}, [{MARKER: [MARKER]}], f"{MARKER}\x00", f"javascript:{MARKER}", MARKER * 500],
    ids=lambda value: str(value)[:20],
)
async def test_no_field_is_repeated_in_a_refusal(untouched: httpx.AsyncClient, value: object) -> None:
    for path in POSTS:
        refused = dict.fromkeys(POSTS[path](), value) | {MARKER: MARKER, "from": [MARKER]}
        for body in (refused, refused | {"attachments": [value]}, [refused], MARKER):
            response = await untouched.post(path, json=body)
            problem_of(response, 422)
            assert MARKER not in response.text


@each_case("wrap", [str, lambda text: [text], lambda text: {text: text[:9]}], ids=["text", "list", "key"])
async def test_a_field_of_900_kb_is_refused_in_a_few_words(
    untouched: httpx.AsyncClient, wrap: Callable[[str], object]
) -> None:
    for path in POSTS:
        value = wrap(MARKER * 81_000)
        for field in ("from", "to", "timestamp", "attachments"):
            response = await untouched.post(path, json=POSTS[path](**{field: value}))
            problem_of(response, 422)
            assert MARKER not in response.text
            assert len(response.content) < 1_000


async def test_a_hundred_thousand_wrong_values_are_not_listed_one_by_one(untouched: httpx.AsyncClient) -> None:
    for path in POSTS:
        response = await untouched.post(path, json=POSTS[path](attachments=[0] * 100_000))
        problem_of(response, 422)
        assert len(response.content) < 5_000


async def test_neither_address_nor_header_is_repeated_in_a_refusal(untouched: httpx.AsyncClient) -> None:
    responses = [
        await untouched.get(f"/{MARKER}"),
        await untouched.get(f"/api/messages/{MARKER}"),
        await untouched.get(f"/api/conversations/{MARKER}/messages"),
        await untouched.get("/api/conversations", params={"limit": MARKER, "cursor": MARKER, MARKER: MARKER}),
        await untouched.get("/api/conversations", params={"cursor": MARKER * 20}),
        await untouched.request(MARKER.upper(), "/api/conversations"),
        await untouched.post("/api/messages/sms", content=b"{}", headers={"content-type": MARKER}),
        await untouched.post("/api/messages/sms", content=MARKER, headers=JSON),
        await untouched.post("/api/messages/sms", content=f'{{"{MARKER}": {MARKER}}}', headers=JSON),
    ]
    for response in responses:
        problem_of(response, response.status_code)
        assert MARKER not in response.text.lower()


# Anything at all.

ANY_TEXT = st.text(st.characters(), max_size=30)
ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | ANY_TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(ANY_TEXT, inner, max_size=4),
    max_leaves=8,
)
TELLING = st.sampled_from(
    [
        CONTACT,
        "ALERTS",
        "contact@example.com",
        "mms",
        "https://example.com/",
        "2024-11-01T14:00:00+02:00",
        "a\x00b",
        "",
    ]
)
anything = settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


def nearly(make: Factory) -> st.SearchStrategy[dict[str, Any]]:
    """A request of which some fields are anything at all."""
    changes = st.dictionaries(st.sampled_from(sorted(make())) | ANY_TEXT, TELLING | ANY_JSON, min_size=1, max_size=4)
    return changes.map(lambda changed: make() | changed)


def torn(make: Factory) -> st.SearchStrategy[bytes]:
    """A request of which some bytes are any others."""
    content = json.dumps(make()).encode()
    cuts = st.tuples(st.integers(0, len(content)), st.integers(0, 8), st.binary(max_size=8))
    return cuts.map(lambda cut: content[: cut[0]] + cut[2] + content[cut[0] + cut[1] :])


def assert_answered_or_refused(response: httpx.Response) -> None:
    assert response.status_code == 200 or 400 <= response.status_code < 500, response.text
    if response.status_code != 200:
        problem_of(response, response.status_code)


async def assert_anything_may_be_posted(client: httpx.AsyncClient, path: str, content: bytes) -> None:
    response = await client.post(path, content=content, headers=JSON)
    assert_answered_or_refused(response)
    if response.status_code == 200:
        assert (await client.get("/api/conversations")).status_code == 200
        if path in SENDS:
            message = (await client.get(f"/api/messages/{response.json()['message_id']}")).json()
            assert message["body"] == json.loads(content)["body"]


def posted(make: Factory) -> st.SearchStrategy[bytes]:
    as_json = (nearly(make) | ANY_JSON).map(lambda value: json.dumps(value).encode())
    return as_json | torn(make) | st.binary(max_size=50)


@anything
@given(content=posted(sms))
async def test_anything_may_be_posted_as_a_text(client: httpx.AsyncClient, content: bytes) -> None:
    await assert_anything_may_be_posted(client, "/api/messages/sms", content)


@anything
@given(content=posted(email))
async def test_anything_may_be_posted_as_a_mail(client: httpx.AsyncClient, content: bytes) -> None:
    await assert_anything_may_be_posted(client, "/api/messages/email", content)


@anything
@given(content=posted(sms_webhook))
async def test_anything_may_come_in_as_a_text(client: httpx.AsyncClient, content: bytes) -> None:
    await assert_anything_may_be_posted(client, "/api/webhooks/sms", content)


@anything
@given(content=posted(email_webhook))
async def test_anything_may_come_in_as_a_mail(client: httpx.AsyncClient, content: bytes) -> None:
    await assert_anything_may_be_posted(client, "/api/webhooks/email", content)


def encoded(value: bytes | str | int) -> str:
    content = value if isinstance(value, bytes) else f"{value}".encode("utf-8", "surrogatepass")
    return quote(content, safe="")


PLACE = re.compile(r"\{[a-z_]+\}")  # where a path takes a parameter
GETS = ["/{path}", "/docs/assets/{path}", *(path for method, path, _ in OPERATIONS if method == "GET")]
COMMANDS = [path for method, path, _ in OPERATIONS if method == "POST" and PLACE.search(path)]
PARAMETERS = sorted(
    {one["name"] for _, _, said in OPERATIONS for one in said.get("parameters", []) if one["in"] == "query"}
)
ANY_PART = (st.binary(max_size=20) | ANY_TEXT | st.integers() | st.integers(0, 3)).map(encoded)
ANY_CURSOR = st.lists(ANY_JSON | st.datetimes().map("{}+00:00".format) | st.integers(0, 2**64), max_size=4).map(
    lambda key: base64.urlsafe_b64encode(json.dumps(key).encode()).decode()
)
ANY_QUERY = st.lists(
    st.tuples(st.sampled_from(PARAMETERS) | ANY_PART, ANY_PART | ANY_CURSOR.map(encoded)), max_size=4
).map(lambda pairs: "&".join(f"{name}={value}" for name, value in pairs))


@pytest.fixture
async def filled(client: httpx.AsyncClient) -> httpx.AsyncClient:
    """A client of an application that has more than one page of everything, if pages are small."""
    for number in range(4):
        await client.post("/api/webhooks/sms", json=sms_webhook(messaging_provider_id=f"{number}"))
        await client.post("/api/messages/sms", json=sms(to=f"+1804555000{number}"))
    return client


@anything
@given(address=st.sampled_from(GETS), part=ANY_PART, query=ANY_QUERY)
async def test_anything_may_be_asked_for(filled: httpx.AsyncClient, address: str, part: str, query: str) -> None:
    response = await filled.get(f"{PLACE.sub(part, address)}?{query}")
    if response.status_code == 307:
        assert (response.request.url.path, response.headers["location"]) == ("/", "/docs")
    else:
        assert_answered_or_refused(response)


@anything
@given(address=st.sampled_from(COMMANDS), part=ANY_PART | st.sampled_from(["sms", "email"]), content=posted(sms))
async def test_anything_may_be_demanded(filled: httpx.AsyncClient, address: str, part: str, content: bytes) -> None:
    assert_answered_or_refused(await filled.post(PLACE.sub(part, address), content=content, headers=JSON))


@anything
@given(name=st.sampled_from([b"prefer", b"content-type", b"content-length", b"accept", b"host"]), value=st.binary())
async def test_any_header_may_be_sent(client: httpx.AsyncClient, name: bytes, value: bytes) -> None:
    headers = [(b"content-type", b"application/json")] * (name != b"content-type") + [(name, value)]
    assert_answered_or_refused(await client.post("/api/messages/sms", content=json.dumps(sms()), headers=headers))
