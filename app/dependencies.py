"""What endpoints ask for: the tenant, a session, the services, checked parameters."""

import re
from collections.abc import AsyncIterator
from typing import Annotated, Any

from fastapi import Depends, Path, Query, Request, Response
from pydantic import BeforeValidator
from sqlalchemy.ext.asyncio import AsyncSession

from app.db.paging import Page
from app.services.messages.conversations import ConversationService
from app.services.messages.service import MessageService
from app.services.people.contacts import ContactService
from app.services.tenancy.administration import AdministrationService
from app.services.tenancy.audit import network_of

_CANONICAL_ID = re.compile(r"[1-9][0-9]{0,18}", re.ASCII)
_CANONICAL_LIMIT = re.compile(r"[1-9][0-9]{0,3}", re.ASCII)
_LARGEST_ID = 2**63 - 1
_LONGEST_PAGE = 1000
_WAIT = re.compile(r"(?:^|[,;\s])wait\s*=\s*\"?([0-9]{1,6})\"?", re.IGNORECASE | re.ASCII)


async def _session(request: Request) -> AsyncIterator[AsyncSession]:
    async with request.app.state.services.sessions() as session:
        yield session


SessionDep = Annotated[AsyncSession, Depends(_session, scope="function")]


def tenant_id(request: Request) -> int:
    """Whose data the request is about: the tenant that was let in. Also called directly by hot routes."""
    tenant: int = request.scope["state"]["access"].tenant_id
    return tenant


TenantDep = Annotated[int, Depends(tenant_id)]


def conversation_service(session: SessionDep, tenant: TenantDep) -> ConversationService:
    return ConversationService(session, tenant)


ConversationsDep = Annotated[ConversationService, Depends(conversation_service)]


def contact_service(request: Request, tenant: TenantDep) -> ContactService:
    return ContactService(request.app.state.services.sessions, tenant)


ContactsDep = Annotated[ContactService, Depends(contact_service)]


def client_network(request: Request) -> str | None:
    """Where a request came from, as it is recorded."""
    return network_of(request.client.host) if request.client else None


def administration_service(request: Request, session: SessionDep) -> AdministrationService:
    return AdministrationService(session, actor=request.state.access.prefix, client=client_network(request))


AdministrationDep = Annotated[AdministrationService, Depends(administration_service)]


def message_service(request: Request) -> MessageService:
    """Also called directly by hot routes, which don't resolve dependencies."""
    service: MessageService = request.app.state.services.messages
    return service


MessagesDep = Annotated[MessageService, Depends(message_service)]


def _canonical_id(value: Any) -> Any:
    if not isinstance(value, str) or not _CANONICAL_ID.fullmatch(value) or int(value) > _LARGEST_ID:
        raise ValueError(f"an id is a whole number from 1 to {_LARGEST_ID}, in plain digits")
    return value


def _canonical_limit(value: Any) -> Any:
    if not isinstance(value, str) or not _CANONICAL_LIMIT.fullmatch(value) or int(value) > _LONGEST_PAGE:
        raise ValueError(f"a limit is a whole number from 1 to {_LONGEST_PAGE}, in plain digits")
    return value


Id = Annotated[int, BeforeValidator(_canonical_id), Path(json_schema_extra={"minimum": 1, "maximum": _LARGEST_ID})]
Limit = Annotated[
    int,
    BeforeValidator(_canonical_limit),
    Query(description="How many to answer at most.", json_schema_extra={"minimum": 1, "maximum": _LONGEST_PAGE}),
]
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
