"""The words of Slack's messages: text, blocks and attachments, rendered plainly."""

from typing import Any

from app.providers.chat.slack_text import plain, words_of
from tests.cases import each_case


def mrkdwn(text: str) -> dict[str, str]:
    return {"type": "mrkdwn", "text": text}


def label(text: str) -> dict[str, str]:
    return {"type": "plain_text", "text": text}


def rich(*elements: dict[str, Any], kind: str = "rich_text_section", **more: object) -> dict[str, Any]:
    return {"type": "rich_text", "elements": [{"type": kind, "elements": [*elements], **more}]}


def section(text: str) -> dict[str, Any]:
    return {"type": "rich_text_section", "elements": [{"type": "text", "text": text}]}


@each_case(
    ("written", "text"),
    [
        ("&lt;3 &amp; more", "<3 & more"),
        ("ask <@U024BE7LH|jo> or <@U1>", "ask @jo or @U1"),
        ("in <#C024BE91L|general> and <#C1>", "in #general and #C1"),
        ("<!here> <!channel> <!everyone|everyone>", "@here @channel @everyone"),
        ("<!subteam^S1|@ops> <!subteam^S2>", "@ops @S2"),
        ("due <!date^1392734382^{date}^https://a.example|Feb 18>", "due Feb 18"),
        ("<https://a.example/x?a=1&amp;b=2|the report>", "the report (https://a.example/x?a=1&b=2)"),
        ("<https://a.example>", "https://a.example"),
        ("<http://example.com|example.com>", "example.com"),
        ("<https://example.com/|https://example.com>", "https://example.com"),
        ("<https://git.example/issues/5|5>", "5 (https://git.example/issues/5)"),
        ("<https://example.com/a|a>", "a (https://example.com/a)"),
        ("see <slack://channel?id=C1|there>", "see there (slack://channel?id=C1)"),
        ("a < b > c, <br> and 1<2>0", "a < b > c, <br> and 1<2>0"),
        ("<mailto:jo@example.com|jo@example.com> <tel:+4930123>", "jo@example.com +4930123"),
        ("&amp;lt;", "&lt;"),
        ("*bold* _it_ `code`", "*bold* _it_ `code`"),
        ("1 &lt; 2 &gt; 0", "1 < 2 > 0"),
        ("<" * 100_000, "<" * 100_000),
    ],
)
def test_references_are_written_out(written: str, text: str) -> None:
    assert plain(written) == text


@each_case(
    ("block", "text"),
    [
        ({"type": "header", "text": label("Weekly report")}, "Weekly report"),
        (
            {"type": "section", "text": mrkdwn("Build <https://ci.example/7|#7> failed")},
            "Build #7 (https://ci.example/7) failed",
        ),
        ({"type": "section", "fields": [mrkdwn("*Host*\ndb-2"), mrkdwn("*Load*\n9.1")]}, "*Host*\ndb-2\n*Load*\n9.1"),
        (
            {"type": "section", "text": label("Approve?"), "accessory": {"type": "button", "text": label("Yes")}},
            "Approve?\nYes",
        ),
        ({"type": "context", "elements": [mrkdwn("by jo"), label("at noon")]}, "by jo\nat noon"),
        (
            {"type": "actions", "elements": [{"type": "button", "text": label("Open"), "url": "https://a.example"}]},
            "Open (https://a.example)",
        ),
        (
            {"type": "image", "image_url": "https://a.example/i.png", "alt_text": "a graph"},
            "a graph (https://a.example/i.png)",
        ),
        (
            {"type": "image", "image_url": "https://a.example/i.png", "title": label("Load")},
            "Load (https://a.example/i.png)",
        ),
        ({"type": "markdown", "text": "# Title\n- one"}, "# Title\n- one"),
        (
            rich(
                {"type": "text", "text": "Hi "}, {"type": "user", "user_id": "U1"}, {"type": "emoji", "name": "wave"}
            ),
            "Hi @U1:wave:",
        ),
        (
            rich(
                {"type": "link", "url": "https://a.example", "text": "here"}, {"type": "broadcast", "range": "here"}
            ),
            "here (https://a.example)@here",
        ),
        (rich(section("tea"), section("milk"), kind="rich_text_list", style="bullet"), "- tea\n- milk"),
        (rich(section("first"), section("then"), kind="rich_text_list", style="ordered"), "1. first\n2. then"),
        (rich({"type": "text", "text": "x = 1"}, kind="rich_text_preformatted"), "x = 1"),
        (rich({"type": "date", "timestamp": 1, "format": "{date}", "fallback": "May 1"}), "May 1"),
        (
            {"type": "table", "rows": [[{"type": "raw_text", "text": "a"}, rich({"type": "text", "text": "b"})]]},
            "a | b",
        ),
        (
            {
                "type": "video",
                "title": label("Demo"),
                "title_url": "https://v.example",
                "description": label("1 min"),
            },
            "Demo\n1 min (https://v.example)",
        ),
        ({"type": "divider"}, ""),
        ({"type": "something_new", "text": label("still words")}, "still words"),
        ({"type": "section", "text": None, "fields": "x", "accessory": []}, ""),
    ],
)
def test_a_block_is_its_words(block: dict[str, Any], text: str) -> None:
    assert words_of({"bot_id": "B1", "text": "", "blocks": [block]}) == text


