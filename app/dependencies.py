"""The dependencies of endpoints: a session, the tenant, the services, checked parameters.

They are coroutines, because FastAPI runs plain functions in a thread.
"""

import re
from collections.abc import AsyncIterator
from typing import Annotated, TypeVar

from fastapi import Depends, Path, Query, Request, Response
from pydantic import BeforeValidator, TypeAdapter, ValidationError, WithJsonSchema
from sqlalchemy import event
from sqlalchemy.ext.asyncio import AsyncSession

from app.addresses import InvalidAddress, any_address, contact_address
from app.domain import Address
from app.errors import FieldError, InvalidRequest
from app.http.pages import PageParameters
from app.http.problems import invalid_request
from app.http.read_route import USUAL_LIMIT
from app.schemas.fields import Metadata
from app.services.consent.suppressions import Suppressions
from app.services.demo.demo import Demo
from app.services.messages.conversations import ConversationService
from app.services.messages.service import MessageService
from app.services.people.contacts import ContactService
from app.services.tenancy.administration import AdministrationService
from app.services.tenancy.audit import network_of
from app.wiring import Services

Row = TypeVar("Row")

_PLAIN_DIGITS = re.compile(r"[1-9][0-9]{0,18}", re.ASCII)
_LARGEST_ID = 2**63 - 1
_LONGEST_PAGE = 1000
_METADATA = "metadata."
_PAIRS: TypeAdapter[dict[str, str]] = TypeAdapter(Metadata)
_WAIT = re.compile(r"(?:^|[,;\s])wait\s*=\s*\"?([0-9]{1,6})\"?", re.IGNORECASE | re.ASCII)


async def _session(request: Request) -> AsyncIterator[AsyncSession]:
    async with services_of(request).sessions() as session:
        yield session


async def _begin(request: Request) -> AsyncIterator[AsyncSession]:
    async with services_of(request).sessions.begin() as session:
        yield session


ReadSession = Annotated[AsyncSession, Depends(_session, scope="function")]
#: Committed after the endpoint has returned and before its answer leaves, so that a failed commit is answered as the
#: error that it is. With the scope `request` it would be committed after the answer.
WriteSession = Annotated[AsyncSession, Depends(_begin, scope="function")]


def services_of(request: Request) -> Services:
    """The services of the process. Hot routes call this directly."""
    services: Services = request.app.state.services
    return services


def tenant_id(request: Request) -> int:
    """The tenant that was let in, whose data the request is about. Hot routes call this directly."""
    tenant: int = request.scope["state"]["access"].tenant_id
    return tenant


async def _tenant(request: Request) -> int:
    return tenant_id(request)


TenantDep = Annotated[int, Depends(_tenant)]


def conversations_of(request: Request) -> ConversationService:
    """The conversations of the tenant that was let in."""
    return ConversationService(services_of(request).reads, tenant_id(request))


async def _contacts(request: Request, tenant: TenantDep) -> ContactService:
    services = services_of(request)
    return ContactService(
        services.sessions, tenant, services.address_hashes, on_logged=services.notifier.events_logged
    )


ContactsDep = Annotated[ContactService, Depends(_contacts)]


def address_in(request: Request, written: str, *, location: str, may_be_odd: bool = False) -> Address:
    """The address that a field of the request holds. Raises `InvalidRequest`, with that location.

    `may_be_odd` accepts any address that a contact may have.
    """
    read = contact_address if may_be_odd else any_address
    try:
        return read(written, region=request.app.state.settings.default_region)
    except InvalidAddress as error:
        raise InvalidRequest("This is not an address.", errors=[FieldError(location, str(error))]) from None


def client_network(request: Request) -> str | None:
    """The network that a request came from, as the audit records it."""
    return network_of(request.client.host) if request.client else None


