"""The templates of a vendor, which it has approved."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Annotated

from fastapi import APIRouter, Query, Request

from app.errors import TemplatesNotListed
from app.http.problems import responses
from app.providers.base import BaseProvider, ProviderFailure, TemplatesUnavailable
from app.providers.chat.templates import VendorTemplate
from app.providers.registry import provider_registry
from app.routing import channels_served, route_of
from app.schemas.fields import Words
from app.schemas.templates import TemplateView

router = APIRouter(prefix="/api/templates", tags=["messages"], responses=responses(422, 503))


@router.get("")
async def list_templates(
    request: Request,
    channel: Annotated[Words | None, Query(max_length=63, description="Of this channel only.")] = None,
) -> list[TemplateView]:
    """The templates as their vendors have them, in every language and status; not older than a minute."""
    settings = request.app.state.settings
    found: list[TemplateView] = []
    for each in sorted(channels_served(settings)):
        if channel in {None, each} and (provider := _with_templates(route_of(settings, each))):
            found += [TemplateView(channel=each, **asdict(one)) for one in await _listed(provider)]
    return found


def _with_templates(route: Iterable[str]) -> BaseProvider | None:
    providers = (provider_registry.get(name) for name in route)
    return next((each for each in providers if each is not None and each.takes_templates), None)


async def _listed(provider: BaseProvider) -> Sequence[VendorTemplate]:
    try:
        return await provider.templates()
    except TemplatesUnavailable as error:
        raise TemplatesNotListed(str(error)) from None
    except ProviderFailure as error:
        raise TemplatesNotListed("The vendor does not list its templates now.") from error
