"""API keys: new tokens, and the look-up of the key that a request shows.

A token is `msk_<tenant>_<prefix>_<secret>`, and begins with `msk_test_` where its tenant is a test tenant. Its secret
has 256 random bits. They can't be guessed, so one SHA-256 is enough to store, and a slow hash would protect nothing
more.
"""

import asyncio
import hashlib
import hmac
import re
import secrets
from collections.abc import Collection
from dataclasses import dataclass

from sqlalchemy import BigInteger, Text, and_, bindparam, func, literal, or_, select
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession, async_sessionmaker

from app.db.models import ApiKey, Tenant
from app.db.statements.batches import TENANT, rows
from app.errors import Unauthorized
from app.installation import KeyScope
from app.short_cache import ShortCache

_CREDENTIALS = re.compile(
    rb"[Bb][Ee][Aa][Rr][Ee][Rr] +(msk_(?:test_)?([1-9][0-9]{0,17})_([a-z2-7]{10})_[A-Za-z0-9_-]{43})"
)
_PREFIX_LETTERS, _PREFIX_LENGTH, _SECRET_BYTES = "abcdefghijklmnopqrstuvwxyz234567", 10, 32
#: A revoked key is refused by every process after this; the promise is five seconds.
_KEPT_SECONDS = 3.0
_KEPT = 10_000
_NO_HASH = bytes(32)


@dataclass(frozen=True, slots=True)
class Access:
    """The caller of a request: its tenant, the scopes of its key, the prefix of the key, and its name."""

    tenant_id: int
    scopes: frozenset[KeyScope]
    prefix: str | None = None
    name: str | None = None


@dataclass(frozen=True, slots=True)
class Token:
    """A new token; `written` is shown once and stored nowhere."""

    written: str
    prefix: str
    secret_hash: bytes


def new_token(tenant_id: int, *, is_test: bool = False) -> Token:
    prefix = "".join(secrets.choice(_PREFIX_LETTERS) for _ in range(_PREFIX_LENGTH))
    written = f"msk_{'test_' if is_test else ''}{tenant_id}_{prefix}_{secrets.token_urlsafe(_SECRET_BYTES)}"
    return Token(written, prefix, hashlib.sha256(written.encode()).digest())


_wanted = select(bindparam("prefix", type_=Text()).label("prefix")).subquery("wanted")
_is_wanted = and_(ApiKey.tenant_id == TENANT, ApiKey.prefix == _wanted.c.prefix)
#: Finds one row in any case, of the same size, so that the response time doesn't tell if there is such a key.
_FIND = select(
    ApiKey.id,
    ApiKey.name,
    func.coalesce(ApiKey.secret_hash, literal(_NO_HASH)).label("secret_hash"),
    func.coalesce(ApiKey.scopes, literal(list(KeyScope), JSONB())).label("scopes"),
    ApiKey.revoked_at,
    func.extract("epoch", ApiKey.expires_at - func.now()).label("seconds_left"),
).select_from(_wanted.outerjoin(ApiKey, _is_wanted))


_shown = rows(tenant_id=BigInteger(), prefix=Text())
_VALID = select(ApiKey.tenant_id, ApiKey.prefix).where(
    ApiKey.tenant_id == Tenant.id,
    Tenant.id == _shown.c.tenant_id,
    ApiKey.prefix == _shown.c.prefix,
    ApiKey.revoked_at.is_(None),
    or_(ApiKey.expires_at.is_(None), ApiKey.expires_at > func.now()),
)


async def valid_keys(connection: AsyncConnection, keys: Collection[tuple[int, str]]) -> set[tuple[int, str]]:
    """Those of `keys`, each a tenant and a prefix, that are neither revoked nor expired."""
    tenants, prefixes = zip(*keys, strict=True)
    found = await connection.execute(_VALID, {"given_tenant_id": list(tenants), "given_prefix": list(prefixes)})
    return {(tenant_id, prefix) for tenant_id, prefix in found}


class KeyCache:
    """Looks up the access that credentials give, and caches that of valid ones for at most three seconds."""

    def __init__(self, sessions: async_sessionmaker[AsyncSession], *, deadline_seconds: float) -> None:
        self._sessions = sessions
        self._deadline_seconds = deadline_seconds
        self._cached: ShortCache[bytes, Access] = ShortCache(size=_KEPT)

    def remembered(self, authorization: bytes) -> Access | None:
        """The cached access of an `Authorization` header; None where it has to be looked up."""
        return self._cached.get(_digest(authorization))

    async def access(self, authorization: bytes) -> Access:
        """The access of an `Authorization` header. Raises `Unauthorized`, whose answer never tells the reason."""
        seen = _digest(authorization)
        try:
            return await self._cached.get_or_load(seen, lambda: self._look_up(authorization))
        except Unauthorized:
            self._cached.forget(seen)
            raise

    def has_let_in(self, authorization: bytes) -> bool:
        """True if the credentials were valid when they were last looked up, so that another look-up makes sense."""
        return self._cached.was_cached(_digest(authorization))

    async def _look_up(self, authorization: bytes) -> tuple[Access, float]:
        match = _CREDENTIALS.fullmatch(authorization)
        if match is None:
            raise Unauthorized("malformed")
        tenant_id, prefix = int(match[2]), match[3].decode()
        async with asyncio.timeout(self._deadline_seconds), self._sessions() as session:
            key = (await session.execute(_FIND, {"tenant": tenant_id, "prefix": prefix})).one()
        if not hmac.compare_digest(hashlib.sha256(match[1]).digest(), key.secret_hash) or key.id is None:
            raise Unauthorized("unknown" if key.id is None else "wrong secret", prefix)
        if key.revoked_at is not None:
            raise Unauthorized("revoked", prefix)
        seconds_left = float("inf") if key.seconds_left is None else float(key.seconds_left)
        if seconds_left <= 0:
            raise Unauthorized("expired", prefix)
        access = Access(tenant_id, frozenset(map(KeyScope, key.scopes)), prefix, key.name)
        return access, min(_KEPT_SECONDS, seconds_left)


def _digest(authorization: bytes) -> bytes:
    """The cache key of credentials, so that no secret stays in memory for longer than its request."""
    return hashlib.sha256(authorization).digest()
