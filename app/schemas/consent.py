"""Consent as it is shown: what was said, and the refusals that hold."""

from datetime import datetime
from typing import Annotated

from pydantic import AfterValidator, BaseModel, BeforeValidator, Field

from app.consent import ConsentAction, ConsentScope, ConsentSource, LineStatus
from app.schemas.fields import SHOWN_TEXT, without_nul
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


#: Characters.
LONGEST_DETAIL, _LONGEST_ADDRESS, _SHORTEST_REASON = 500, 320, 10
_ABOUT = "The channel, your address that sends, or the topic. Left out for everything."
_Value = Annotated[
    str, Field(min_length=1, max_length=_LONGEST_ADDRESS, json_schema_extra=SHOWN_TEXT), AfterValidator(without_nul)
]


def _words(value: str) -> str:
    if not value.strip():
        raise ValueError("write some words, or leave it out")
    return without_nul(value)


def _reason(value: str) -> str:
    if len(value.strip()) < _SHORTEST_REASON:
        raise ValueError(f"give the reason in {_SHORTEST_REASON} characters or more")
    return without_nul(value)


_Detail = Annotated[str, Field(max_length=LONGEST_DETAIL, json_schema_extra=SHOWN_TEXT), AfterValidator(_words)]


class NewSuppression(BaseModel):
    """A refusal to be added."""

    address: Annotated[
        str,
        Field(
            max_length=_LONGEST_ADDRESS,
            description="In any spelling. Its messages are stopped, on every channel that has such addresses.",
            examples=["+18045551234"],
            json_schema_extra={"format": "address"},
        ),
    ]
    scope: ConsentScope = ConsentScope.EVERYTHING
    scope_value: _Value | None = Field(None, description=_ABOUT, examples=["newsletter"])
    detail: _Detail | None = Field(None, description="Why, for the record.", examples=["By phone, to Jane."])


class Lifting(BaseModel):
    """The grounds on which a refusal is lifted."""

    reason: Annotated[
        str,
        Field(
            max_length=LONGEST_DETAIL,
            examples=["The person wants to get our messages again."],
            json_schema_extra=SHOWN_TEXT,
        ),
        AfterValidator(_reason),
    ]
    evidence: _Detail | None = Field(
        None,
        description="What shows that the person agrees. Needed where the person has refused, or complained.",
        examples=["Their mail of 3 March, ticket 4711."],
    )


class ContactRefusal(View):
    """A refusal that holds for a contact."""

    id: int
    scope: ConsentScope
    scope_value: _ScopeValue = Field(description=_ABOUT)
    source: ConsentSource
    created_at: datetime


class SuppressionView(ContactRefusal):
    """A refusal that holds."""

    address: _Address = Field(description="None if the person was erased.", examples=["+18045551234"])
    type: str = Field(validation_alias="address_type", serialization_alias="type", examples=["phone"])
    erased: bool = Field(
        validation_alias="is_hashed",
        serialization_alias="erased",
        description="True if the person was erased: only a keyed hash of the address is left.",
    )


class SuppressionDetail(SuppressionView):
    sentence: str = Field(examples=["The recipient has texted STOP on 29 November 2026 (message 123)."])
    entry: ConsentEntryView = Field(description="What said it.")


class ContactConsent(BaseModel):
    """The refusals of a contact, and a page of what was said about them."""

    refusals: list[ContactRefusal] = Field(description="Those that hold.")
    history: list[ConsentEntryView] = Field(description="The newest first. The `Link` header has the next page.")


class LineResult(View):
    """The result of one line of a batch."""

    line: int = Field(description="Its number, from 1.")
    status: LineStatus
    sentence: str | None = Field(description="Why it was refused.")


class BatchResult(BaseModel):
    added: int
    held: int = Field(description="Lines whose refusal was there already.")
    refused: int = Field(description="Lines that can't be read, or are not valid.")
    lines: list[LineResult]
