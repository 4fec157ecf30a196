"""The administration of an installation: tenants, addresses, keys, the record of it, and the calls of providers."""

from datetime import datetime
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, Field, model_validator

from app.config import DailyCap, Destination, RequestBurst, RequestRate
from app.installation import CallbackVerdict, KeyScope
from app.schemas.fields import SHOWN_LINE, number, one_line
from app.schemas.views import View

_NUMBER = BeforeValidator(number)
_Name = Annotated[str, Field(min_length=1, max_length=100, json_schema_extra=SHOWN_LINE), AfterValidator(one_line)]
TenantName = Annotated[
    _Name,
    Field(
        pattern="[^0-9]",
        description="Not only digits, which are ids.",
        json_schema_extra={"pattern": SHOWN_LINE["pattern"].replace("^", "^(?![0-9]*$)", 1)},
    ),
]


class ProviderPauseRequest(BaseModel):
    """The reason for which a provider is paused."""

    reason: Annotated[
        str,
        Field(
            min_length=1,
            max_length=500,
            description="For those who ask why their messages wait.",
            examples=["Their texts arrive twice, ticket 4711."],
            json_schema_extra=SHOWN_LINE,
        ),
        AfterValidator(one_line),
    ]


class NewTenant(BaseModel):
    name: TenantName = Field(examples=["Acme"])


_DailyCaps = Annotated[
    dict[Destination, Annotated[DailyCap, _NUMBER]], Field(json_schema_extra={"additionalProperties": False})
]


class TenantChange(BaseModel):
    """Null leaves to the settings what it is about."""

    retention_days: Annotated[int, Field(ge=1, le=36500), _NUMBER] | None = Field(
        None, description="How long its messages are kept."
    )
    rate_limit_per_second: Annotated[RequestRate, _NUMBER] | None = Field(
        None, description="Requests of its keys a second; 0 is no limit."
    )
    rate_limit_burst: Annotated[RequestBurst, _NUMBER] | None = Field(None, description="Requests at once.")
    daily_caps: _DailyCaps | None = Field(
        None,
        description="What it may send in a day (UTC), texts by their segments: by country, by `email`, and by `*` "
        "for each that is not named.",
        examples=[{"*": 10_000, "US": 200_000, "KP": 0}],
    )

    @model_validator(mode="after")
    def _changes_something(self) -> "TenantChange":
        if not self.model_fields_set:
            raise ValueError("name what is to change")
        return self


class TenantView(View):
    id: int
    name: str
    test_of: int | None = Field(description="Of a test tenant, the tenant whose test keys it belongs to.")
    retention_days: int | None
    rate_limit_per_second: float | None
    rate_limit_burst: int | None
    daily_caps: dict[str, int] | None
    created_at: datetime


class NewKey(BaseModel):
    tenant_id: Annotated[int, Field(ge=1, lt=10**18), _NUMBER]
    name: _Name = Field(examples=["Billing, staging"])
    scopes: list[KeyScope] = Field(min_length=1)
    expires_in_days: Annotated[int, Field(ge=1, le=3650), _NUMBER] | None = Field(
        None, description="Without it, it doesn't expire."
    )
    test: bool = Field(
        False, description="A test key: its messages go to a simulated carrier, and are kept apart from the others."
    )


class KeyView(View):
    tenant_id: int
    id: int
    prefix: str = Field(description="The part of the token that names the key.")
    name: str
    scopes: list[KeyScope]
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None


class KeyCreated(KeyView):
    token: str = Field(description="Shown this once; only its hash is kept.")


class NewAddress(BaseModel):
    address: str = Field(
        description="An email address, or a number, short code or alphanumeric sender.",
        examples=["+12016661234"],
        json_schema_extra={"format": "address"},
    )


class AddressView(View):
    id: int
    type: str = Field(validation_alias="address_type", serialization_alias="type")
    address: str
    created_at: datetime


class AuditView(View):
    tenant_id: int
    id: int
    kind: str = Field(examples=["key_created"])
    actor: str | None = Field(description="The prefix of the key, or `command line`.")
    client: str | None = Field(description="The network that the request came from.")
    detail: dict[str, object]
    created_at: datetime


class WebhookCallView(View):
    """A call of a provider."""

    tenant_id: int
    id: int
    provider: str = Field(validation_alias="provider_type", serialization_alias="provider")
    received_at: datetime
    method: str
    url: str
    verdict: CallbackVerdict
    reason: str | None = Field(description="Why it was not taken.")
    seen: str | None = Field(description="The beginning of the signature that was shown.")
    expected: str | None = Field(description="The beginning of the one that would have been right.")
    events: int = Field(description="How many it says that are stored.")
    replayed_at: datetime | None


class WebhookCallDetail(WebhookCallView):
    headers: list[Annotated[list[str | None], Field(min_length=2, max_length=2)]] = Field(
        description="Names and values, in their order; of what lets somebody in the hash."
    )
    body: str
    encoding: Literal["text", "base64"] = Field(description="How `body` is written: as it came, or as base64.")


class CallVerification(View):
    genuine: bool
    reason: str | None = Field(description="Why it is not.")
    seen: str | None
    expected: str | None


class CallJudgement(View):
    """The outcome of a replayed callback."""

    verdict: CallbackVerdict
    reason: str | None
    seen: str | None
    expected: str | None
    events: int
