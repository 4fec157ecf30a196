"""Search in messages, contacts and tags."""

from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from app.dependencies import PagesDep, TenantDep, services_of
from app.http.problems import responses
from app.schemas.search import HitKind, SearchHit
from app.services.search.searching import Search

router = APIRouter(prefix="/api/search", tags=["search"], responses=responses(422, 503))


@router.get("", response_model=list[SearchHit])
async def search_everything(
    request: Request,
    pages: PagesDep,
    tenant: TenantDep,
    q: Annotated[
        str,
        Query(
            min_length=1,
            max_length=500,
            description='Words, the beginning of a last word, `"a phrase"`, or a part of an address or a name.',
            examples=["late deliv"],
        ),
    ],
    kind: Annotated[HitKind | None, Query(description="Only hits of this kind.")] = None,
) -> Response:
    """Messages, contacts and tags that a search finds, the newest first.

    Without `kind`, at most five contacts and five conversations with the tag stand in front of the messages.
    """
    found = await Search(services_of(request).reads, tenant).page(
        q, kind=kind, limit=min(pages.limit, 50), cursor=pages.cursor
    )
    return pages.answer(found)
