"""Webhook endpoints: the receivers of events that clients register, and the attempts to reach them."""

import re
from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, Field, StrictBool, model_validator

from app.domain import EventType
from app.schemas.fields import SHOWN_LINE, number, one_line
from app.schemas.views import View

_MOST_HEADERS, _LONGEST_VALUE = 20, 2_000
#: RFC 9110, 5.6.2 and 5.5.
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,100}")
_VALUE = re.compile(r"(?:[\x21-\x7e](?:[\t\x20-\x7e]*[\x21-\x7e])?)?")
#: Patterns are only shown: the function below has sentences.
_SHOWN_HEADERS: dict[str, Any] = {
    "propertyNames": {"pattern": f"^{_TOKEN.pattern}$"},
    "additionalProperties": {"type": "string", "maxLength": _LONGEST_VALUE, "pattern": f"^{_VALUE.pattern}$"},
}
#: Those that we write, and those of a connection (RFC 9110, 7.6.1), which are no client's business.
_RESERVED = re.compile(
    r"content-.*|webhook-.*|proxy-.*|host|user-agent|connection|keep-alive|te|trailer|transfer-encoding|upgrade"
    r"|expect|accept-encoding|http2-settings"
)


def _plain(url: str) -> str:
    if any(character.isspace() or not character.isprintable() for character in url):
        raise ValueError("a URL has no spaces and no control characters")
    return url


def _usable_headers(headers: dict[str, str]) -> dict[str, str]:
    if len(headers) > _MOST_HEADERS:
        raise ValueError(f"an endpoint has at most {_MOST_HEADERS} headers of its own")
    if len({name.lower() for name in headers}) < len(headers):
        raise ValueError("a header stands here twice, in different cases")
    for name, value in headers.items():
        if not _TOKEN.fullmatch(name):
            raise ValueError("the name of a header has letters, digits and hyphens, and at most 100 of them")
        if _RESERVED.fullmatch(name.lower()):
            raise ValueError(f"{name.lower()} is written by the service itself")
        if len(value) > _LONGEST_VALUE or not _VALUE.fullmatch(value):
            raise ValueError(f"the value of a header is ASCII on one line, with at most {_LONGEST_VALUE} characters")
    return headers


_Url = Annotated[
    str,
    Field(
        min_length=1,
        max_length=2000,
        description="http or https, without user, password and fragment, on the public internet.",
        examples=["https://shop.example/hooks/messages"],
        json_schema_extra={"format": "uri"},
    ),
    AfterValidator(_plain),
]
_Types = Annotated[
    list[EventType] | None,
    Field(min_length=1, max_length=100, description="Only events of these types.", examples=[["message.received"]]),
]
_Conversation = Annotated[
    Annotated[int, Field(ge=1, lt=10**18), BeforeValidator(number)] | None,
    Field(description="Only events of a conversation."),
]
_Description = Annotated[
    Annotated[str, Field(max_length=500, json_schema_extra=SHOWN_LINE), AfterValidator(one_line)] | None,
    Field(examples=["Orders, staging"]),
]
_Headers = Annotated[
    dict[str, str],
    Field(
        max_length=_MOST_HEADERS,
        description="Sent with each request, such as credentials. Their values are not shown again.",
        examples=[{"Authorization": "Bearer of-the-receiver"}],
        json_schema_extra=_SHOWN_HEADERS,
    ),
    AfterValidator(_usable_headers),
]
_Suppress = Annotated[
    StrictBool,
    Field(description="Send no `message.received` of messages that no person wrote, so that nobody answers them."),
]


class NewWebhookEndpoint(BaseModel):
    url: _Url
    types: _Types = None
    conversation_id: _Conversation = None
    description: _Description = None
    headers: _Headers = {}
    suppress_automatic: _Suppress = False
    signature: Literal["hmac", "ed25519"] = Field(
        "hmac", description="`hmac` with a shared secret, or `ed25519` with a public key."
    )


class WebhookEndpointChange(BaseModel):
    """A field that is left out stays as it is."""

    # Only fields that are given count. The defaults say that these can't be null.
    url: _Url = ""
    types: _Types = None
    conversation_id: _Conversation = None
    description: _Description = None
    headers: _Headers = {}
    suppress_automatic: _Suppress = False
    enabled: StrictBool = Field(True, description="True lets a disabled one go on where it stopped.")

    @model_validator(mode="after")
    def _changes_something(self) -> "WebhookEndpointChange":
        if not self.model_fields_set:
            raise ValueError("name what is to change")
        return self

    def changed(self) -> dict[str, Any]:
        """The fields that are given."""
        return {name: getattr(self, name) for name in self.model_fields_set}


class Redelivery(BaseModel):
    event_id: str = Field(max_length=100, examples=["evt_AQEEaSsOvAIC7gECd8R8VA"])


class Replay(BaseModel):
    after: str = Field(
        max_length=100,
        description="The `id` of an event, or a `cursor`: what comes after it is sent, and sent again.",
        examples=["evt_AQEEaSsOvAIC7gECd8R8VA"],
    )


class WebhookEndpointView(View):
    id: int
    url: str
    types: list[EventType] | None
    conversation_id: int | None
    description: str | None
    header_names: list[str] = Field(description="Of your own headers. Their values are not shown.")
    suppress_automatic: bool
    signature: Literal["hmac", "ed25519"]
    public_key: str | None = Field(description="Verifies the signatures of `ed25519`.", examples=["whpk_AA=="])
    previous_secret_until: datetime | None = Field(description="Until then the previous secret signs as well.")
    enabled: bool
    disabled_at: datetime | None
    disabled_reason: str | None
    cursor: str = Field(description="Events up to here were taken, or wait for a retry.")
    failing_since: datetime | None = Field(description="The first failure after the last success.")
    last_success_at: datetime | None
    skipped_at: datetime | None = Field(description="When events were found to be removed before they were sent.")
    created_at: datetime


class WebhookEndpointSecret(WebhookEndpointView):
    secret: str | None = Field(
        description="Verifies the signatures of `hmac`. Shown this once. Null for `ed25519`.", examples=["whsec_AA=="]
    )


class WebhookAttemptView(View):
    event_id: str = Field(description="The `webhook-id` of the request.")
    type: EventType
    number: int = Field(description="1 for the first request with this event.")
    status: int | None = Field(description="Of the answer; null without one.")
    error: str | None = Field(description="What went wrong, in words; null after a success.")
    answer: str | None = Field(description="Its beginning. Kept only for tests and for messages that are there.")
    duration_ms: int
    started_at: datetime
