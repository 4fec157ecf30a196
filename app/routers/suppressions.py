"""Refusals: the list of addresses that must not be written to, and what was said about a contact's consent."""

from codecs import BOM_UTF8
from collections import Counter
from collections.abc import Iterator
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from fastapi.routing import APIRoute
from starlette.routing import Match
from starlette.types import Scope

from app.consent import ConsentScope, ConsentSource, LineStatus
from app.dependencies import Id, PagesDep, SuppressionsDep, address_in
from app.errors import InvalidRequest, ServiceError, UnsupportedMediaType
from app.http.json_body import JsonRoute, read_json
from app.http.problems import responses
from app.http.query import address_with_plus
from app.schemas.consent import (
    BatchResult,
    ConsentEntryView,
    ContactConsent,
    ContactRefusal,
    Lifting,
    NewSuppression,
    SuppressionDetail,
    SuppressionView,
)
from app.schemas.fields import Words
from app.services.consent.additions import reason_of
from app.services.consent.ledger import sentence_of
from app.services.consent.suppressions import Held, Line, SuppressionFilter


class _BatchRoute(APIRoute):
    """Matches its path for every method, so that `batch` is no id of a refusal: others are answered 405."""

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        match, child_scope = super().matches(scope)
        return Match.NONE if match is Match.NONE else Match.FULL, child_scope


batch = APIRouter(prefix="/api", route_class=_BatchRoute, tags=["consent"], responses=responses(422, 503))
router = APIRouter(prefix="/api", route_class=JsonRoute, tags=["consent"], responses=responses(422, 503))
_BODY, _ONE = responses(413, 415), responses(404)
_MOST_LINES = 10_000
_JSON_LINES = {"application/jsonl", "application/x-ndjson"}
_LINES: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/jsonl": {
                "schema": {"type": "string", "description": "A `NewSuppression` on each line."},
                "example": '{"address":"+18045551234"}\n{"address":"jane@example.com","scope":"channel",'
                '"scope_value":"email"}\n',
            }
        },
    }
}
_ADDED: dict[int | str, dict[str, Any]] = {"201": {"description": "Added", "model": SuppressionDetail}}


@router.get("/suppressions")
async def list_suppressions(
    service: SuppressionsDep,
    pages: PagesDep,
    request: Request,
    address: Annotated[
        str | None,
        Query(description="Only those of this address, in any spelling.", json_schema_extra={"format": "address"}),
    ] = None,
    source: Annotated[ConsentSource | None, Query(description="Only those that came this way.")] = None,
    scope: Annotated[ConsentScope | None, Query(description="Only those about such messages.")] = None,
    scope_value: Annotated[
        Words | None, Query(max_length=320, description="Only those about this channel, sender or topic.")
    ] = None,
) -> list[SuppressionView]:
    """Refusals that hold, the newest first.

    An address that is listed for everything, or for what you send, gets no message. One that was erased is found by
    its address, which is not shown.
    """
    of = None
    if address is not None:
        of = address_in(request, address_with_plus(address), location="query.address", may_be_odd=True)
    if scope is ConsentScope.SENDER and scope_value is not None:
        scope_value = address_in(request, address_with_plus(scope_value), location="query.scope_value").value
    wanted = SuppressionFilter(of, source, scope, scope_value)
    page = await service.page(wanted, limit=pages.limit, cursor=pages.cursor)
    return [SuppressionView.model_validate(each) for each in pages.linked(page)]


@router.post("/suppressions", responses=_BODY | _ADDED)
async def add_suppression(new: NewSuppression, service: SuppressionsDep, response: Response) -> SuppressionDetail:
    """Stop messages to an address: all, or those on a channel, from a sender, or of a topic.

    200 with the refusal that is there if it holds already.
    """
    held, is_new = await service.add(new)
    response.status_code = 201 if is_new else 200
    return _detail(held)


@batch.post("/suppressions/batch", responses=_BODY, openapi_extra=_LINES)
async def import_suppressions(service: SuppressionsDep, request: Request) -> BatchResult:
    """Add up to 10,000 refusals, one JSON object on each line, with the fields of a single one.

    Each line is added or refused by itself. They are stored some hundred at a time: after a 503, send the same batch
    again.
    """
    content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if content_type not in _JSON_LINES:
        raise UnsupportedMediaType("Send JSON Lines, with the header Content-Type: application/jsonl.")
    content = (await request.body()).removeprefix(BOM_UTF8)
    lines = [(number, line) for number, line in enumerate(content.split(b"\n"), 1) if line.strip()]
    if len(lines) > _MOST_LINES:
        raise InvalidRequest(f"A batch has at most {_MOST_LINES} lines. Send several.")
    results = [result async for batch in service.add_all(_read(lines)) for result in batch]
    counts = Counter(result.status for result in results)
    return BatchResult(
        added=counts[LineStatus.ADDED],
        held=counts[LineStatus.HELD],
        refused=counts[LineStatus.REFUSED],
        lines=results,
    )


@router.get("/suppressions/{suppression_id}", responses=_ONE)
async def get_suppression(suppression_id: Id, service: SuppressionsDep) -> SuppressionDetail:
    """A refusal that holds, and what said it."""
    return _detail(await service.get(suppression_id))


@router.post("/suppressions/{suppression_id}/lift", responses=_BODY | _ONE)
async def lift_suppression(suppression_id: Id, lifting: Lifting, service: SuppressionsDep) -> ConsentEntryView:
    """End one refusal. The answer is the entry of that in the ledger.

    One that the person has expressed needs `evidence` that they agree. Other refusals of the same address keep
    holding.
    """
    entry = await service.lift(suppression_id, reason=lifting.reason, evidence=lifting.evidence)
    return ConsentEntryView.model_validate(entry)


@router.get("/contacts/{contact_id}/consent", responses=_ONE)
async def get_contact_consent(contact_id: Id, service: SuppressionsDep, pages: PagesDep) -> ContactConsent:
    """The refusals of a contact that hold, and everything that was said about them, the newest first.

    Of a group these are the refusals of its members.
    """
    history = await service.history_of(contact_id, limit=pages.limit, cursor=pages.cursor)
    return ContactConsent(
        refusals=[ContactRefusal.model_validate(each) for each in await service.refusals_of(contact_id)],
        history=[ConsentEntryView.model_validate(each) for each in pages.linked(history)],
    )


def _read(lines: list[tuple[int, bytes]]) -> Iterator[Line]:
    validator: Any = NewSuppression.__pydantic_validator__
    for number, line in lines:
        try:
            yield Line(number, read_json(line, validator))
        except ServiceError as error:
            yield Line(number, reason_of(error))


def _detail(held: Held) -> SuppressionDetail:
    sentence = sentence_of(held.entry)
    return SuppressionDetail.model_validate(vars(held.suppression) | {"sentence": sentence, "entry": held.entry})
