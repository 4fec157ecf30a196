"""Consent as it is shown: what was said, and the refusals that hold."""

from datetime import datetime
from typing import Annotated

from pydantic import BeforeValidator, Field

from app.consent import ConsentAction, ConsentScope, ConsentSource
from app.schemas.views import View

#: The keyed hash of an erased person's address is nobody's business.
_Address = Annotated[str | None, BeforeValidator(lambda address: None if address.startswith("hmac:") else address)]
_ScopeValue = Annotated[str | None, BeforeValidator(lambda value: value or None)]


class ConsentEntryView(View):
    """Consent that was given or revoked, with its evidence."""

    id: int
    address: _Address = Field(description="None if the person was erased.", examples=["+18045551234"])
    type: str = Field(validation_alias="address_type", serialization_alias="type", examples=["phone"])
    action: ConsentAction
    scope: ConsentScope
    scope_value: _ScopeValue = Field(description="The channel, the sender or the topic. None for everything.")
    source: ConsentSource
    message_id: int | None = Field(description="The message that said it.")
    receipt_id: int | None = Field(description="The receipt that said it.")
    detail: str | None = Field(description="What was said, or why.", examples=["STOP"])
    actor: str | None = Field(description="The prefix of the key that asked for it, or `command line`.")
    created_at: datetime
