"""The dependencies of endpoints: a session, the tenant, the services, checked parameters.

They are coroutines, because FastAPI runs plain functions in a thread.
"""

import re
from collections.abc import AsyncIterator, Sequence
from typing import Annotated, Any, TypeVar

from fastapi import Depends, Path, Query, Request, Response
from pydantic import BeforeValidator
from sqlalchemy.ext.asyncio import AsyncSession

from app.db.paging import Page
from app.services.messages.conversations import ConversationService
from app.services.messages.service import MessageService
from app.services.people.contacts import ContactService
from app.services.tenancy.administration import AdministrationService
from app.services.tenancy.audit import network_of

Row = TypeVar("Row")

_CANONICAL_ID = re.compile(r"[1-9][0-9]{0,18}", re.ASCII)
_CANONICAL_LIMIT = re.compile(r"[1-9][0-9]{0,3}", re.ASCII)
_LARGEST_ID = 2**63 - 1
_LONGEST_PAGE = 1000
_WAIT = re.compile(r"(?:^|[,;\s])wait\s*=\s*\"?([0-9]{1,6})\"?", re.IGNORECASE | re.ASCII)


async def _session(request: Request) -> AsyncIterator[AsyncSession]:
    async with request.app.state.services.sessions() as session:
        yield session


async def _begin(request: Request) -> AsyncIterator[AsyncSession]:
    async with request.app.state.services.sessions.begin() as session:
        yield session


ReadSession = Annotated[AsyncSession, Depends(_session, scope="function")]
#: Committed after the endpoint has returned and before its answer leaves, so that a failed commit is answered as the
#: error that it is. With the scope `request` it would be committed after the answer.
WriteSession = Annotated[AsyncSession, Depends(_begin, scope="function")]


def tenant_id(request: Request) -> int:
    """The tenant that was let in, whose data the request is about. Hot routes call this directly."""
    tenant: int = request.scope["state"]["access"].tenant_id
    return tenant


async def _tenant(request: Request) -> int:
    return tenant_id(request)


TenantDep = Annotated[int, Depends(_tenant)]


async def _conversations(session: ReadSession, tenant: TenantDep) -> ConversationService:
    return ConversationService(session, tenant)


ConversationsDep = Annotated[ConversationService, Depends(_conversations)]


async def _contacts(request: Request, tenant: TenantDep) -> ContactService:
    return ContactService(request.app.state.services.sessions, tenant)


ContactsDep = Annotated[ContactService, Depends(_contacts)]


def client_network(request: Request) -> str | None:
    """The network that a request came from, as the audit records it."""
    return network_of(request.client.host) if request.client else None


async def _administration(request: Request, session: WriteSession) -> AdministrationService:
    return AdministrationService(session, actor=request.state.access.prefix, client=client_network(request))


AdministrationDep = Annotated[AdministrationService, Depends(_administration)]


def message_service(request: Request) -> MessageService:
    """The message service. Hot routes call this directly."""
    service: MessageService = request.app.state.services.messages
    return service


async def _messages(request: Request) -> MessageService:
    return message_service(request)


MessagesDep = Annotated[MessageService, Depends(_messages)]


def _canonical_id(value: Any) -> Any:
    if not isinstance(value, str) or not _CANONICAL_ID.fullmatch(value) or int(value) > _LARGEST_ID:
        raise ValueError(f"an id is a whole number from 1 to {_LARGEST_ID}, in plain digits")
    return value


def _canonical_limit(value: Any) -> Any:
    if not isinstance(value, str) or not _CANONICAL_LIMIT.fullmatch(value) or int(value) > _LONGEST_PAGE:
        raise ValueError(f"a limit is a whole number from 1 to {_LONGEST_PAGE}, in plain digits")
    return value


Id = Annotated[int, BeforeValidator(_canonical_id), Path(json_schema_extra={"minimum": 1, "maximum": _LARGEST_ID})]
_Limit = Annotated[
    int,
    BeforeValidator(_canonical_limit),
    Query(description="How many to answer at most.", json_schema_extra={"minimum": 1, "maximum": _LONGEST_PAGE}),
]
_Cursor = Annotated[str | None, Query(max_length=200, description="From the `Link` header of another page.")]


class PageParameters:
    """The `limit` and `cursor` of a list, and the `Link` header of its answer (RFC 8288)."""

    def __init__(self, request: Request, response: Response, limit: int, cursor: str | None) -> None:
        self.limit = limit
        self.cursor = cursor
        self._request = request
        self._response = response

    def linked(self, page: Page[Row]) -> Sequence[Row]:
        """The rows of a page, whose neighbours the `Link` header names from here on."""
        url = self._request.url
        prefix = (self._request.app.state.settings.public_url or "").rstrip("/")
        links = [
            f'<{prefix}{url.include_query_params(cursor=cursor).replace(scheme="", netloc="")}>; rel="{rel}"'
            for rel, cursor in (("next", page.next), ("prev", page.previous))
            if cursor is not None
        ]
        if links:
            self._response.headers["Link"] = ", ".join(links)
        return page.rows


async def _pages(request: Request, response: Response, limit: _Limit = 100, cursor: _Cursor = None) -> PageParameters:
    return PageParameters(request, response, limit, cursor)


PagesDep = Annotated[PageParameters, Depends(_pages)]


def preferred_wait(request: Request) -> int:
    """Seconds the client prefers to wait (`Prefer: wait=N`, RFC 7240), capped by the settings; 0 if it doesn't."""
    prefer = ",".join(request.headers.getlist("prefer"))
    wait = _WAIT.search(prefer) if prefer else None
    cap: int = request.app.state.settings.prefer_wait_seconds
    return min(int(wait[1]), cap) if wait else 0