async def _suppressions(request: Request, tenant: TenantDep) -> Suppressions:
    services = services_of(request)
    return Suppressions(
        services.sessions,
        request.app.state.settings,
        services.addresses,
        services.address_hashes,
        tenant,
        actor=request.state.access.prefix,
        client=client_network(request),
        on_logged=services.notifier.events_logged,
    )


SuppressionsDep = Annotated[Suppressions, Depends(_suppressions)]


async def _demo(request: Request, tenant: TenantDep, contacts: ContactsDep, suppressions: SuppressionsDep) -> Demo:
    services = services_of(request)
    return Demo(
        request.app.state.settings,
        services.sessions,
        tenant,
        messages=services.messages,
        items=services.callback_items,
        contacts=contacts,
        suppressions=suppressions,
    )


DemoDep = Annotated[Demo, Depends(_demo)]


async def _administration(request: Request, session: WriteSession) -> AdministrationService:
    owners = services_of(request).addresses
    event.listen(session.sync_session, "after_commit", lambda _: owners.forget(), once=True)
    return AdministrationService(session, actor=request.state.access.prefix, client=client_network(request))


AdministrationDep = Annotated[AdministrationService, Depends(_administration)]


async def _messages(request: Request) -> MessageService:
    return services_of(request).messages


MessagesDep = Annotated[MessageService, Depends(_messages)]


def _canonical(name: str, largest: int) -> BeforeValidator:
    def canonical(value: object) -> object:
        if not isinstance(value, str) or not _PLAIN_DIGITS.fullmatch(value) or int(value) > largest:
            raise ValueError(f"{name} is a whole number from 1 to {largest}, in plain digits")
        return value

    return BeforeValidator(canonical)


Id = Annotated[int, _canonical("an id", _LARGEST_ID), Path(json_schema_extra={"minimum": 1, "maximum": _LARGEST_ID})]
#: The id of a message: a number in what is read, and a string in the answer to a send.
MessageId = Annotated[
    int,
    _canonical("an id", _LARGEST_ID),
    Path(),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "string", "pattern": "^[1-9][0-9]{0,17}$"},
                {"type": "integer", "minimum": 1, "maximum": _LARGEST_ID},
            ],
            "examples": ["1"],
        }
    ),
]
_Limit = Annotated[
    int,
    _canonical("a limit", _LONGEST_PAGE),
    Query(description="How many to answer at most.", json_schema_extra={"minimum": 1, "maximum": _LONGEST_PAGE}),
]
_Cursor = Annotated[str | None, Query(max_length=200, description="From the `Link` header of another page.")]


async def _pages(
    request: Request, response: Response, limit: _Limit = USUAL_LIMIT, cursor: _Cursor = None
) -> PageParameters:
    return PageParameters(request, response, limit, cursor)


PagesDep = Annotated[PageParameters, Depends(_pages)]


def preferred_wait(request: Request) -> int:
    """Seconds the client prefers to wait (`Prefer: wait=N`, RFC 7240), capped by the settings; 0 if it doesn't."""
    prefer = ",".join(request.headers.getlist("prefer"))
    wait = _WAIT.search(prefer) if prefer else None
    cap: int = request.app.state.settings.prefer_wait_seconds
    return min(int(wait[1]), cap) if wait else 0


def metadata_in(request: Request) -> list[tuple[str, str]]:
    """The pairs of metadata in the query, such as `metadata.order=17`. Raises `InvalidRequest`."""
    query: bytes = request.scope["query_string"]
    if b"metadata" not in query and b"%" not in query:
        return []
    written = [(name, value) for name, value in request.query_params.multi_items() if name.startswith(_METADATA)]
    pairs = {name.removeprefix(_METADATA): value for name, value in written}
    try:
        if len(pairs) < len(written):
            raise InvalidRequest(
                "A key of metadata stands in the query twice.",
                errors=[FieldError("query.metadata", "name a key once")],
            )
        return list(_PAIRS.validate_python(pairs).items())
    except ValidationError as error:
        raise invalid_request(error.errors(include_url=False, include_input=False), within="query.metadata") from None
