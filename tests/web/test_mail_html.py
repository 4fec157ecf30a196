"""HTML of mails as a page: nothing in it runs, loads, posts or moves, and it takes a bounded time to make."""

import re
import time
from html.parser import HTMLParser

import pytest

from app.providers.mail.html_source import well_formed
from app.web.mail_html import mail_page
from tests.cases import each_case

TAG = re.compile(
    r"a|abbr|address|article|aside|b|bdi|bdo|big|blockquote|br|caption|center|cite|code|col|colgroup|d[dlt]|del|dfn|div"
    r"|em|figcaption|figure|font|footer|h[1-6]|header|hr|i|img|ins|kbd|li|main|mark|ol|p|pre|q|s|samp|section|small|span"
    r"|strike|strong|sub|sup|table|tbody|td|tfoot|th|thead|tr|tt|u|ul|var|wbr"
)
ATTRIBUTE = re.compile(
    r"align|alt|bgcolor|border|cellpadding|cellspacing|color|colspan|dir|face|height|href|lang|nowrap|rel|rowspan|size"
    r"|span|src|start|style|target|title|type|valign|width"
)
LINK = re.compile(r"(https?://|mailto:|tel:)")
#: In a declaration of a style: what fetches, runs, or takes a box out of its place.
OUTSIDE = re.compile(r"url|image|expression|@|\\|position|fixed|absolute|z-index|transform|filter|behavior|-moz|anim")
#: The page's own style and head, which no mail changes.
[HEAD] = re.findall(r"(?s)^.*<body>", mail_page("", images=False))

