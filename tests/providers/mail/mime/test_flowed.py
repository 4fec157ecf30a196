"""Texts in format=flowed, as mail programs break them (RFC 3676)."""

from app.providers.mail.mime.flowed import unflowed
from app.providers.mail.mime.parts import read_mail
from tests.cases import each_case


@each_case(
    ("written", "read"),
    [
        ("one \ntwo \nthree\nfour", "one two three\nfour"),
        ("one\n\ntwo \n\nthree", "one\n\ntwo \n\nthree"),
        (" From here\n  indented\n > no quote", "From here\n indented\n > no quote"),
        ("text \n-- \nJane\n", "text \n-- \nJane\n"),
        (">quoted \n>text\n> more", "> quoted text\n> more"),
        (">> deep \n> less \nnew", ">> deep\n> less\nnew"),
        ("> one \n> two\n>\n> three", "> one two\n>\n> three"),
        ("> text \n> -- \n> Jane", "> text\n> -- \n> Jane"),
        (" \nafter", "\nafter"),
    ],
)
def test_paragraphs_are_one_line(written: str, read: str) -> None:
    assert unflowed(written) == read


@each_case(
    ("parameters", "text", "read"),
    [
        ("format=flowed; delsp=yes", "これは長い \n段落です。", "これは長い段落です。"),
        ("format=flowed; delsp=YES", "one  \ntwo", "one two"),
        ('format="Flowed"; delsp=no', "one \ntwo", "one two"),
        ("format=fixed", "one \ntwo", "one \ntwo"),
        ("delsp=yes", "one \ntwo", "one \ntwo"),
    ],
)
def test_a_text_flows_only_where_its_part_says_so(parameters: str, text: str, read: str) -> None:
    raw = f"Content-Type: text/plain; charset=utf-8; {parameters}\r\n\r\n{text}"
    assert read_mail(raw.encode()).text == read
