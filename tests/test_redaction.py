"""Redaction beyond `tests/test_log.py`: texts of any length, and addresses side by side."""

from app.redaction import redacted
from tests.cases import each_case


@each_case("piece", ["a", "a%40", "%a", "a@", "+1 ", "1", "://", "Bearer "])
def test_a_long_text_takes_no_longer_than_its_length(piece: str) -> None:
    redacted(piece * (400_000 // len(piece)) + "@b@")  # with the square of it, pytest's timeout would end the test


@each_case("between", [", ", ";", ")(", "=", "><", "&to=", "', '"])
def test_addresses_side_by_side_are_masked_each(between: str) -> None:
    assert redacted(f"jane@example.com{between}ann%40b.de") == f"j***@***.com{between}a***@***.de"


@each_case("before", ["/u/", "https://messages.example/sms/u/", "unsubscribe ", "Unsubscribe%20"])
def test_the_token_of_an_unsubscribe_link_is_masked(before: str) -> None:
    assert redacted(f"{before}{'a-B_9' * 21} and more") == f"{before}*** and more"