EVIL = "https://evil.example"
HOSTILE = [
    "<script>alert(1)</script>",
    "<SCRIPT SRC=https://evil.example/x.js></SCRIPT>",
    "<script/x>alert(1)</script >",
    "<scr<script>ipt>alert(1)</scr</script>ipt>",
    "<script",
    "<script>alert(1)",
    "<img src=x onerror=alert(1)>",
    "<img src=x\nonerror\n=\nalert(1)>",
    '<img/src="https://evil.example/a.png"/onload="alert(1)">',
    '<img src="x` `<script>alert(1)</script>"` `>',
    '<img """><script>alert(1)</script>">',
    "<body onload=alert(1) background=https://evil.example/a.png>",
    "<p onclick=alert(1) onmouseover=alert(1) autofocus tabindex=1 onfocus=alert(1)>x",
    "<svg onload=alert(1)><script>alert(1)</script></svg>",
    "<svg><a xlink:href='javascript:alert(1)'><text>x</text></a></svg>",
    "<svg><style><img src=x onerror=alert(1)></style></svg>",
    "<svg><animate onbegin=alert(1) attributeName=x dur=1s>",
    "<svg><use href='data:image/svg+xml;base64,PHN2Zz4='/></svg>",
    "<math><mtext><table><mglyph><style><!--</style><img title='--&gt;&lt;img src=1 onerror=alert(1)&gt;'>",
    "<math href='javascript:alert(1)'><mi>x</mi></math>",
    "<noscript><p title='</noscript><img src=x onerror=alert(1)>'>",
    "<textarea><img title='</textarea><img src=x onerror=alert(1)>'>",
    "<title><a title='</title><img src=x onerror=alert(1)>'>",
    "<!--><img src=x onerror=alert(1)>-->",
    "<!-- --!><img src=x onerror=alert(1)> -->",
    "<![CDATA[<img src=x onerror=alert(1)>]]>",
    "<?xml version='1.0'?><?php x ?><img src=x onerror=alert(1)>",
    "<!DOCTYPE html [<!ENTITY x '<script>alert(1)</script>'>]>&x;",
    "<xmp><img src=x onerror=alert(1)></xmp><plaintext><img src=x onerror=alert(1)>",
    "<template><script>alert(1)</script></template>",
    "<iframe src='javascript:alert(1)'></iframe><iframe srcdoc='<script>alert(1)</script>'></iframe>",
    "<object data='data:text/html,<script>alert(1)</script>'></object><embed src=//evil.example/x.swf>",
    "<applet code=x></applet><frameset><frame src=https://evil.example></frameset>",
    "<a href='javascript:alert(1)'>x</a>",
    "<a href=' \x01javascript:alert(1)'>x</a>",
    "<a href='java\nscript:alert(1)'>x</a>",
    "<a href='java&#10;script&colon;alert(1)'>x</a>",
    "<a href='&#106;&#97;vascript:alert(1)'>x</a>",
    "<a href='JaVaScRiPt:alert(1)'>x</a><a href='vbscript:x'>y</a>",
    "<a href='data:text/html;base64,PHNjcmlwdD4='>x</a>",
    "<a href='blob:https://evil.example/1'>x</a><a href='file:///etc/passwd'>y</a>",
    "<a href='//evil.example'>x</a><a href='/logout'>y</a><a href='#top'>z</a><a href='\\\\evil.example'>w</a>",
    "<a href='https://evil.example' target=_top rel=opener ping=https://evil.example/p download>x</a>",
    "<a href='https://evil.example' style='position:fixed;inset:0;z-index:9999'>x</a>",
    "<form action=https://evil.example><input name=key><button formaction=//evil.example>Log in</button></form>",
    "<input type=image src=https://evil.example/a.png><isindex action=javascript:alert(1)>",
    "<select><option onclick=alert(1)>x</select><video src=https://evil.example/v poster=//evil.example/p></video>",
    "<audio src=https://evil.example/a autoplay onplay=alert(1)></audio><source srcset=//evil.example/a.png>",
    "<img srcset='https://evil.example/a.png 2x' lowsrc=//evil.example/a dynsrc=//evil.example/a>",
    "<img src=http://evil.example/a.png><img src=//evil.example/a.png><img src=cid:1><img src=/api/files/1/a>",
    "<img src='data:image/svg+xml,<svg onload=alert(1)>'><img src=javascript:alert(1)>",
    "<picture><source srcset=https://evil.example/a.png><img src=https://evil.example/b.png></picture>",
    "<meta http-equiv=refresh content='0;url=https://evil.example'>",
    "<meta http-equiv=Set-Cookie content='a=b'><base href=https://evil.example target=_top>",
    "<link rel=stylesheet href=https://evil.example/x.css><link rel=prefetch href=//evil.example>",
    "<link rel=dns-prefetch href=//evil.example><style>@import 'https://evil.example/x.css';</style>",
    "<style>body{background:url(https://evil.example/a.png)}</style><style></style><img src=x onerror=alert(1)>",
    "<p style='background:url(https://evil.example/a.png)'>x</p>",
    "<p style='background:u\\72l(https://evil.example/a.png)'>x</p>",
    "<p style='color:red;background-image:image-set(\"https://evil.example/a\" 1x);width:1px'>x</p>",
    "<p style='width:expression(alert(1));behavior:url(x.htc);-moz-binding:url(x)'>x</p>",
    "<p style='color:red/**/;posi/**/tion:fixed;position:absolute;top:0;transform:scale(99);z-index:1'>x</p>",
    "<p style='font-family:\"</style><script>alert(1)</script>\"'>x</p>",
    "<p style='color:red}body{display:none'>x</p>",
    "<p style='list-style:url(//evil.example/a);content:url(//evil.example/b);cursor:url(//evil.example/c),auto'>x",
    "</body></html><script>alert(1)</script>",
    "</style></div></body><img src=x onerror=alert(1)>",
    "<table background=https://evil.example/a.png><td background=//evil.example/b.png>x",
    "<b id=x name=csrf class=y slot=z is=evil-element data-x=1 contenteditable accesskey=x>x</b>",
    "<dialog open>x</dialog><details ontoggle=alert(1) open>x</details><marquee onstart=alert(1)>x</marquee>",
    "\x00<scr\x00ipt>alert(1)</scr\x00ipt><im\x00g src=x onerror=alert(1)>",
    "\ufeff+ADw-script+AD4-alert(1)+ADw-/script+AD4-",
    "<p title='&quot;><script>alert(1)</script>'>x</p><p title=&quot;onclick=alert(1)&quot;>y</p>",
    "<a href='https://evil.example\" onclick=\"alert(1)'>x</a><q cite=javascript:alert(1)>y</q>",
]


