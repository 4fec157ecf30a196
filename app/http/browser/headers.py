"""The headers of pages and of what they load, errors included."""

import re
from collections.abc import Mapping
from enum import StrEnum

Headers = list[tuple[bytes, bytes]]


class Shown(StrEnum):
    """The kinds of answers that a browser shows."""

    PAGE = "page"
    STATIC = "static"
    FILE = "file"
    MAIL = "mail"  #: the HTML of a mail


_POLICY, _NO_STORE = b"content-security-policy", (b"cache-control", b"no-store")
_NO_ROBOTS = (b"x-robots-tag", b"noindex, nofollow")
_OWN_ONLY = (b"cross-origin-resource-policy", b"same-origin")
#: With `no-referrer` a browser says `Origin: null` when it posts a form, as for any other site. This one tells other
#: sites nothing either.
_REFERRER = (b"referrer-policy", b"same-origin")
#: A browser does not open what is both in a sandbox and cut off from its opener.
_OPENER = (b"cross-origin-opener-policy", b"unsafe-none")
_OF_PAGES = (
    _POLICY,
    b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; frame-src 'self'; "
    b"worker-src 'self'; manifest-src 'self'; font-src 'self'; form-action 'self'; base-uri 'none'; "
    b"frame-ancestors 'none'",
)
_OF_FILES = (
    _POLICY,
    b"default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; sandbox",
)
#: Neither scripts nor forms work in this sandbox. Links open beside the inbox.
_OF_MAILS = (
    b"default-src 'none'; style-src 'unsafe-inline'; img-src %b; base-uri 'none'; form-action 'none'; "
    b"frame-ancestors 'self'; sandbox allow-popups allow-popups-to-escape-sandbox"
)


def mail_policy(*, images: bool) -> tuple[bytes, bytes]:
    """The Content-Security-Policy of the HTML of a mail, with pictures of other hosts or without."""
    return _POLICY, _OF_MAILS % (b"https:" if images else b"'none'")


#: By kind. Static files say themselves for how long they are kept.
HEADERS: Mapping[Shown, Headers] = {
    Shown.PAGE: [_REFERRER, _OF_PAGES, _NO_STORE, _NO_ROBOTS, _OWN_ONLY],
    Shown.STATIC: [_OF_PAGES, _OWN_ONLY],
    Shown.FILE: [_OF_FILES, _NO_STORE, _NO_ROBOTS, _OWN_ONLY, _OPENER],
    Shown.MAIL: [mail_policy(images=False), _NO_STORE, _NO_ROBOTS, _OWN_ONLY, _OPENER],
}
_MAIL = re.compile(r"/inbox/messages/[^/]+/html")
_STYLES = frozenset({"/login.css", "/status.css"})
_PAGES = frozenset({"/inbox", "/login", "/logout", "/status"})


def shown_at(path: str) -> Shown | None:
    """The kind of the answers at an address; None for one that is not a browser's."""
    path = path.rstrip("/")
    if path in _STYLES or path.startswith("/inbox/static/"):
        return Shown.STATIC
    if path.startswith("/inbox/files/"):
        return Shown.FILE
    if _MAIL.fullmatch(path):
        return Shown.MAIL
    return Shown.PAGE if path in _PAGES or path.startswith("/inbox/") else None
