"""HTML before it is parsed: whole tags and text, in time that grows with its length."""

import time

import pytest

from app.providers.mail.html_source import well_formed
from app.providers.mail.outbound import text_of_html


@pytest.mark.parametrize(
    ("html", "result"),
    [
        ("<p>Hello</p>", "<p>Hello</p>"),
        ('<a href="https://example.com/?a=1&amp;b=>">x</a>', '<a href="https://example.com/?a=1&amp;b=>">x</a>'),
        ("1 < 2 and <", "1 &lt; 2 and &lt;"),
        ("a<!-- <p>hidden</p> -->b", "ab"),
        ("a<![if !mso]>b<![endif]>c<?xml x?>d<!DOCTYPE html>", "abcd"),
        ("a<STYLE type=x>p{}<b></style >b<script>if (1<2) </script>c", "abc"),
        ("a<!--[if !mso]><!-->b<!--<![endif]-->c<!-->d", "abcd"),
        ("a<!-- never ended", "a"),
        ("a<script>never ended", "a"),
        ("a</script>b", "ab"),
        ("<p class='never ended>b", "&lt;p class='never ended>b"),
        ("<br/><br /><o:p></o:p>", "<br/><br /><o:p></o:p>"),
        ("İ<b>İ</b><style>İ</style>x", "İ<b>İ</b>x"),
    ],
)
def test_tags_that_are_whole_are_kept(html: str, result: str) -> None:
    assert well_formed(html) == result


@pytest.mark.parametrize(
    "piece",
    [
        "<", "<!", "<!--", "<?", "</", "<a ", "<p", "<a b='", '<a b="c" ', "<script>", "</script ", "<style><", "&",
        "<![CDATA[", "<blockquote>", "<a><pre>", "<title>", "<a b='\"'", '<a "\'', "<a/", "<textarea><a ",
    ],
)  # fmt: skip
def test_a_hostile_source_takes_no_longer_than_another(piece: str) -> None:
    """Unprepared, some of these keep the parser busy for many minutes."""
    html = piece * (250_000 // len(piece))
    began = time.process_time()
    text_of_html(well_formed(html))
    assert time.process_time() - began < 10
