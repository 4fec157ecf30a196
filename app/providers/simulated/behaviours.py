"""The simulated carrier's behaviours, the recipients that select them, and its settings."""

import re
from enum import StrEnum
from typing import Annotated

from pydantic import Field, field_validator
from pydantic_settings import NoDecode

from app.providers.toolbox.models import HttpVendorSettings


class Behaviour(StrEnum):
    """The carrier's behaviour for one message. Failures occur a set number of times, then the message is `ok`."""

    OK = "ok"  #: accepted; the receipts `sent` and `delivered` follow.
    SLOW = "slow"  #: accepted at once, answered after `slow_seconds`.
    THROTTLED = "throttled"  #: 429 with Retry-After, `failures_before_ok` times.
    FAILING = "failing"  #: 500, `failures_before_ok` times.
    REFUSING = "refusing"  #: 400, always.
    UNAUTHORISED = "unauthorised"  #: 401, `breaks_before_ok` times as all to `redirect`; pauses the carrier.
    RESET_BEFORE = "reset_before"  #: the connection is cut, and nothing was accepted.
    RESET_AFTER = "reset_after"  #: accepted, then the connection is cut.
    SILENT = "silent"  #: accepted, never answered.
    MALFORMED = "malformed"  #: accepted, and answered 200 with a body without an id.
    HUGE = "huge"  #: accepted, and answered 200 with ten megabytes.
    FAILING_AFTER = "failing_after"  #: accepted, then 500.
    REDIRECT = "redirect"  #: 307 to the same place, and nothing was accepted.
    LOST = "lost"  #: accepted, and the connection is cut at every request; no receipt ever comes.
    LOST_RECEIPT = "lost_receipt"  #: accepted; no receipt ever comes.
    DUPLICATE_RECEIPTS = "duplicate_receipts"  #: every receipt comes three times at once.
    LATE_RECEIPT = "late_receipt"  #: the receipts come `late_receipt_seconds` late.
    SHUFFLED_RECEIPTS = "shuffled_receipts"  #: `queued`, `sent` and `delivered` come in another order.
    RECEIPT_FIRST = "receipt_first"  #: the receipts come before the answer.
    UNDELIVERED = "undelivered"  #: `sent`, then `undelivered`.
    CORRECTED = "corrected"  #: `undelivered`, then `delivered`.
    BOUNCED = "bounced"  #: `delivered`, then `undelivered`.
    STOP_REPLY = "stop_reply"  #: the recipient replies STOP.
    INBOUND_BURST = "inbound_burst"  #: the recipient replies `inbound_burst_size` times at once.


#: The first two of the last four digits of +1500555NNNN. The last two are free: a hundred recipients each.
MAGIC_NUMBERS = {
    "00": Behaviour.OK,
    "01": Behaviour.SLOW,
    "02": Behaviour.THROTTLED,
    "03": Behaviour.FAILING,
    "04": Behaviour.REFUSING,
    "05": Behaviour.UNAUTHORISED,
    "06": Behaviour.RESET_BEFORE,
    "07": Behaviour.RESET_AFTER,
    "08": Behaviour.SILENT,
    "09": Behaviour.MALFORMED,
    "10": Behaviour.HUGE,
    "11": Behaviour.REDIRECT,
    "12": Behaviour.FAILING_AFTER,
    "13": Behaviour.LOST,
    "20": Behaviour.LOST_RECEIPT,
    "21": Behaviour.DUPLICATE_RECEIPTS,
    "22": Behaviour.LATE_RECEIPT,
    "23": Behaviour.SHUFFLED_RECEIPTS,
    "24": Behaviour.RECEIPT_FIRST,
    "25": Behaviour.UNDELIVERED,
    "26": Behaviour.CORRECTED,
    "27": Behaviour.BOUNCED,
    "30": Behaviour.STOP_REPLY,
    "31": Behaviour.INBOUND_BURST,
}
_MAGIC_NUMBER = re.compile(r"\+1500555([0-9]{2})[0-9]{2}")
_MAGIC_DOMAIN = "@simulator.test"


def magic_behaviour(to_address: str) -> Behaviour | None:
    """The behaviour of a normalised magic number or address; None for any other recipient."""
    if to_address.startswith("+1500555") and (match := _MAGIC_NUMBER.fullmatch(to_address)):
        return MAGIC_NUMBERS.get(match[1])
    if to_address.lower().endswith(_MAGIC_DOMAIN):
        name = to_address.lower().removesuffix(_MAGIC_DOMAIN).partition("+")[0].replace("-", "_")
        return Behaviour(name) if name in set(Behaviour) else None
    return None


Weight = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class SimulatorSettings(HttpVendorSettings, env_prefix="SIMULATOR_"):
    """The carrier's settings, each read from SIMULATOR_ and its name, such as `SIMULATOR_MIX`."""

    #: ENV, as for the service. In production every recipient is `ok` and nothing comes back.
    environment: str = Field("development", validation_alias="ENV")
    #: The HTTP simulator's address, such as http://127.0.0.1:9100. Without it there is no provider `simulator`.
    url: str | None = Field(None, pattern=r"^https?://[^/]")

    #: Another seed draws other behaviours.
    seed: int = 0
    #: Behaviours and their weights for recipients that are not magic: `ok:0.9 failing:0.1`.
    mix: Annotated[dict[Behaviour, Weight], NoDecode] = Field({Behaviour.OK: 1})
    #: A repeated key gets the first answer's id and sends nothing.
    honours_idempotency_key: bool = True
    #: Messages that the in-process carriers remember. The HTTP simulator remembers all.
    remembered_keys: int = Field(20_000, ge=1)

    #: Requests a second; those beyond are throttled. Unset, there is no limit.
    rate: float | None = Field(None, gt=0, allow_inf_nan=False)
    failures_before_ok: int = Field(2, ge=0)
    breaks_before_ok: int = Field(1, ge=0)
    slow_seconds: float = Field(3, ge=0, allow_inf_nan=False)
    #: The Retry-After of a 429. Zero, negative and 1000000000 are allowed: carriers send them.
    retry_after_seconds: float = Field(1, ge=-(10**9), le=10**9, allow_inf_nan=False)
    #: Write Retry-After as an HTTP date, not as seconds.
    retry_after_as_date: bool = False

    #: Send receipts. Replies from recipients are sent in either case.
    receipts: bool = True
    #: Before the first receipt, and between one and the next.
    receipt_delay_seconds: float = Field(0.5, ge=0, allow_inf_nan=False)
    late_receipt_seconds: float = Field(60, ge=0, allow_inf_nan=False)
    inbound_burst_size: int = Field(5, ge=0)

    @field_validator("mix", mode="before")
    @classmethod
    def _behaviour_and_weight(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        pairs = [part.partition(":") for part in value.split()]
        return {name.replace("-", "_"): weight for name, _, weight in pairs}

    @field_validator("mix")
    @classmethod
    def _has_some_weight(cls, mix: dict[Behaviour, float]) -> dict[Behaviour, float]:
        if not sum(mix.values()) > 0:
            raise ValueError("write it as behaviour:weight behaviour:weight, with some weight above zero")
        return mix

    @property
    def in_production(self) -> bool:
        return self.environment.strip().lower() == "production"
