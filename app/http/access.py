"""Authentication and authorisation: each request is let in or refused before its body is read and it is routed.

These are plain functions, because hot routes resolve no dependencies.
"""

import ipaddress
import math
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from http import HTTPStatus

import structlog
from starlette.exceptions import HTTPException
from starlette.types import Scope

from app.domain import DEFAULT_TENANT_ID
from app.errors import CrossSite, NotTheOperator, ScopeMissing, SignatureRefused, TooManyFailures, Unauthorized
from app.http.browser.requests import needs_session
from app.http.browser.sessions import session_of
from app.installation import KeyScope
from app.log import bind
from app.metrics.requests import NO_ROUTE
from app.services.limits.rate_limits import Quota, RateLimited
from app.services.tenancy.audit import network_of
from app.services.tenancy.keys import Access

log = structlog.get_logger(__name__)

_SEND, _READ, _ADMIN = KeyScope.SEND, KeyScope.READ, KeyScope.ADMIN

#: The scope that a key needs for a route; None needs no key. Production does not serve a route that is missing here,
#: so that a new one can't be open by oversight.
NEEDS: Mapping[str, Mapping[str, KeyScope | None]] = {
    "/api/messages/sms": {"POST": _SEND},
    "/api/messages/email": {"POST": _SEND},
    "/api/messages/preview": {"POST": _SEND},
    "/api/messages/retry": {"POST": _SEND},
    "/api/messages/{channel}": {"POST": _SEND},
    "/api/messages": {"GET": _READ},
    "/api/messages/{message_id}": {"GET": _READ},
    "/api/messages/{message_id}/timeline": {"GET": _READ},
    "/api/messages/{message_id}/cancel": {"POST": _SEND},
    "/api/messages/{message_id}/retry": {"POST": _SEND},
    "/api/batches": {"GET": _READ, "POST": _SEND},
    "/api/batches/{batch_id}": {"GET": _READ},
    "/api/batches/{batch_id}/results": {"GET": _READ},
    "/api/batches/{batch_id}/pause": {"POST": _SEND},
    "/api/batches/{batch_id}/resume": {"POST": _SEND},
    "/api/batches/{batch_id}/cancel": {"POST": _SEND},
    "/api/conversations": {"GET": _READ},
    "/api/conversations/{conversation_id}": {"GET": _READ, "PATCH": _SEND},
    "/api/conversations/{conversation_id}/messages": {"GET": _READ, "POST": _SEND},
    "/api/conversations/{conversation_id}/read": {"POST": _SEND},
    "/api/conversations/{conversation_id}/resume": {"POST": _SEND},
    "/api/events": {"GET": _READ},
    "/api/events/stream": {"GET": _READ},
    "/api/webhook-endpoints": {"GET": _READ, "POST": _ADMIN},
    "/api/webhook-endpoints/{endpoint_id}": {"GET": _READ, "PATCH": _ADMIN, "DELETE": _ADMIN},
    "/api/webhook-endpoints/{endpoint_id}/attempts": {"GET": _READ},
    "/api/webhook-endpoints/{endpoint_id}/rotate": {"POST": _ADMIN},
    "/api/webhook-endpoints/{endpoint_id}/test": {"POST": _ADMIN},
    "/api/webhook-endpoints/{endpoint_id}/redeliver": {"POST": _ADMIN},
    "/api/webhook-endpoints/{endpoint_id}/replay": {"POST": _ADMIN},
    "/api/files": {"POST": _SEND},
    # A vendor without a key has an address that is signed.
    "/api/files/{file_id}/{name}": {"GET": _READ},
    "/api/contacts": {"GET": _READ},
    "/api/contacts/{contact_id}": {"GET": _READ, "PATCH": _SEND, "DELETE": _ADMIN},
    "/api/contacts/{contact_id}/export": {"GET": _READ},
    "/api/contacts/{contact_id}/consent": {"GET": _READ},
    "/api/suppressions": {"GET": _SEND, "POST": _SEND},
    "/api/suppressions/batch": {"POST": _ADMIN},
    "/api/suppressions/{suppression_id}": {"GET": _SEND},
    "/api/suppressions/{suppression_id}/lift": {"POST": _ADMIN},
    "/api/search": {"GET": _READ},
    "/api/templates": {"GET": _READ},
    "/api/quiet-hours": {"GET": _READ, "PUT": _ADMIN},
    "/api/providers": {"GET": _READ},
    "/api/providers/{name}/pause": {"POST": _ADMIN},
    "/api/providers/{name}/resume": {"POST": _ADMIN},
    "/api/admin/tenants": {"GET": _ADMIN, "POST": _ADMIN},
    "/api/admin/tenants/{tenant_id}": {"PATCH": _ADMIN},
    "/api/admin/tenants/{tenant_id}/addresses": {"GET": _ADMIN, "POST": _ADMIN},
    "/api/admin/tenants/{tenant_id}/addresses/{address_id}": {"DELETE": _ADMIN},
    "/api/admin/keys": {"GET": _ADMIN, "POST": _ADMIN},
    "/api/admin/keys/{tenant_id}/{key_id}": {"DELETE": _ADMIN},
    "/api/admin/audit": {"GET": _ADMIN},
    "/api/admin/webhook-calls": {"GET": _ADMIN},
    "/api/admin/webhook-calls/{tenant_id}/{call_id}": {"GET": _ADMIN},
    "/api/admin/webhook-calls/{tenant_id}/{call_id}/verify": {"POST": _ADMIN},
    "/api/admin/webhook-calls/{tenant_id}/{call_id}/replay": {"POST": _ADMIN},
    # Providers send these: they sign, and have no key.
    "/api/webhooks/sms": {"POST": None},
    "/api/webhooks/email": {"POST": None},
    "/api/webhooks/{provider}": {"GET": None, "POST": None},
    # Readers of mails, and their mail programs.
    "/u/{token}": {"GET": None, "POST": None},
    "/inbox": {"GET": _READ},
    "/inbox/list": {"GET": _READ},
    "/inbox/search": {"GET": _READ},
    "/inbox/events": {"GET": _READ},
    "/inbox/preview": {"POST": _SEND},
    "/inbox/files": {"POST": _SEND},
    "/inbox/demo": {"POST": _ADMIN},
    "/inbox/demo/remove": {"POST": _ADMIN},
    "/inbox/c/{conversation_id}": {"GET": _READ},
    "/inbox/c/{conversation_id}/item": {"GET": _READ},
    "/inbox/c/{conversation_id}/read": {"POST": _SEND},
    "/inbox/c/{conversation_id}/state": {"POST": _SEND},
    "/inbox/c/{conversation_id}/messages": {"POST": _SEND},
    "/inbox/messages/{message_id}/item": {"GET": _READ},
    "/inbox/messages/{message_id}/timeline": {"GET": _READ},
    "/inbox/messages/{message_id}/cancel": {"POST": _SEND},
    "/inbox/messages/{message_id}/retry": {"POST": _SEND},
    "/inbox/static/{hash}/{path:path}": {"GET": None},
    "/healthz": {"GET": None},
    "/readyz": {"GET": None},
    "/metrics": {"GET": _ADMIN},
    # 404 where the reference is switched off.
    "/": {"GET": None},
    "/openapi.json": {"GET": None},
    "/docs": {"GET": None},
    "/docs/assets": {"GET": None},
    "/docs/assets/{path:path}": {"GET": None},
    # Pages, by the cookie of a session instead of a key.
    "/status": {"GET": _ADMIN},
    "/status.css": {"GET": None},
    "/login": {"GET": None, "POST": None},
    "/login.css": {"GET": None},
    "/logout": {"POST": _READ},
    "/inbox/files/{file_id}/{name}": {"GET": _READ},
    "/inbox/messages/{message_id}/html": {"GET": _READ},
}

