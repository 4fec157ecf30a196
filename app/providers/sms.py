"""The built-in SMS and MMS carrier: simulated, in the process, so that a fresh clone sends without an account."""

from uuid import uuid4

from app.providers.base import BaseProvider, OutboundMessage, ProviderResult


class SmsProvider(BaseProvider):
    """Accepts every text and media message and answers with an id of its own. Nothing leaves the machine."""

    async def send(self, payload: OutboundMessage) -> ProviderResult:
        return ProviderResult(provider_message_id=f"sms-{uuid4()}")
