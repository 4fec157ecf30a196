"""HTML of mails: told from text, cleaned before it is parsed, and read, in linear time."""

import time

import pytest

from app.providers.mail.html_source import looks_like_html, text_of_html, well_formed
from tests.cases import each_case


@each_case(
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


@each_case(
    ("body", "is_html"),
    [
        ("<!DOCTYPE html><title>x</title>", True),
        ("\ufeff\n<html lang=de><body>Hallo", True),
        ("<!-- from a template --> <!--[if mso]>x<![endif]--><BODY>Hello", True),
        ('<?xml version="1.0"?>\n<!doctype HTML PUBLIC "-//W3C//DTD XHTML 1.0//EN"><html>', True),
        ("<head><meta charset=utf-8></head>Hello", True),
        ("<p>Hello", True),
        (' <DIV class="a">Hello</DIV>', True),
        ("<h2>Sale</h2>", True),
        ("<table><tr><td>1</td></tr></table>", True),
        ("<ul>\n<li>one</li></ul>", True),
        ("<hr/>Hello", True),
        ("Hello <b>there</b>", False),
        ("Dear Ann,<br><p>thank you</p>", False),
        ("<b>5 pieces of <i>", False),
        ("<a> or <b>, please", False),
        ("<i> am late", False),
        ("<name>, please call", False),
        ("<pre-order> is the button", False),
        ("<h7>Hello</h7>", False),
        ("</p>Hello", False),
        ("<p is the key", False),
        ("<!-- only a comment -->", False),
        ("<!-- never ended <p>Hello</p>", False),
        ("use <div> and </div>", False),
        ("if a < b and c > d", False),
        ("<jane@example.com> wrote: I <3 you", False),
        ("<https://example.com/> is a link", False),
        ("", False),
    ],
)
def test_html_is_told_from_text(body: str, is_html: bool) -> None:
    assert looks_like_html(body) is is_html


@pytest.mark.parametrize(
    ("html", "text"),
    [
        ("<p>One</p><p>Two<br>Three</p>", "One\n\nTwo\nThree"),
        ("<ul><li>a</li><li>b</li></ul>", "- a\n- b"),
        ("<a href='https://example.com/x'>here</a>", "here (https://example.com/x)"),
        ("<a href='https://example.com/'>https://example.com/</a>", "https://example.com/"),
        ("<a href='javascript:alert(1)'>here</a>", "here"),
        ("<style>p{}</style><script>var a</script><title>T</title>seen &amp; kept", "seen & kept"),
        ("<head>never closed<body>seen", "seen"),
        ("<div><div>a</div></div><div>b</div>", "a\nb"),
        ("<table><tr><td>a</td><td>b</td></tr><tr><td>c</td></tr></table>", "a b\nc"),
        ("<pre>a\n  b</pre>", "a\n  b"),
        ("a <img alt='logo' src=x> b", "a logo b"),
        ("  a \n\n b  <b>c", "a b c"),
    ],
)
def test_html_reads_as_a_person_would_read_it(html: str, text: str) -> None:
    assert text_of_html(html) == text


@pytest.mark.parametrize(
    "piece",
    [
        "<", "<!", "<!--", "<?", "</", "<a ", "<p", "<a b='", '<a b="c" ', "<script>", "</script ", "<style><", "&",
        "<![CDATA[", "<blockquote>", "<a><pre>", "<title>", "<a b='\"'", '<a "\'', "<a/", "<textarea><a ",
    ],
)  # fmt: skip
def test_a_hostile_source_takes_no_longer_than_another(piece: str) -> None:
    """Without `well_formed`, some of these keep the parser busy for many minutes."""
    html = piece * (250_000 // len(piece))
    began = time.process_time()
    text_of_html(html)
    assert time.process_time() - began < 10


@each_case("piece", ["<!--", "<!-- -->", "<!---", " ", "<?xml ", "<!-- -", "<p ", "-"])
def test_a_hostile_beginning_is_told_from_html_at_once(piece: str) -> None:
    began = time.process_time()
    looks_like_html(piece * (1_000_000 // len(piece)))
    assert time.process_time() - began < 3


def test_tags_that_never_end_cost_no_more_than_others() -> None:
    """A search of all open tags for each end tag would take minutes."""
    assert text_of_html("<head>" * 100_000 + "</p>" * 100_000 + "<body>Hello") == "Hello"