#: Prefixes of the routes that concern the whole installation. They need `admin` in a key of tenant 1, who operates
#: it; in another tenant's key `admin` is for that tenant's own data.
OF_THE_INSTALLATION = ("/api/admin/", "/metrics", "/status")


#: Parameters that do not take every name: the path of a channel is that of a message, whose name is a number.
_PARAMETERS = {"channel": "(?![0-9]+$)[^/]+", "path:path": ".*"}


def _pattern(path: str) -> re.Pattern[str]:
    return re.compile(re.sub(r"\{([\w:]+)\}", lambda found: _PARAMETERS.get(found[1], "[^/]+"), path))


#: Routes with parameters.
_PATTERNS = [(_pattern(path), needs) for path, needs in NEEDS.items() if "{" in path]
_TEMPLATES = [(path, _pattern(path)) for path in NEEDS if "{" in path]
_SAFE_METHODS = {"GET", "OPTIONS"}
#: The beginnings of the addresses that take a session, which most requests do not have.
_SESSIONS = ("/inbox", "/logout", "/status")
_FILES, _SIGNATURE = "/api/files/", b"signature="
#: `Sec-Fetch-Site` of our own pages, and of an address that is typed in.
_OF_THIS_SITE = {b"same-origin", b"none"}
#: Development without a key: everything, as tenant 1.
_EVERYTHING = Access(DEFAULT_TENANT_ID, frozenset(KeyScope))


