"""The pages of unsubscribe links. They name no address, because another person may open a link."""

import base64
import hashlib
from html import escape

_STYLE = (
    "body{font:1.1rem/1.5 system-ui,sans-serif;max-width:32rem;margin:3rem auto;padding:0 1rem}"
    "button{font:inherit;padding:.6rem 1.2rem;margin:0 0 1rem}"
)
#: The source of the style for a Content-Security-Policy.
STYLE_SOURCE = f"'sha256-{base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()}'"
#: The name and value that the second button sends.
EVERYTHING = b"all=1"

_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="robots" content="noindex">
<title>{title}</title>
<style>{style}</style>
<main>
<h1>{title}</h1>
{content}
</main>
</html>
"""
# Forms without an action post to the address of the page, also behind a proxy that adds a path.
_ASK = """<p>Do you want no more mail about <strong>{topic}</strong>?</p>
<form method="post"><button>Unsubscribe</button></form>
<p>Or do you want no more mail from this organisation at all?</p>
<form method="post"><button name="all" value="1">Stop all mail</button></form>"""


def ask(topic: str) -> str:
    """The page with the buttons."""
    return _page("Unsubscribe", _ASK.format(topic=escape(topic)))


def done(topic: str | None) -> str:
    """The page after a button was pressed; without a topic, that for all mail."""
    what = "from this organisation" if topic is None else f"about <strong>{escape(topic)}</strong>"
    return _page("You are unsubscribed", f"<p>You will get no more mail {what}. You can close this page.</p>")


def not_found() -> str:
    """The page of a link that is none of ours."""
    return _page(
        "This link does not work",
        "<p>It may be incomplete. Please open it again from the mail, or answer the mail with the word"
        " <strong>unsubscribe</strong>.</p>",
    )


def _page(title: str, content: str) -> str:
    return _PAGE.format(title=title, style=_STYLE, content=content)
