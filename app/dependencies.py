"""What endpoints ask for: the tenant, a session, the services, checked parameters."""

import re
from collections.abc import AsyncIterator
from typing import Annotated, Any

from fastapi import Depends, Path, Query, Request, Response
from pydantic import BeforeValidator
from sqlalchemy.ext.asyncio import AsyncSession

from app.domain import DEFAULT_TENANT_ID
from app.services.conversations import ConversationService
from app.services.messages import MessageService
from app.services.paging import Page

_CANONICAL_ID = re.compile(r"[1-9][0-9]{0,18}", re.ASCII)
_LARGEST_ID = 2**63 - 1
_WAIT = re.compile(r"(?:^|[,;\s])wait\s*=\s*\"?([0-9]{1,6})\"?", re.IGNORECASE | re.ASCII)


async def _session(request: Request) -> AsyncIterator[AsyncSession]:
    async with request.app.state.services.sessions() as session:
        yield session


SessionDep = Annotated[AsyncSession, Depends(_session, scope="function")]


def tenant_id(request: Request) -> int:
    """Whose data the request is about."""
    return DEFAULT_TENANT_ID


TenantDep = Annotated[int, Depends(tenant_id)]


def conversation_service(session: SessionDep, tenant: TenantDep) -> ConversationService:
    return ConversationService(session, tenant)


ConversationsDep = Annotated[ConversationService, Depends(conversation_service)]


def message_service(request: Request) -> MessageService:
    """Also called directly by hot routes, which don't resolve dependencies."""
    service: MessageService = request.app.state.services.messages
    return service


MessagesDep = Annotated[MessageService, Depends(message_service)]


def _canonical_id(value: Any) -> Any:
    if not isinstance(value, str) or not _CANONICAL_ID.fullmatch(value) or int(value) > _LARGEST_ID:
        raise ValueError(f"an id is a whole number from 1 to {_LARGEST_ID}, in plain digits")
    return value


Id = Annotated[int, BeforeValidator(_canonical_id), Path(json_schema_extra={"minimum": 1, "maximum": _LARGEST_ID})]
Limit = Annotated[int, Query(ge=1, le=1000, description="How many to answer at most.")]
Cursor = Annotated[str | None, Query(max_length=200, description="From the `Link` header of another page.")]


def preferred_wait(request: Request) -> int:
    """Seconds the client prefers to wait (`Prefer: wait=N`, RFC 7240), capped by the settings; 0 if it doesn't."""
    prefer = ",".join(request.headers.getlist("prefer"))
    wait = _WAIT.search(prefer) if prefer else None
    cap: int = request.app.state.settings.prefer_wait_seconds
    return min(int(wait[1]), cap) if wait else 0


def link_pages(request: Request, response: Response, page: Page[Any]) -> None:
    """Name the next and the previous page in the `Link` header (RFC 8288)."""
    public_url = (request.app.state.settings.public_url or "").rstrip("/")
    links = [
        f'<{public_url}{request.url.include_query_params(cursor=cursor).replace(scheme="", netloc="")}>; rel="{rel}"'
        for rel, cursor in (("next", page.next), ("prev", page.previous))
        if cursor is not None
    ]
    if links:
        response.headers["Link"] = ", ".join(links)