async def admit(scope: Scope) -> None:
    """Let a request in and put its `Access` into its state as `access`, or raise.

    Pages take the cookie of a session, and nothing else does. A request with a key or a session counts against its
    tenant's rate limit, which the answer tells.

    Raises:
        Unauthorized: There is no valid key.
        LoginNeeded: There is no valid session.
        TooManyFailures: The client has shown too many wrong keys.
        RateLimited: The tenant's rate is used up.
        ScopeMissing: The key lacks the scope that the route needs.
        NotTheOperator: The route needs a key of tenant 1.
        CrossSite: A page of another site asks for a change, with a session or in development without a key.
        SignatureRefused: The address of a file has a signature that is not ours, or is expired.
        HTTPException: 404 or 405 in production, for a route that `NEEDS` does not name.
    """
    path, method = scope["path"], "GET" if scope["method"] == "HEAD" else scope["method"]
    needs = needs_of(path)
    need = needs.get(method)
    if need is None and method in needs:
        return
    app = scope["app"].state
    if _SIGNATURE in scope["query_string"] and method == "GET" and path.startswith(_FILES):
        scope.setdefault("state", {})["access"] = _access_of_address(scope)
        return
    if path.startswith(_SESSIONS) and needs_session(path):
        session = await session_of(scope)
        access = _without_a_key(scope) if session is None else session.access
        is_counted = session is not None
    else:
        shown = _shown(scope)
        is_counted = bool(shown) or app.settings.is_production
        if is_counted:
            remembered = app.services.keys.remembered(shown[0]) if len(shown) == 1 else None
            access = remembered or await access_of(scope, shown)
        else:
            access = _without_a_key(scope)
    if is_counted:
        bind(tenant=access.tenant_id)
        rates = app.services.rates
        try:
            _tell_quota(scope, rates.take_at_once(access.tenant_id) or await rates.take(access.tenant_id))
        except RateLimited as refusal:
            _tell_quota(scope, refusal.quota)
            raise
    if need is None:
        if app.settings.is_production:
            raise HTTPException(HTTPStatus.METHOD_NOT_ALLOWED if needs else HTTPStatus.NOT_FOUND)
    elif need not in access.scopes:
        note_denied(scope, access, need)
        raise ScopeMissing(f"This key lacks the scope `{need}`.")
    elif need is _ADMIN and access.tenant_id != DEFAULT_TENANT_ID and path.startswith(OF_THE_INSTALLATION):
        note_denied(scope, access, need)
        raise NotTheOperator("This is about the whole installation, and takes a key of tenant 1.")
    scope.setdefault("state", {})["access"] = access


def _access_of_address(scope: Scope) -> Access:
    """The access that a signed address gives: to the one file that it names. Raises `SignatureRefused`."""
    tenant_id = scope["app"].state.file_addresses.tenant_of(scope["path"], scope["query_string"])
    if tenant_id is None:
        raise SignatureRefused("This address of a file has expired, or is not one that this service has signed.")
    bind(tenant=tenant_id)
    return Access(tenant_id, frozenset())


def _without_a_key(scope: Scope) -> Access:
    """Full access, in development. Raises `CrossSite` for a change that a page of another site asks for.

    The first request from another machine is logged as a warning, however the server was started.
    """
    app, headers, client = scope["app"].state, scope["headers_by_name"], scope.get("client")
    if (b"sec-fetch-site" in headers or b"origin" in headers) and scope["method"] not in _SAFE_METHODS:
        _must_be_of_this_site(headers, app.settings.cors_origins)
    # Most requests come from 127.0.0.1, and comparing is cheaper than a call.
    if client and client[0] != "127.0.0.1" and not _is_this_machine(client[0]) and not app.has_warned_of_public_use:
        app.has_warned_of_public_use = True
        reason = "anybody who reaches it may do anything"
        log.warning("development_profile_is_public", client=network_of(client[0]), reason=reason)
    return _EVERYTHING


