"""Quiet hours of a tenant, in which its messages wait."""

from collections.abc import Mapping
from typing import Annotated

from fastapi import APIRouter, Body, Request

from app.dependencies import ReadSession, TenantDep, WriteSession, client_network, services_of
from app.errors import FieldError, InvalidRequest
from app.http.json_body import JsonRoute
from app.http.problems import responses
from app.schemas.quiet_hours import QuietHoursView
from app.services.consent.quiet_hours import Span, replace_spans, spans_of

router = APIRouter(prefix="/api/quiet-hours", route_class=JsonRoute, tags=["consent"], responses=responses(503))
_Spans = Annotated[list[QuietHoursView], Body(max_length=100)]


@router.get("")
async def list_quiet_hours(session: ReadSession, tenant: TenantDep) -> list[QuietHoursView]:
    """The spans of the day in which messages wait, by the time of their recipients."""
    return _shown(await spans_of(await session.connection(), tenant))


@router.put("", responses=responses(413, 415, 422))
async def set_quiet_hours(
    spans: _Spans, session: WriteSession, tenant: TenantDep, request: Request
) -> list[QuietHoursView]:
    """Replace all spans. They hold within three seconds, also for messages that were accepted before.

    A message with a purpose is never held.
    """
    topics = [span.topic or "" for span in spans]
    if twice := [position for position, topic in enumerate(topics) if topic in topics[:position]]:
        errors = [
            FieldError(f"body.{position}.topic", "there is a span for this topic already") for position in twice
        ]
        raise InvalidRequest("Each topic has one span.", errors=errors)
    new = [(topic, Span(*span.times, span.time_zone)) for topic, span in zip(topics, spans, strict=True)]
    connection, actor = await session.connection(), request.state.access.prefix
    await replace_spans(connection, tenant, new, actor=actor, client=client_network(request))
    services_of(request).quiet_hours.forget(tenant)
    return _shown(dict(sorted(new)))


def _shown(spans: Mapping[str, Span]) -> list[QuietHoursView]:
    return [
        QuietHoursView(
            topic=topic or None, begins=f"{span.begins:%H:%M}", ends=f"{span.ends:%H:%M}", time_zone=span.time_zone
        )
        for topic, span in spans.items()
    ]
