"""Sessions of browsers: a cookie takes the place of the API key that has begun the session.

A cookie is `mss_<tenant>_<session>_<secret>`, whose secret has 256 random bits. A session ends after twelve hours, by
logout, or with its key.
"""

import asyncio
import hashlib
import hmac
import re
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Self

import structlog
from sqlalchemy import BigInteger, Interval, Text, bindparam, delete, func, insert, literal, or_, select, update
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from app.db.engine import is_unavailable
from app.db.models import ApiKey, BrowserSession, Tenant
from app.db.statements.batches import TENANT, rows
from app.errors import Unauthorized
from app.installation import KeyScope
from app.services.tenancy.audit import network_of, record
from app.services.tenancy.keys import Access
from app.short_cache import ShortCache

log = structlog.get_logger(__name__)

LASTS_SECONDS = 12 * 3600
_COOKIE = re.compile(rb"mss_([1-9][0-9]{0,17})_([1-9][0-9]{0,17})_([A-Za-z0-9_-]{43})")
_SECRET_BYTES = 32
#: A session whose key was revoked is refused by every process after this; the promise is five seconds.
_KEPT_SECONDS = 3.0
_KEPT = 10_000
#: Open answers of ended sessions are ended after this, and what it takes to ask.
_WATCH_SECONDS = 2.0
#: Expired rows are kept for so long, so that their cookies are told from made-up ones.
_EXPIRED = literal(timedelta(days=1), Interval())
_LASTS = literal(timedelta(seconds=LASTS_SECONDS), Interval())

_ID = bindparam("session", type_=BigInteger())
_is_its_key = ApiKey.id == BrowserSession.key_id
_FIND = (
    select(
        BrowserSession.secret_hash,
        ApiKey.prefix,
        ApiKey.name,
        ApiKey.scopes,
        ApiKey.revoked_at,
        func.extract("epoch", func.least(BrowserSession.expires_at, ApiKey.expires_at) - func.now()).label("left"),
    )
    .join(ApiKey, _is_its_key)
    .where(BrowserSession.tenant_id == TENANT, BrowserSession.id == _ID, ApiKey.tenant_id == TENANT)
)
_shown = rows(tenant_id=BigInteger(), session_id=BigInteger())
_VALID = (
    select(BrowserSession.tenant_id, BrowserSession.id)
    .join(ApiKey, _is_its_key)
    .where(
        BrowserSession.tenant_id == Tenant.id,
        ApiKey.tenant_id == Tenant.id,
        Tenant.id == _shown.c.tenant_id,
        BrowserSession.id == _shown.c.session_id,
        BrowserSession.expires_at > func.now(),
        ApiKey.revoked_at.is_(None),
        or_(ApiKey.expires_at.is_(None), ApiKey.expires_at > func.now()),
    )
)
_KEY = select(ApiKey.id).where(ApiKey.tenant_id == TENANT, ApiKey.prefix == bindparam("prefix", type_=Text()))
_REMOVE_EXPIRED = delete(BrowserSession).where(
    BrowserSession.tenant_id == TENANT,
    BrowserSession.expires_at < func.now() - _EXPIRED,
)
_END = (
    update(BrowserSession)
    .where(BrowserSession.tenant_id == TENANT, BrowserSession.id == _ID)
    .values(expires_at=func.least(BrowserSession.expires_at, func.now()))
)


@dataclass(frozen=True, slots=True)
class Session:
    """A session, and the access that its key gives."""

    id: int
    access: Access


class SessionEnded(Unauthorized):
    """The cookie is one of ours, but its session or its key is over: no guess."""


def csrf_token(secret: bytes) -> str:
    """The token that shows that a request comes from a page that was made for this cookie."""
    return hmac.new(secret, b"csrf", hashlib.sha256).hexdigest()


