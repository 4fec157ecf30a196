"""The page on which a person logs in with an API key, and the page of an error."""

from html import escape
from http import HTTPStatus

from app.installation import command_name

_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{title}</title>
<link rel="stylesheet" href="/login.css">
<main>
<h1>{title}</h1>
{content}
</main>
</html>
"""
_FORM = """<form method="post" action="/login">
<input type="hidden" name="next" value="{next}">
<label for="key">API key</label>
<input id="key" name="key" type="password" autocomplete="current-password" spellcheck="false" autocapitalize="off"
 required autofocus{described}>
<button>Log in</button>
</form>
<p class="hint">It begins with <code>msk_</code> and takes the scope <code>read</code>, or <code>read</code> and
<code>send</code> to answer. <code>{command} keys create</code> makes one.</p>"""
_OPEN = """<p>This is the development profile: everything is open without a login.
<a href="{next}">Open the inbox</a>.</p>"""
_ELSEWHERE = """<p>Are you logged in already? <a href="{next}">Go on to the inbox</a>.</p>"""
_ERROR = '<p id="error" role="alert">{sentence}</p>'


def login_page(*, next: str, error: str | None = None, is_open: bool = False, is_from_elsewhere: bool = False) -> str:
    """The form, which leads to the address `next`.

    `is_open`: no login is needed. `is_from_elsewhere`: a link of another site led here, and a browser sends no cookie
    along with that.
    """
    told = escape(next)
    parts = [_ERROR.format(sentence=escape(error))] if error else []
    if is_open:
        parts.append(_OPEN.format(next=told))
    elif is_from_elsewhere:
        parts.append(_ELSEWHERE.format(next=told))
    described = ' aria-describedby="error" aria-invalid="true"' if error else ""
    return _PAGE.format(
        title="Log in",
        content="\n".join([*parts, _FORM.format(next=told, described=described, command=escape(command_name()))]),
    )


def error_page(status: HTTPStatus, sentence: str, request_id: str | None) -> str:
    """The page of an error, with the id that the log has."""
    parts = [f'<p role="alert">{escape(sentence)}</p>']
    if request_id:
        parts.append(f"<p>The log has it as <code>{escape(request_id)}</code>.</p>")
    parts.append('<p><a href="/inbox">Back to the inbox</a></p>')
    return _PAGE.format(title=escape(status.phrase.capitalize()), content="\n".join(parts))