def _must_be_of_this_site(headers: Mapping[bytes, bytes], allowed: Sequence[str]) -> None:
    """Refuse the pages of other sites: a browser posts a form without a preflight, and names the page's origin."""
    origin, site = headers.get(b"origin", b""), headers.get(b"sec-fetch-site")
    if origin.decode("latin-1") in allowed:
        return
    is_ours = origin.partition(b"://")[2] == headers.get(b"host") if site is None else site in _OF_THIS_SITE
    if not is_ours:
        raise CrossSite("Without a key, pages of other sites change nothing here; CORS_ORIGINS names those that may.")


@lru_cache(maxsize=1024)
def _is_this_machine(client: str) -> bool:
    try:
        address = ipaddress.ip_address(client)
    except ValueError:
        return True  # the client of a Unix socket has no address
    return (getattr(address, "ipv4_mapped", None) or address).is_loopback


def note_denied(scope: Scope, access: Access, need: KeyScope) -> None:
    """Record that a key does not allow what was asked with it."""
    scope["app"].state.services.refusals.refused(
        "tenant_denied",
        tenant_id=access.tenant_id,
        actor=access.prefix,
        client=client_address(scope),
        scope=need.value,
    )


def _shown(scope: Scope) -> list[bytes]:
    """The values of all `Authorization` headers; two of them are refused."""
    by_name, headers = scope["headers_by_name"], scope["headers"]
    if len(by_name) == len(headers):
        return [by_name[b"authorization"]] if b"authorization" in by_name else []
    return [value for name, value in headers if name == b"authorization"]


def needs_of(path: str) -> Mapping[str, KeyScope | None]:
    """The scope that each method of an address needs; empty where there is no such address."""
    return NEEDS.get(path) or {
        method: need for pattern, needs in _PATTERNS if pattern.fullmatch(path) for method, need in needs.items()
    }


def template_of(path: str) -> str:
    """The address as `NEEDS` has it, or `NO_ROUTE`."""
    if path in NEEDS:
        return path
    return next((template for template, pattern in _TEMPLATES if pattern.fullmatch(path)), NO_ROUTE)


def methods_at(path: str) -> str:
    """The methods that an address takes, with a slash at its end or without, as the header `Allow` lists them."""
    methods = needs_of(path.removesuffix("/") or "/")
    return ", ".join([*methods, *(["HEAD"] if "GET" in methods else [])])


async def access_of(scope: Scope, shown: list[bytes]) -> Access:
    """The access that the credentials give. Refused ones are recorded in the audit; wrong ones count as failures."""
    services, client = scope["app"].state.services, client_address(scope)
    try:
        if not shown:
            raise Unauthorized("missing")
        seconds = services.failures.seconds_left(client)
        # A key that was valid lately is no guess: a client that shares its address with a guesser keeps working.
        if seconds and not services.keys.has_let_in(shown[0]):
            raise TooManyFailures("Too many wrong keys came from this address.", retry_after=seconds)
        if len(shown) != 1:
            raise Unauthorized("malformed")
        access: Access = await services.keys.access(shown[0])
    except Unauthorized as refusal:
        if shown:
            services.failures.note(client)
        prefix = {"prefix": refusal.prefix} if refusal.prefix else {}
        services.refusals.refused("authentication_failed", client=client, reason=refusal.reason, **prefix)
        raise
    return access


def client_address(scope: Scope) -> str | None:
    return scope["client"][0] if scope.get("client") else None


def _tell_quota(scope: Scope, quota: Quota | None) -> None:
    """Add `RateLimit-Policy` and `RateLimit` to the answer, as in the IETF's draft-ietf-httpapi-ratelimit-headers-11.

    The time runs until the bucket is full again, or is that of `Retry-After`. Without a limit nothing is added.
    """
    if quota is None:
        return
    rate, burst, left, retry_after = quota
    seconds = math.ceil((burst - left) / rate) if retry_after is None else retry_after
    scope["answer_headers"] += (_policy(rate, burst), (b"ratelimit", b'"requests";r=%d;t=%d' % (left, seconds)))


@lru_cache(maxsize=1024)
def _policy(rate: float, burst: int) -> tuple[bytes, bytes]:
    return b"ratelimit-policy", b'"requests";q=%d;w=%d' % (burst, math.ceil(burst / rate))
