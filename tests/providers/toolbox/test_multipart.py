"""Forms with files: read whole, and refused where they aren't."""

import os

import httpx
import pytest

from app.providers.base import Callback
from app.providers.toolbox.multipart import MOST_PARTS, parts_of
from tests.cases import each_case


def callback_of(fields: dict[str, str], files: list[tuple[str, tuple[str, bytes, str]]]) -> Callback:
    request = httpx.Request("POST", "https://messages.example/", data=fields, files=files)
    return Callback("POST", str(request.url), [("content-type", request.headers["content-type"])], request.read())


def test_fields_and_files_come_out_as_they_went_in() -> None:
    content = os.urandom(100_000) + b"\r\n--\r\n"
    files = [
        ("attachment1", ("Menü.pdf", content, "application/pdf")),
        ("attachment2", ("empty.txt", b"", "text/plain")),
    ]
    parts = parts_of(callback_of({"text": "Grüße\r\n--", "nothing": ""}, files))
    assert [(part.name, part.file_name, part.content_type, part.content) for part in parts] == [
        ("text", None, "", "Grüße\r\n--".encode()),
        ("nothing", None, "", b""),
        ("attachment1", "Menü.pdf", "application/pdf", content),
        ("attachment2", "empty.txt", "text/plain", b""),
    ]


def test_a_form_without_files_may_be_url_encoded() -> None:
    headers = [("content-type", "application/x-www-form-urlencoded")]
    parts = parts_of(Callback("POST", "https://messages.example/", headers, b"subject=caf%C3%A9+au+lait&body="))
    assert [(part.name, part.content) for part in parts] == [("subject", "café au lait".encode()), ("body", b"")]


@each_case("longest", [b"\r\n" * 200_000, b"\r\n--" * 100_000, b"-" * 400_000])
def test_content_that_looks_like_a_boundary_is_content(longest: bytes) -> None:
    [part] = parts_of(callback_of({}, [("attachment1", ("x", longest, "text/plain"))]))
    assert part.content == longest


@each_case(
    "headers",
    [
        [],
        [("content-type", "application/json")],
        [("content-type", "multipart/form-data")],
        [("content-type", "multipart/form-data; boundary=b"), ("content-type", "multipart/form-data; boundary=c")],
        [("content-type", f"multipart/form-data; boundary={'b' * 5000}")],
        [("content-type", "multipart/form-data; boundary=é")],
    ],
)
def test_what_is_no_form_is_refused(headers: list[tuple[str, str]]) -> None:
    with pytest.raises(ValueError, match=r"."):
        parts_of(Callback("POST", "https://messages.example/", headers, b"--c\r\n\r\n--c--"))


def test_a_form_that_breaks_off_is_refused() -> None:
    whole = callback_of({"text": "Hello"}, [("attachment1", ("x", b"abc", "text/plain"))])
    for length in range(len(whole.body) - 4):
        with pytest.raises(ValueError, match=r"."):
            parts_of(Callback(whole.method, whole.url, whole.headers, whole.body[:length]))


def test_a_form_of_too_many_parts_is_refused() -> None:
    body = b'--b\r\nContent-Disposition: form-data; name="a"\r\n\r\n\r\n' * (MOST_PARTS + 1) + b"--b--\r\n"
    headers = [("content-type", "multipart/form-data; boundary=b")]
    with pytest.raises(ValueError, match="more than"):
        parts_of(Callback("POST", "https://messages.example/", headers, body))
