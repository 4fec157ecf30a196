"""Wire formats of Twilio, SendGrid and WhatsApp for the carrier simulator.

The service's own vendor files send to them, and receive callbacks that are signed as the vendor signs them. The
formats sign by code of their own, which the vendors' libraries check: with the service's code, a mistake would agree
with itself.
"""

from app.providers.sendgrid import SendgridSettings
from app.providers.twilio import TwilioSettings
from app.providers.whatsapp import WhatsappSettings
from app.simulator.wire import WireFormat
from tests.providers.wire.sendgrid import SendgridFormat
from tests.providers.wire.twilio import TwilioFormat
from tests.providers.wire.whatsapp import WhatsappFormat


def vendor_formats(service_url: str | None) -> list[WireFormat]:
    """All formats, which call back at `service_url` with the secrets from the variables that the service reads."""

    def webhook(vendor: str) -> str | None:
        return f"{service_url.rstrip('/')}/api/webhooks/{vendor}" if service_url else None

    return [
        TwilioFormat(TwilioSettings(), webhook("twilio")),
        SendgridFormat(SendgridSettings(), webhook("sendgrid")),
        WhatsappFormat(WhatsappSettings(), webhook("whatsapp")),
    ]
