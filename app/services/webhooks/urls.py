"""The URLs that webhooks may go to."""

from app.config import Settings
from app.errors import FieldError, InvalidRequest
from app.providers.toolbox.public_network import LOOPBACK, Network, literal_address, may_be_reached, target_of

#: A mail server might read a request as a mail.
_MAIL_PORTS = {25, 465, 587}


def allowed_networks(settings: Settings) -> list[Network]:
    """The networks besides the public internet: those of the settings, and in development this machine."""
    return [*settings.webhook_allowed_networks, *(() if settings.is_production else LOOPBACK)]


def must_be_usable(url: str, settings: Settings) -> None:
    """Raise `InvalidRequest` for a URL that can't be sent to. The addresses of a name are checked at each send."""
    if "#" in url:
        raise _refused("a webhook has no place for a fragment (#...)")
    try:
        target = target_of(url, schemes={"http", "https"})
    except ValueError:
        raise _refused("write it as https://host/path, without user and password") from None
    if target.port in _MAIL_PORTS:
        raise _refused("its port is for mail")
    literal = literal_address(target.host.decode())
    if literal is not None and not may_be_reached(literal, allowed_networks(settings)):
        raise _refused("its address is not on the public internet; WEBHOOK_ALLOWED_NETWORKS can allow its network")


def _refused(message: str) -> InvalidRequest:
    return InvalidRequest("This URL can't receive webhooks.", errors=[FieldError("body.url", message)])
