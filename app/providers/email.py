"""The built-in mail carrier: simulated, in the process, so that a fresh clone sends without an account."""

from uuid import uuid4

from app.providers.base import BaseProvider, OutboundMessage, ProviderResult


class EmailProvider(BaseProvider):
    """Accepts every mail and answers with an id of its own. Nothing leaves the machine."""

    async def send(self, payload: OutboundMessage) -> ProviderResult:
        return ProviderResult(provider_message_id=f"email-{uuid4()}")
