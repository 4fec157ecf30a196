"""Vendors' documents are read leniently: only a required field can cost one."""

from datetime import UTC, datetime
from typing import Any

import pytest
from pydantic import AliasPath, Field, ValidationError

from app.providers.toolbox.models import EventTime, UtcTime, VendorId, VendorModel, moment_of
from tests.cases import each_case

_MOMENT = datetime(2026, 11, 28, 17, 46, 13, tzinfo=UTC)


class _Part(VendorModel):
    url: str
    size: int = 0


class _Document(VendorModel):
    id: VendorId
    text: str | None = None
    title: str = Field("", alias="Title", max_length=10)
    name: str = Field("", validation_alias=AliasPath("sender", "name"))
    count: int = 0
    ratio: float = 1.0
    is_new: bool = False
    parts: list[_Part] = Field(default_factory=list)
    words: list[str] = Field(default_factory=list)
    tags: dict[str, str] = Field(default_factory=dict)
    first: _Part | None = None
    at: EventTime = None


class _Strict(VendorModel):
    parts: list[_Part]
    at: UtcTime = _MOMENT


@each_case(
    "name, written, read",
    [
        ("text", 5, "5"),
        ("text", 1.8045551234e10, "18045551234"),
        ("text", 0.5, "0.5"),
        ("text", False, "false"),
        ("text", ["one"], "one"),
        ("text", ["one", "two"], None),
        ("text", {"body": "one"}, None),
        ("Title", None, ""),
        ("Title", "longer than ten", ""),
        ("sender", {"name": None}, ""),
        ("sender", {"name": 7}, "7"),
        ("sender", [], ""),
        ("count", "12", 12),
        ("count", "twelve", 0),
        ("count", None, 0),
        ("count", "", 0),
        ("ratio", "2.5", 2.5),
        ("ratio", {}, 1.0),
        ("is_new", "yes", True),
        ("is_new", None, False),
        ("is_new", "perhaps", False),
        ("parts", None, []),
        ("parts", {"url": "a"}, [_Part(url="a")]),
        ("parts", [{"url": None}, {"url": "b", "size": "big"}, None, "c"], [_Part(url="b")]),
        ("parts", "none", []),
        ("words", "one", ["one"]),
        ("words", ["one", None, 2, {}], ["one", "2"]),
        ("tags", {"a": "b", "c": 4, "d": None}, {"a": "b", "c": "4"}),
        ("tags", [], {}),
        ("first", {}, None),
        ("first", [{"url": "a"}], _Part(url="a")),
        ("at", "soon", None),
        ("at", 1795887973, _MOMENT),
    ],
)
def test_an_optional_field_of_another_type_costs_nothing(name: str, written: object, read: object) -> None:
    document = _Document.model_validate({"id": "1", name: written})
    field = {"Title": "title", "sender": "name"}.get(name, name)
    assert getattr(document, field) == read
    assert document.model_copy(update={field: getattr(_Document(id="1"), field)}) == _Document(id="1")


@each_case("written, read", [(17, "17"), (4.47911123456e11, "447911123456"), (["a"], "a")])
def test_a_required_field_is_read_from_another_type(written: object, read: str) -> None:
    assert _Document.model_validate({"id": written}).id == read


@each_case("document", [{}, {"id": None}, {"id": ""}, {"id": []}, {"id": {}}, {"id": ["a", "b"]}, [], None, "id"])
def test_without_a_required_field_it_is_not_read(document: object) -> None:
    with pytest.raises(ValidationError):
        _Document.model_validate(document)


def test_a_required_list_keeps_what_can_be_read_and_is_never_emptied() -> None:
    assert _Strict.model_validate({"parts": [{"url": 1}, {}]}).parts == [_Part(url="1")]
    with pytest.raises(ValidationError):
        _Strict.model_validate({"parts": [{}, None]})


def test_errors_do_not_quote_the_document() -> None:
    with pytest.raises(ValidationError) as raised:
        _Document.model_validate({"id": {"a secret": "a secret"}})
    assert "secret" not in str(raised.value)


def test_a_document_is_read_as_json_that_is_slightly_off() -> None:
    assert _Document.from_json(b'\xef\xbb\xbf{"id": 5, "text": "half \\ud83d", "count": NaN}') == _Document(
        id="5", text="half \ufffd"
    )


@each_case(
    "written",
    [
        "2026-11-28 17:46:13",
        "2026-11-28T17:46:13",
        "2026-11-28T17:46:13Z",
        "2026-11-28T18:46:13+01:00",
        "2026-11-28 18:46:13 +0100",
        "2026-11-28 17:46:13 +0000 UTC",
        "2026-11-28 17:46:13 UTC",
        "20261128T174613Z",
        "Sat, 28 Nov 2026 17:46:13 +0000",
        "Sat, 28 Nov 2026 18:46:13 +0100",
        " 1795887973 ",
        "1795887973000",
        1795887973,
        1795887973.0,
        1795887973_000,
        1795887973_000_000,
        1795887973_000_000_000,
        _MOMENT.replace(tzinfo=None),
    ],
)
def test_a_time_is_read_as_vendors_write_it(written: Any) -> None:
    assert moment_of(written) == _MOMENT


@each_case(
    "written",
    [None, "", "soon", True, {}, [], -5, 10**400, float("nan"), float("inf"), "9" * 30, "2026-13-01", "1" * 70],
)
def test_any_other_time_is_none(written: Any) -> None:
    assert moment_of(written) is None