class BrowserSessions:
    """Begins sessions, looks them up, and ends them; an async context manager.

    A valid session is cached for at most three seconds.
    """

    def __init__(self, sessions: async_sessionmaker[AsyncSession], *, deadline_seconds: float) -> None:
        self._sessions = sessions
        self._deadline_seconds = deadline_seconds
        self._cached: ShortCache[bytes, Session] = ShortCache(size=_KEPT)
        #: By tenant and session, what ends the answers that are open.
        self._open: dict[tuple[int, int], set[Callable[[], None]]] = {}
        self._watching: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._watching = asyncio.create_task(self._watch(), name="browser-sessions")
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._watching is not None
        self._watching.cancel()
        await asyncio.gather(self._watching, return_exceptions=True)

    async def begin(self, access: Access, *, client: str | None) -> str:
        """Begin a session of a valid key; returns its cookie, which can't be read again later."""
        assert access.prefix is not None
        secret = secrets.token_urlsafe(_SECRET_BYTES)
        hashed = hashlib.sha256(secret.encode()).digest()
        of_key = {"tenant": access.tenant_id, "prefix": access.prefix}
        async with asyncio.timeout(self._deadline_seconds), self._sessions.begin() as session:
            await session.execute(_REMOVE_EXPIRED, {"tenant": access.tenant_id})
            key_id = (await session.execute(_KEY, of_key)).scalar_one()
            expires_at = func.now() + _LASTS
            adding = insert(BrowserSession).values(
                tenant_id=access.tenant_id, key_id=key_id, secret_hash=hashed, expires_at=expires_at
            )
            id = (await session.execute(adding.returning(BrowserSession.id))).scalar_one()
            await _record(session, access, "session_begun", id, client)
        return f"mss_{access.tenant_id}_{id}_{secret}"

    def remembered(self, cookie: bytes) -> Session | None:
        """The cached session of a cookie; None where it has to be looked up."""
        return self._cached.get(_digest(cookie))

    def has_let_in(self, cookie: bytes) -> bool:
        """True if the cookie was valid when it was last looked up."""
        return self._cached.was_cached(_digest(cookie))

    async def find(self, cookie: bytes) -> Session:
        """The session of a cookie. Raises `SessionEnded`, and `Unauthorized` for a cookie that was never ours."""
        seen = _digest(cookie)
        try:
            return await self._cached.get_or_load(seen, lambda: self._look_up(cookie))
        except Unauthorized:
            self._cached.forget(seen)
            raise

    async def end(self, cookie: bytes, session: Session, *, client: str | None) -> None:
        """End a session and its open answers: here at once, in other processes within five seconds."""
        key = session.access.tenant_id, session.id
        async with asyncio.timeout(self._deadline_seconds), self._sessions.begin() as on:
            await on.execute(_END, {"tenant": key[0], "session": key[1]})
            await _record(on, session.access, "session_ended", session.id, client)
        self._cached.forget(_digest(cookie))
        self._end_answers(key)

    def watch(self, session: Session, end: Callable[[], None]) -> Callable[[], None]:
        """Call `end` once when the session is over. Returns what ends the watching."""
        key = session.access.tenant_id, session.id
        self._open.setdefault(key, set()).add(end)

        def forget() -> None:
            watched = self._open.get(key, set())
            watched.discard(end)
            if not watched:
                self._open.pop(key, None)

        return forget

    async def end_invalid(self) -> None:
        """End the open answers of sessions that are over."""
        shown = set(self._open)
        if not shown:
            return
        tenants, ids = zip(*shown, strict=True)
        parameters = {"given_tenant_id": list(tenants), "given_session_id": list(ids)}
        async with asyncio.timeout(self._deadline_seconds), self._sessions() as session:
            valid = {(tenant, id) for tenant, id in await session.execute(_VALID, parameters)}
        for key in shown - valid:
            self._end_answers(key)

    def _end_answers(self, key: tuple[int, int]) -> None:
        for end in self._open.pop(key, ()):
            end()

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(_WATCH_SECONDS)
            try:
                await self.end_invalid()
            except Exception as error:
                if not is_unavailable(error):
                    log.error("sessions_not_watched", exc_info=error)

    async def _look_up(self, cookie: bytes) -> tuple[Session, float]:
        match = _COOKIE.fullmatch(cookie)
        if match is None:
            raise Unauthorized("malformed cookie")
        tenant_id, id = int(match[1]), int(match[2])
        async with asyncio.timeout(self._deadline_seconds), self._sessions() as session:
            found = (await session.execute(_FIND, {"tenant": tenant_id, "session": id})).one_or_none()
        if found is None:
            raise Unauthorized("unknown session")
        if not hmac.compare_digest(hashlib.sha256(match[3]).digest(), found.secret_hash):
            raise Unauthorized("wrong secret of a session")
        if found.revoked_at is not None or found.left <= 0:
            raise SessionEnded("session over", found.prefix)
        access = Access(tenant_id, frozenset(map(KeyScope, found.scopes)), found.prefix, found.name)
        return Session(id, access), min(_KEPT_SECONDS, float(found.left))


async def _record(session: AsyncSession, access: Access, kind: str, id: int, client: str | None) -> None:
    detail: dict[str, Any] = {"session_id": id}
    await record(session, access.tenant_id, kind, actor=access.prefix, client=network_of(client), **detail)


def _digest(cookie: bytes) -> bytes:
    """The cache key of a cookie, so that no secret stays in memory for longer than its request."""
    return hashlib.sha256(cookie).digest()
