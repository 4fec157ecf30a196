"""The pages of unsubscribe links. They need no key: the token in the address tells who unsubscribes from what."""

from http import HTTPStatus

from fastapi import APIRouter, Request
from starlette.responses import HTMLResponse

from app.consent import ConsentSource
from app.dependencies import services_of
from app.log import bind
from app.services.consent.links import Subscription, unsubscribe
from app.web import unsubscribe as pages

router = APIRouter(prefix="/u", include_in_schema=False)


@router.get("/{token}")
async def show_page(token: str, request: Request) -> HTMLResponse:
    """A page with a button. It changes nothing: mail scanners open every link."""
    subscription = _opened(token, request)
    return _not_found() if subscription is None else HTMLResponse(pages.ask(subscription.topic))


@router.post("/{token}")
async def press_button(token: str, request: Request) -> HTMLResponse:
    """Unsubscribe from the topic, or from everything if the form says so. A repeat gets the same answer.

    The body is that of a button or of a mail program (RFC 8058), in any form or missing.
    """
    subscription = _opened(token, request)
    if subscription is None:
        return _not_found()
    body = await request.body()
    from_everything = pages.EVERYTHING in body.split(b"&")
    services = services_of(request)
    async with services.sessions.begin() as session:
        is_new = await unsubscribe(
            await session.connection(),
            subscription,
            services.address_hashes,
            ConsentSource.UNSUBSCRIBE_LINK,
            from_everything=from_everything,
            message_id=subscription.message_id,
            detail="one-click" if b"One-Click" in body else "page",
        )
    if is_new:
        services.notifier.events_logged(subscription.tenant_id)
    return HTMLResponse(pages.done(None if from_everything else subscription.topic))


def _opened(token: str, request: Request) -> Subscription | None:
    subscription = services_of(request).unsubscribe_links.opened(token)
    if subscription is not None:
        bind(tenant=subscription.tenant_id)
    return subscription


def _not_found() -> HTMLResponse:
    return HTMLResponse(pages.not_found(), HTTPStatus.NOT_FOUND)
