"""Webhook endpoints: where a tenant's own programs receive events."""

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request

from app.db.models import WebhookAttempt, WebhookEndpoint
from app.dependencies import Id, PagesDep, TenantDep, client_network, services_of
from app.http.json_body import JsonRoute
from app.http.problems import responses
from app.schemas.webhook_endpoints import (
    NewWebhookEndpoint,
    Redelivery,
    Replay,
    WebhookAttemptView,
    WebhookEndpointChange,
    WebhookEndpointSecret,
    WebhookEndpointView,
)
from app.services.events.cursors import Position, cursor_at
from app.services.webhooks.endpoints import WebhookEndpoints
from app.services.webhooks.signatures import kind_of, public_key_of
from app.services.webhooks.store import Attempt

router = APIRouter(
    prefix="/api/webhook-endpoints",
    route_class=JsonRoute,
    tags=["webhook endpoints"],
    responses=responses(422, 503),
)
_BODY, _ONE = responses(413, 415), responses(404)


async def _endpoints(request: Request, tenant: TenantDep) -> WebhookEndpoints:
    services = services_of(request)
    return WebhookEndpoints(
        services.sessions,
        request.app.state.settings,
        services.webhooks,
        tenant,
        actor=request.state.access.prefix,
        client=client_network(request),
    )


_EndpointsDep = Annotated[WebhookEndpoints, Depends(_endpoints)]


@router.post("", responses=_BODY | responses(409))
async def create_webhook_endpoint(new: NewWebhookEndpoint, endpoints: _EndpointsDep) -> WebhookEndpointSecret:
    """Register an endpoint. It gets what happens from now on, signed with the secret in this answer."""
    values = new.model_dump()
    return _with_secret(await endpoints.create(values, values.pop("signature")))


@router.get("")
async def list_webhook_endpoints(endpoints: _EndpointsDep, pages: PagesDep) -> list[WebhookEndpointView]:
    """Webhook endpoints, the oldest first."""
    found = await endpoints.all(limit=pages.limit, cursor=pages.cursor)
    return [_view(endpoint) for endpoint in pages.linked(found)]


@router.get("/{endpoint_id}", responses=_ONE)
async def get_webhook_endpoint(endpoint_id: Id, endpoints: _EndpointsDep) -> WebhookEndpointView:
    """A webhook endpoint, and how it is doing."""
    return _view(await endpoints.get(endpoint_id))


@router.patch("/{endpoint_id}", responses=_BODY | _ONE)
async def change_webhook_endpoint(
    endpoint_id: Id, change: WebhookEndpointChange, endpoints: _EndpointsDep
) -> WebhookEndpointView:
    """Change an endpoint. What waits for a retry is tried again at once.

    One that was disabled goes on where it stopped, if `enabled` is true. A change applies within a second or so.
    """
    return _view(await endpoints.change(endpoint_id, change.changed()))


@router.post("/{endpoint_id}/rotate", responses=_ONE)
async def rotate_webhook_secret(endpoint_id: Id, endpoints: _EndpointsDep) -> WebhookEndpointSecret:
    """Give an endpoint a new secret. For 24 hours the old one signs as well, in a second signature."""
    return _with_secret(await endpoints.rotate(endpoint_id))


@router.post("/{endpoint_id}/test", responses=_ONE)
async def test_webhook_endpoint(endpoint_id: Id, endpoints: _EndpointsDep, request: Request) -> WebhookAttemptView:
    """Send an event of the type `webhook_endpoint.test` now. It is not in the log, and is not retried."""
    with request.app.state.overload.not_in_flight(request.scope):
        return _tried(await endpoints.test(endpoint_id))


@router.get("/{endpoint_id}/attempts", responses=_ONE)
async def list_webhook_attempts(
    endpoint_id: Id, endpoints: _EndpointsDep, pages: PagesDep
) -> list[WebhookAttemptView]:
    """Requests to an endpoint in the last days, the newest first."""
    found = await endpoints.attempts(endpoint_id, limit=pages.limit, cursor=pages.cursor)
    return [_attempt(attempt) for attempt in pages.linked(found)]


@router.post("/{endpoint_id}/redeliver", responses=_BODY | responses(404, 410))
async def redeliver_webhook(
    endpoint_id: Id, wanted: Redelivery, endpoints: _EndpointsDep, request: Request
) -> WebhookAttemptView:
    """Send one event now, also one that was taken before."""
    with request.app.state.overload.not_in_flight(request.scope):
        return _tried(await endpoints.redeliver(endpoint_id, wanted.event_id))


@router.post("/{endpoint_id}/replay", responses=_BODY | responses(404, 410))
async def replay_webhooks(endpoint_id: Id, wanted: Replay, endpoints: _EndpointsDep) -> WebhookEndpointView:
    """Send everything after a cursor, in addition to what happens. A later cursor skips what is before it."""
    return _view(await endpoints.replay(endpoint_id, wanted.after))


@router.delete("/{endpoint_id}", responses=_ONE)
async def delete_webhook_endpoint(endpoint_id: Id, endpoints: _EndpointsDep) -> WebhookEndpointView:
    """Delete an endpoint with what waits for it."""
    return _view(await endpoints.delete(endpoint_id))


def _shown(endpoint: WebhookEndpoint) -> dict[str, Any]:
    position = Position(endpoint.cursor_generation, endpoint.cursor_transaction, endpoint.cursor_id)
    return vars(endpoint) | {
        "header_names": sorted(endpoint.headers),
        "signature": kind_of(endpoint.secret),
        "public_key": public_key_of(endpoint.secret),
        "enabled": endpoint.disabled_at is None,
        "cursor": cursor_at(endpoint.tenant_id, position),
    }


def _view(endpoint: WebhookEndpoint) -> WebhookEndpointView:
    return WebhookEndpointView.model_validate(_shown(endpoint))


def _with_secret(endpoint: WebhookEndpoint) -> WebhookEndpointSecret:
    shown = _shown(endpoint)
    return WebhookEndpointSecret.model_validate(
        shown | {"secret": endpoint.secret if shown["signature"] == "hmac" else None}
    )


def _attempt(attempt: WebhookAttempt) -> WebhookAttemptView:
    return WebhookAttemptView.model_validate(vars(attempt) | {"event_id": attempt.event})


def _tried(attempt: Attempt) -> WebhookAttemptView:
    answer = attempt.answer
    return WebhookAttemptView(
        event_id=attempt.event,
        type=attempt.type,
        number=attempt.number,
        status=answer.status,
        error=answer.error,
        answer=answer.beginning,
        duration_ms=round(answer.seconds * 1000),
        started_at=answer.started_at,
    )