class Seen(HTMLParser):
    """The tags of a page, and the attributes of each."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.open: list[str] = []
        self.deepest = 0
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))
        self.open.append(tag)
        self.deepest = max(self.deepest, len(self.open))

    def handle_endtag(self, tag: str) -> None:
        if tag in self.open:
            del self.open[len(self.open) - 1 - self.open[::-1].index(tag) :]


def shown(html: str, *, images: bool = False) -> str:
    return mail_page(well_formed(html), images=images)


@each_case("images", [False, True])
@each_case("html", HOSTILE)
def test_a_hostile_mail_runs_loads_and_posts_nothing(html: str, images: bool) -> None:
    for written in (html, f"<div>{html}</div>", f"<table><tr><td>{html}", html.upper()):
        page = shown(written, images=images)
        assert page.startswith(HEAD)
        for tag, attributes in Seen(page.removeprefix(HEAD)).tags:
            assert TAG.fullmatch(tag)
            assert all(map(ATTRIBUTE.fullmatch, attributes)), attributes
            assert LINK.match(attributes.get("href", "https://").lower())
            assert not OUTSIDE.search(attributes.get("style", "").lower()), attributes
            if tag == "a":
                assert attributes["target"] == "_blank"
                assert attributes["rel"] == "noopener noreferrer"
            assert "src" not in attributes or (images and attributes["src"].lower().startswith("https://"))


def test_there_are_enough_hostile_mails() -> None:
    assert len(set(HOSTILE)) >= 60


def test_a_newsletter_keeps_its_looks() -> None:
    html = """
    <html><head><title>News</title><style>p{color:red}</style></head>
    <body bgcolor="#eeeeee"><table width="600" cellpadding="0" align="center"><tr><td style="padding: 8px;
     background-color: #fff; color: rgb(1, 2, 3); position: fixed">
    <h1>Spring &amp; summer</h1><p>First<p>Second<ul><li>one<li>two</ul>
    <a href="https://shop.example/a?b=1&amp;c=2">Buy</a> <a href="mailto:a@shop.example">Write</a>
    <img src="https://shop.example/a.png" alt="A coat" width="100"><br>
    <font color="red">Sale</font></td><td>right</tr></table></body></html>"""
    page = shown(html, images=True)
    for part in (
        "<h1>Spring &amp; summer</h1>",
        "<p>First</p><p>Second",
        "<li>one</li><li>two</li>",
        'href="https://shop.example/a?b=1&amp;c=2"',
        'href="mailto:a@shop.example"',
        'src="https://shop.example/a.png"',
        '<font color="red">Sale</font>',
        "<p>Second</p><ul><li>",
        "background-color:#fff",
        "color:rgb(1, 2, 3)",
        "<td>right</td>",
    ):
        assert part in page, page
    assert "position" not in page
    assert "News" not in page
    without = shown(html)
    assert "shop.example/a.png" not in without
    assert 'alt="A coat"' in without


BOMBS = {
    "deep": "<div>" * 29_000 + "x",
    "formats": "".join(f'<b title="{number}">' for number in range(14_000)) + "<p>x" * 14_000,
    "formats around paragraphs": "".join(f'<b title="{number}">' for number in range(70)) + "<p>x</p>" * 14_000,
    "formats around tables": "<b>" * 70 + "<table>" + "x<tr>" * 25_000,
    "unended links": "<a href=https://evil.example><div>" * 14_000,
    "tables": "<table><tr><td>" * 9_900,
    "crossed": "<b><i><p></b></i>" * 5_900,
    "ends": "</a>" * 29_000,
    "brackets": "<" * 29_000,
    "references": "&amp;" * 99_000,
    "styles": ('<p style="' + "color:rgb(1,2,3);" * 200 + '">') * 140,
    "one style": '<p style="' + "color:rgb(" * 400 + '">',
    "declarations": '<p style="' + "a" * 4_000 + ":" + '">',
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_mail_that_was_made_to_take_long_does_not(name: str) -> None:
    began = time.process_time()
    page = shown(BOMBS[name])
    assert time.process_time() - began < 5  # seconds of this process, which take it 0.4 where it is alone
    assert len(page) < 1_000_000
    assert Seen(page).deepest < 200


@pytest.mark.parametrize("html", ["a" * 500_001, "<b>" * 30_001])
def test_a_mail_that_is_too_large_says_so(html: str) -> None:
    assert "too large to be shown" in shown(html)