@each_case(
    ("attachment", "text"),
    [
        ({"fallback": "short", "text": "The whole story"}, "The whole story"),
        ({"fallback": "only this"}, "only this"),
        (
            {"pretext": "New issue", "title": "Crash", "title_link": "https://t.example/1", "text": "It stops."},
            "New issue\nCrash (https://t.example/1)\nIt stops.",
        ),
        ({"fields": [{"title": "Priority", "value": "High"}, {"value": "no title"}]}, "Priority: High\nno title"),
        ({"author_name": "jo", "text": "Hi", "footer": "Support desk"}, "jo\nHi\nSupport desk"),
        ({"blocks": [{"type": "section", "text": mrkdwn("in a block")}]}, "in a block"),
        ({"title": "Graph", "image_url": "https://a.example/g.png"}, "Graph\nhttps://a.example/g.png"),
        ({"text": "OK?", "actions": [{"type": "button", "text": "Accept"}]}, "OK?\nAccept"),
        ({"is_share": True, "from_url": "https://s.example", "text": "a forwarded message"}, "a forwarded message"),
        ({"text": 7, "title": None, "fields": {"a": 1}, "blocks": None}, "7"),
    ],
)
def test_an_attachment_is_its_words(attachment: dict[str, Any], text: str) -> None:
    assert words_of({"text": "", "attachments": [attachment, "odd"]}) == text


@each_case(
    ("message", "text"),
    [
        ({"text": "Hi :wave:", "user": "U1", "blocks": [rich({"type": "text", "text": "Hi 👋"})]}, "Hi :wave:"),
        (
            {"text": "Deploy done", "bot_id": "B1", "blocks": [{"type": "header", "text": label("Deploy *done*")}]},
            "Deploy done",
        ),
        (
            {"text": "Alert", "bot_id": "B1", "blocks": [{"type": "section", "text": mrkdwn("Alert: disk full")}]},
            "Alert: disk full",
        ),
        (
            {"text": "You have news", "app_id": "A1", "blocks": [{"type": "section", "text": mrkdwn("Disk full")}]},
            "You have news\nDisk full",
        ),
        (
            {
                "text": "This content can't be displayed.",
                "bot_id": "B1",
                "blocks": [rich({"type": "text", "text": "x"})],
            },
            "x",
        ),
        ({"text": "see below", "attachments": [{"text": "one"}, {"text": "two"}]}, "see below\none\ntwo"),
        ({"text": "same", "attachments": [{"text": "same"}]}, "same"),
        (
            {"text": "look: https://a.example", "attachments": [{"from_url": "https://a.example", "text": "A page"}]},
            "look: https://a.example",
        ),
        ({"text": None, "blocks": None, "attachments": None}, ""),
        ({"text": ["x"], "blocks": {}, "attachments": "x"}, ""),
    ],
)
def test_the_words_of_a_message_are_there_once(message: dict[str, Any], text: str) -> None:
    assert words_of(message) == text
