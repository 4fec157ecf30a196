"""The cookie of a session (RFC 6265bis), which no script and no other site can use."""

from collections.abc import Iterable

from starlette.types import Scope

_NAME = "messaging_session"
#: A browser takes a cookie of this name only by https, for this host alone.
_SECURE_NAME = f"__Host-{_NAME}"


def is_secure(scope: Scope) -> bool:
    """True if the browser reaches us by https: as the server or a proxy tells it, or `PUBLIC_URL`."""
    public_url: str | None = scope["app"].state.settings.public_url
    return bool(scope.get("scheme") == "https" or (public_url or "").lower().startswith("https://"))


def cookie_name(scope: Scope) -> str:
    return _SECURE_NAME if is_secure(scope) else _NAME


def session_cookie(scope: Scope) -> bytes | None:
    """The value of the session's cookie; None without one. Two of them are as none."""
    if b"cookie" not in scope["headers_by_name"]:
        return None
    name = cookie_name(scope).encode()
    found = [value for each, value in cookies_of(scope) if each == name]
    return found[0] if len(found) == 1 and found[0] else None


def cookies_of(scope: Scope) -> Iterable[tuple[bytes, bytes]]:
    """The names and values of all cookies of a request."""
    for header, written in scope["headers"]:
        if header == b"cookie":
            for pair in written.split(b";"):
                name, _, value = pair.strip().partition(b"=")
                yield name, value


def set_cookie(scope: Scope, value: str, *, seconds: int) -> str:
    """The header `Set-Cookie` that gives the browser a session."""
    return _written(scope, value, seconds)


def remove_cookie(scope: Scope) -> str:
    """The header `Set-Cookie` that takes it away."""
    return _written(scope, "", 0)


def _written(scope: Scope, value: str, seconds: int) -> str:
    cookie = f"{cookie_name(scope)}={value}; Path=/; Max-Age={seconds}; HttpOnly; SameSite=Strict"
    return f"{cookie}; Secure" if is_secure(scope) else cookie
