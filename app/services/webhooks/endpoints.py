"""A tenant's webhook endpoints: registering, changing, trying and replaying them."""

import secrets
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, delete, func, select, tuple_, update
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from app.config import Settings
from app.db.models import Conversation, WebhookAttempt, WebhookEndpoint, WebhookRetry
from app.db.statements.paging import Page, fetch_page
from app.domain import EventType
from app.errors import (
    EventNotFound,
    EventsGone,
    FieldError,
    InvalidRequest,
    TooManyWebhookEndpoints,
    WebhookEndpointNotFound,
)
from app.schemas.events import EndpointData, WebhookEndpointTestEvent
from app.services.events.cursors import Position, cursor_at, position_of
from app.services.events.payloads import rendered
from app.services.events.reading import log_state, must_be_readable, read_entries
from app.services.tenancy.audit import record
from app.services.webhooks.leases import note_change
from app.services.webhooks.sender import WebhookSender
from app.services.webhooks.signatures import SignatureKind, kind_of, new_secret
from app.services.webhooks.store import Attempt, add_attempts, receiver_of
from app.services.webhooks.urls import must_be_usable

_BY_A_CLIENT = "It was disabled by a client."
#: For which the previous secret signs as well.
_ROTATION = timedelta(hours=24)
#: A change gives an endpoint another chance at once.
_AFRESH: Mapping[str, Any] = {"failing_since": None, "probe_at": None, "paused_until": None}


class WebhookEndpoints:
    """The endpoints of one tenant. Each change is recorded in the audit, with `actor` and `client`.

    The worker that serves the tenant sees a change within about a second.
    """

    def __init__(
        self,
        sessions: async_sessionmaker[AsyncSession],
        settings: Settings,
        sender: WebhookSender,
        tenant_id: int,
        *,
        actor: str | None,
        client: str | None,
    ) -> None:
        self._sessions = sessions
        self._settings = settings
        self._sender = sender
        self._tenant_id = tenant_id
        self._actor = actor
        self._client = client

    async def all(self, *, limit: int, cursor: str | None) -> Page[WebhookEndpoint]:
        """The endpoints, the oldest first."""
        statement = select(WebhookEndpoint).where(WebhookEndpoint.tenant_id == self._tenant_id)
        async with self._sessions() as session:
            return await fetch_page(
                session, statement, order=(WebhookEndpoint.id,), newest_first=False, limit=limit, cursor=cursor
            )

    async def get(self, endpoint_id: int) -> WebhookEndpoint:
        """Raises `WebhookEndpointNotFound`, as all methods about one endpoint do."""
        async with self._sessions() as session:
            return await self._get(session, endpoint_id)

    async def create(self, values: Mapping[str, Any], signature: SignatureKind) -> WebhookEndpoint:
        """Register an endpoint, which gets what happens from now on.

        Raises:
            InvalidRequest: The URL can't be sent to, or there is no such conversation.
            TooManyWebhookEndpoints: The tenant has as many as it may have.
        """
        must_be_usable(values["url"], self._settings)
        async with self._sessions.begin() as session:
            await self._must_have(session, values["conversation_id"])
            connection = await session.connection()
            await note_change(connection, self._tenant_id)  # others that are created meanwhile wait
            count = select(func.count()).where(WebhookEndpoint.tenant_id == self._tenant_id)
            if (await session.execute(count)).scalar_one() >= self._settings.max_webhook_endpoints:
                most = self._settings.max_webhook_endpoints
                raise TooManyWebhookEndpoints(f"There are {most} endpoints already. Delete one that you don't need.")
            start = (await log_state(connection, self._tenant_id)).decided
            endpoint = WebhookEndpoint(
                tenant_id=self._tenant_id, secret=new_secret(signature), **values, **_cursor(start)
            )
            session.add(endpoint)
            await session.flush()
            await session.refresh(endpoint)
            await self._note(session, endpoint.id, "webhook_endpoint_created")
            return endpoint

    async def change(self, endpoint_id: int, values: Mapping[str, Any]) -> WebhookEndpoint:
        """Change an endpoint, and try again at once what waits. `enabled` takes it out of use, or into use again."""
        values = dict(values)
        if "url" in values:
            must_be_usable(values["url"], self._settings)
        enabled = values.pop("enabled", None)
        async with self._sessions.begin() as session:
            await self._must_have(session, values.get("conversation_id"))
            if enabled is not None:
                values |= {"disabled_at": None, "disabled_reason": None}
            if enabled is False:
                values |= {"disabled_at": func.now(), "disabled_reason": _BY_A_CLIENT}
            endpoint = await self._change(session, endpoint_id, {**_AFRESH, **values})
            await self._retry_now(session, endpoint_id)
            await self._note(session, endpoint_id, "webhook_endpoint_changed")
            return endpoint

    async def rotate(self, endpoint_id: int) -> WebhookEndpoint:
        """Give an endpoint a new secret. The old one signs as well for 24 hours."""
        async with self._sessions.begin() as session:
            old = await self._get(session, endpoint_id, lock=True)
            values = {
                "secret": new_secret(kind_of(old.secret)),
                "previous_secret": old.secret,
                "previous_secret_until": datetime.now(UTC) + _ROTATION,
            }
            endpoint = await self._change(session, endpoint_id, values)
            await self._note(session, endpoint_id, "webhook_endpoint_rotated")
            return endpoint

    async def delete(self, endpoint_id: int) -> WebhookEndpoint:
        """Delete an endpoint. A request that is under way may still reach it."""
        async with self._sessions.begin() as session:
            await note_change(await session.connection(), self._tenant_id)
            endpoint = await self._get(session, endpoint_id, lock=True)
            await session.execute(delete(WebhookRetry).where(*self._retries_of(endpoint_id)))
            await session.execute(delete(WebhookEndpoint).where(*self._is(endpoint_id)))
            await self._note(session, endpoint_id, "webhook_endpoint_deleted")
            return endpoint

    async def attempts(self, endpoint_id: int, *, limit: int, cursor: str | None) -> Page[WebhookAttempt]:
        """The attempts of the last days, the newest first."""
        statement = select(WebhookAttempt).where(
            WebhookAttempt.tenant_id == self._tenant_id, WebhookAttempt.endpoint_id == endpoint_id
        )
        async with self._sessions() as session:
            await self._get(session, endpoint_id)
            return await fetch_page(
                session, statement, order=(WebhookAttempt.id,), newest_first=True, limit=limit, cursor=cursor
            )

    async def replay(self, endpoint_id: int, after: str) -> WebhookEndpoint:
        """Go on after a cursor. Raises `InvalidRequest` for one of another log, and `EventsGone`."""
        position = position_of(self._tenant_id, after, location="body.after")
        async with self._sessions.begin() as session:
            state = await log_state(await session.connection(), self._tenant_id)
            must_be_readable(self._tenant_id, position, state, location="body.after")
            endpoint = await self._change(session, endpoint_id, {**_AFRESH, **_cursor(min(position, state.decided))})
            # Those that wait and come after it are sent again anyway.
            place = (WebhookRetry.generation, WebhookRetry.transaction_id, WebhookRetry.event_id)
            again = delete(WebhookRetry).where(*self._retries_of(endpoint_id), tuple_(*place) > tuple_(*position))
            await session.execute(again)
            await self._note(session, endpoint_id, "webhook_endpoint_replayed")
            return endpoint

    async def test(self, endpoint_id: int) -> Attempt:
        """Send an event that is not in the log, now."""
        endpoint = await self.get(endpoint_id)
        event = WebhookEndpointTestEvent(
            id=f"evt_test_{secrets.token_urlsafe(16)}",
            type=EventType.WEBHOOK_ENDPOINT_TEST,
            timestamp=datetime.now(UTC),
            data=EndpointData(endpoint_id=endpoint_id),
        )
        return await self._try(endpoint, event.id, event.type, event.model_dump_json(by_alias=True).encode())

    async def redeliver(self, endpoint_id: int, event_id: str) -> Attempt:
        """Send one event now, also one of a type that the endpoint does not want.

        Raises `InvalidRequest` for an id of another log, `EventsGone` and `EventNotFound`.
        """
        position = position_of(self._tenant_id, event_id, location="body.event_id")
        async with self._sessions() as session:
            endpoint = await self._get(session, endpoint_id)
            connection = await session.connection()
            found = await read_entries(connection, self._tenant_id, [position])
            if position not in found:
                state = await log_state(connection, self._tenant_id)
                if position <= state.trimmed_to:
                    raise EventsGone(cursor_at(self._tenant_id, state.trimmed_to))
                raise EventNotFound("There is no event with this id.")
            entry = found[position]
            [body] = await rendered(connection, self._tenant_id, [entry])
            tried = select(func.max(WebhookAttempt.number)).where(
                WebhookAttempt.tenant_id == self._tenant_id,
                WebhookAttempt.endpoint_id == endpoint_id,
                WebhookAttempt.event == event_id,
            )
            tries = (await session.execute(tried)).scalar_one() or 0
        return await self._try(endpoint, event_id, entry.type, body, entry.message_id, position, tries)

    async def _try(
        self,
        endpoint: WebhookEndpoint,
        event_id: str,
        type: str,
        body: bytes,
        message_id: int | None = None,
        position: Position | None = None,
        tries: int = 0,
    ) -> Attempt:
        """Send an event outside of the order. After a success the endpoint gets another chance at once."""
        answer = await self._sender.post(receiver_of(endpoint), event_id, body, position=position, is_slow=True)
        attempt = Attempt(event_id, type, message_id, tries + 1, answer)
        async with self._sessions.begin() as session:
            connection = await session.connection()
            await add_attempts(connection, self._tenant_id, [(endpoint.id, attempt)])
            if answer.error is not None:
                return attempt
            waited = position is not None and await self._forget_retry(session, endpoint.id, position)
            if waited or endpoint.failing_since is not None:
                await self._change(session, endpoint.id, {**_AFRESH, "last_success_at": func.now()})
                await self._retry_now(session, endpoint.id)
        return attempt

    def _is(self, endpoint_id: int) -> tuple[ColumnElement[bool], ColumnElement[bool]]:
        return WebhookEndpoint.tenant_id == self._tenant_id, WebhookEndpoint.id == endpoint_id

    def _retries_of(self, endpoint_id: int) -> tuple[ColumnElement[bool], ColumnElement[bool]]:
        return WebhookRetry.tenant_id == self._tenant_id, WebhookRetry.endpoint_id == endpoint_id

    async def _get(self, session: AsyncSession, endpoint_id: int, *, lock: bool = False) -> WebhookEndpoint:
        statement = select(WebhookEndpoint).where(*self._is(endpoint_id))
        endpoint = await session.scalar(statement.with_for_update() if lock else statement)
        return _found(endpoint)

    async def _change(self, session: AsyncSession, endpoint_id: int, values: Mapping[str, Any]) -> WebhookEndpoint:
        await note_change(await session.connection(), self._tenant_id)
        changing = update(WebhookEndpoint).where(*self._is(endpoint_id))
        changing = changing.values(version=WebhookEndpoint.version + 1, **values)
        endpoint = (await session.scalars(changing.returning(WebhookEndpoint))).one_or_none()
        return _found(endpoint)

    async def _retry_now(self, session: AsyncSession, endpoint_id: int) -> None:
        await session.execute(update(WebhookRetry).where(*self._retries_of(endpoint_id)).values(due_at=func.now()))

    async def _forget_retry(self, session: AsyncSession, endpoint_id: int, position: Position) -> bool:
        generation, transaction_id, event_id = position
        retry = delete(WebhookRetry).where(
            *self._retries_of(endpoint_id),
            WebhookRetry.generation == generation,
            WebhookRetry.transaction_id == transaction_id,
            WebhookRetry.event_id == event_id,
        )
        return await session.scalar(retry.returning(WebhookRetry.tries)) is not None

    async def _must_have(self, session: AsyncSession, conversation_id: int | None) -> None:
        if conversation_id is None or await session.get(Conversation, (self._tenant_id, conversation_id)) is not None:
            return
        error = FieldError("body.conversation_id", "take the id from a message or the list of conversations")
        raise InvalidRequest("There is no conversation with this id.", errors=[error])

    async def _note(self, session: AsyncSession, endpoint_id: int, kind: str) -> None:
        connection = await session.connection()
        await record(
            connection, self._tenant_id, kind, actor=self._actor, client=self._client, endpoint_id=endpoint_id
        )


def _found(endpoint: WebhookEndpoint | None) -> WebhookEndpoint:
    if endpoint is None:
        raise WebhookEndpointNotFound("There is no webhook endpoint with this id.")
    return endpoint


def _cursor(position: Position) -> dict[str, int]:
    generation, transaction_id, id = position
    return {"cursor_generation": generation, "cursor_transaction": transaction_id, "cursor_id": id}
