"""Any vendor with a plain HTTP API, described by settings instead of code (docs/providers.md).

Requests are made of templates. A placeholder in the address is percent-encoded; one in the body is a string of the
JSON document or of the form. So a text can't change the structure of a request. Answers and callbacks are read by
paths such as `data.messages[0].id`. Callbacks are signed as Standard Webhooks
(github.com/standard-webhooks/standard-webhooks, spec).
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal
from urllib.parse import quote, urlencode, urlsplit

import httpx
from pydantic import Field, JsonValue, SecretStr, field_validator
from pydantic_settings import NoDecode

from app.domain import MessageStatus
from app.phone_numbers import is_assigned
from app.providers import base
from app.providers.toolbox.http_client import HttpProvider, exchange, outcome_of
from app.providers.toolbox.json_documents import read_json
from app.providers.toolbox.models import LONGEST_ID, HttpVendorSettings, RotatingSecret, text_of_number
from app.providers.toolbox.texts import refused_group
from app.providers.toolbox.verification import must_be_recent, only_header, secrets_in
from app.signing_keys import is_signed, secrets_of, signatures, signing_keys

_NAMES = {"from", "to", "body", "subject", "attachments", "reference", "callback_url"}
_PLACEHOLDER = re.compile(r"\{([a-z_]+)\}")
_STEP = re.compile(r"[^.\[\]]+")
_CHANNEL = re.compile(r"([a-z][a-z0-9_-]{0,62})(?::([a-z][a-z0-9_-]{0,30}))?")
_KINDS = {"sms": "phone", "email": "email"}
_DIGITS = re.compile(r"(00)?([1-9][0-9]{6,14})", re.ASCII)
_SEPARATORS = re.compile(r"[\s().-]+")
_WEBHOOK_ID = re.compile(r"[\x21-\x7e]{1,255}")
_MOST_SIGNATURES = 16
_REFUSED = {MessageStatus.FAILED, MessageStatus.UNDELIVERED, MessageStatus.EXPIRED, MessageStatus.CANCELED}

Path = Annotated[str, Field(pattern=r"^[^.\[\]]+(\.[^.\[\]]+|\[[0-9]+\])*$")]


class HttpSettings(HttpVendorSettings, env_prefix="HTTP_"):
    #: `https://sms.example/send?to={to}`; like the body it may have a key in it.
    url: str | None = Field(None, repr=False)
    method: Literal["GET", "POST", "PUT"] = "POST"
    #: JSON: `{"Authorization": "Bearer ...", "Idempotency-Key": "{reference}"}`
    headers: dict[str, SecretStr] = Field(default_factory=dict)
    #: JSON: `{"to": "{to}", "message": {"text": "{body}", "media": "{attachments}"}}`
    body: dict[str, JsonValue] | None = Field(None, repr=False)
    body_as: Literal["json", "form"] = "json"
    #: `sms` or `push:device`: a channel and, for a channel of its own, the kind of its addresses; several with
    #: spaces.
    channels: Annotated[dict[str, str], NoDecode] = Field(default_factory=lambda: {"sms": "phone"})
    #: True where a second request with the same reference sends nothing.
    honours_reference: bool = False
    #: The statuses from 500 on after which the vendor promises that it took nothing: `500 503`.
    not_taken: Annotated[set[Annotated[int, Field(ge=500, le=599)]], NoDecode] = Field(default_factory=set)

    #: In the answer to a request: the vendor's id, its word for the status, the reason of an error.
    id_path: Path | None = None
    status_path: Path | None = None
    error_path: Path | None = None
    #: JSON, the vendor's words and ours: `{"DELIVRD": "delivered", "UNDELIV": "undelivered"}`
    statuses: dict[str, MessageStatus] = Field(default_factory=dict)

    #: The secret that signs callbacks: base64, with `whsec_` or without, or a public key with `whpk_`. During a
    #: rotation, two with a comma between them.
    secret: RotatingSecret | None = None
    #: The list of events in a callback; unset, the callback is one event, or a list of them.
    events_path: Path | None = None
    receipt_id_path: Path | None = None
    receipt_reference_path: Path | None = None
    receipt_status_path: Path | None = None
    inbound_id_path: Path | None = None
    inbound_from_path: Path | None = None
    inbound_to_path: Path | None = None
    inbound_body_path: Path | None = None
    #: The channel of inbound messages; unset, the first of HTTP_CHANNELS.
    inbound_channel: str | None = None
    #: Digits without a plus or 00 in inbound messages: `msisdn` always have their country code, `national` never.
    #: `detect`: they have one if the numbering plan of that country has given out such a number.
    numbers: Literal["detect", "msisdn", "national"] = "detect"

    @field_validator("channels", mode="before")
    @classmethod
    def _channel_and_kind(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        found = [_CHANNEL.fullmatch(part) for part in value.split()]
        if not found or not all(found):
            raise ValueError("write it as sms, or as push:device")
        return {each[1]: each[2] or _KINDS.get(each[1], each[1]) for each in found if each}

    @field_validator("not_taken", mode="before")
    @classmethod
    def _statuses(cls, value: object) -> object:
        return value.replace(",", " ").split() if isinstance(value, str) else value

    @field_validator("url")
    @classmethod
    def _can_be_filled_in(cls, url: str | None) -> str | None:
        if url is None:
            return None
        parts = urlsplit(url)
        if parts.scheme not in {"http", "https"} or not parts.hostname or "{" in parts.netloc or parts.fragment:
            raise ValueError("write it as https://sms.example/send, with placeholders after the host")
        _must_be_known(parts.path, {"from", "to", "reference"})
        _must_be_known(parts.query, _NAMES)
        return url

    @field_validator("headers")
    @classmethod
    def _names_only_the_reference(cls, headers: dict[str, SecretStr]) -> dict[str, SecretStr]:
        for name, value in headers.items():
            written = name + value.get_secret_value()
            if not (written.isascii() and written.isprintable()):
                raise ValueError("a header has visible ASCII characters")
            _must_be_known(value.get_secret_value(), {"reference"})
        return headers

    @field_validator("secret")
    @classmethod
    def _has_keys(cls, secret: SecretStr | None) -> SecretStr | None:
        for each in secrets_of(secret.get_secret_value()) if secret else []:
            signing_keys(each)
        return secret

    @field_validator("body")
    @classmethod
    def _names_what_there_is(cls, body: dict[str, JsonValue] | None) -> dict[str, JsonValue] | None:
        _filled(body, lambda text: _must_be_known(text, _NAMES))
        return body


class GenericProvider(HttpProvider[HttpSettings]):
    """A vendor that `HttpSettings` describe."""

    receipts_carry_key: ClassVar = True

    def __init__(self, settings: HttpSettings, client: httpx.AsyncClient | None = None) -> None:
        super().__init__(settings, client)
        self.channels = settings.channels  # type: ignore[misc]  # the class variable of other vendors
        self.honours_idempotency_key = settings.honours_reference

    def refusals(self, payload: base.OutboundMessage) -> Mapping[str, str]:
        values = self._values(payload)
        if refused := refused_group(payload):
            return refused
        # In a path these would lead to another address.
        return {end: "There is no such address." for end in ("from", "to") if values[end] in {"", ".", ".."}}

    async def send(self, payload: base.OutboundMessage) -> base.ProviderResult:
        settings = self._settings
        response = await exchange(self.client, self._request(payload))
        content = _document(response.content)
        said = settings.error_path and _text(_at(content, settings.error_path))
        if failure := outcome_of(response, said and said[:300], not_taken=settings.not_taken):
            raise failure
        status = settings.status_path and _text(_at(content, settings.status_path))
        if status and settings.statuses.get(status) in _REFUSED:
            raise base.PermanentFailure(f"{status} {said or ''}".strip()[:300])
        if settings.id_path is None:
            return base.ProviderResult()
        id_ = _text(_at(content, settings.id_path))
        if not id_ or len(id_) > LONGEST_ID:
            raise base.UnknownOutcome(f"{response.status_code} without an id at HTTP_ID_PATH.")
        return base.ProviderResult(id_)

    def _values(self, payload: base.OutboundMessage) -> dict[str, JsonValue]:
        prefix = _prefix_of(self._settings.channels.get(payload.channel))
        return {
            "from": payload.from_address.removeprefix(prefix),
            "to": payload.to_address.removeprefix(prefix),
            "body": payload.body,
            "subject": payload.subject,
            "attachments": list(payload.attachments),
            "reference": payload.idempotency_key,
            "callback_url": payload.callback_url,
        }

    def _request(self, payload: base.OutboundMessage) -> httpx.Request:
        settings = self._settings
        values = self._values(payload)
        url = _PLACEHOLDER.sub(lambda found: quote(_joined(values[found[1]]), safe=""), settings.url or "")
        headers = {
            name: _PLACEHOLDER.sub(lambda _: payload.idempotency_key, value.get_secret_value())
            for name, value in settings.headers.items()
        }
        if settings.body is None:
            return self.client.build_request(settings.method, url, headers=headers)
        body = _filled(settings.body, lambda text: _with_values(text, values))
        if settings.body_as == "json":
            return self.client.build_request(settings.method, url, headers=headers, json=body)
        form = urlencode([(name, _joined(value)) for name, value in body.items()]).encode()
        headers = {"Content-Type": "application/x-www-form-urlencoded"} | headers
        return self.client.build_request(settings.method, url, headers=headers, content=form)

    def verify(self, callback: base.Callback) -> None:
        secrets = secrets_in(HTTP_SECRET=self._settings.secret)
        keys = [key for secret in secrets for key in signing_keys(secret.decode())]
        prefix = _prefix_of_headers(callback)
        id_ = only_header(callback, f"{prefix}-id")
        timestamp = only_header(callback, f"{prefix}-timestamp")
        shown = only_header(callback, f"{prefix}-signature").split(" ", _MOST_SIGNATURES)[:_MOST_SIGNATURES]
        if not _WEBHOOK_ID.fullmatch(id_):
            raise base.CallbackRefused(f"The header {prefix}-id is none.")
        must_be_recent(timestamp, callback)
        signed = f"{id_}.{timestamp}.".encode() + callback.body
        if not is_signed(keys, signed, shown):
            expected = next(iter(signatures(keys, signed)), None)
            raise base.CallbackRefused(
                "The signature is another one.",
                seen=base.hint(" ".join(shown)),
                expected=expected and base.hint(expected),
            )

    def parse(self, callback: base.Callback) -> Sequence[base.CallbackItem | base.Unread]:
        """One event or several, each an inbound message or a receipt, by the paths that find a value in it."""
        content = callback.json()
        found = _at(content, self._settings.events_path) if self._settings.events_path else content
        items = found if isinstance(found, list) else [found]
        id_ = callback.header(f"{_prefix_of_headers(callback)}-id") or ""
        return [self._item(item, f"{id_}:{number}") for number, item in enumerate(items)]

    def _item(self, item: JsonValue, event_id: str) -> base.CallbackItem | base.Unread:
        settings = self._settings

        def find(path: str | None) -> str | None:
            return _text(_at(item, path)) if path else None

        body, status = find(settings.inbound_body_path), find(settings.receipt_status_path)
        id_, reference = find(settings.receipt_id_path), find(settings.receipt_reference_path)
        is_receipt = bool(status and (id_ or reference))
        inbound_id, sender = find(settings.inbound_id_path), find(settings.inbound_from_path)
        recipient = find(settings.inbound_to_path)
        # A message may be without words. A receipt may name an id and both ends too.
        if inbound_id and sender and recipient and (body is not None or not is_receipt):
            channel = settings.inbound_channel or next(iter(settings.channels))
            sender, recipient = (
                self._inbound_end(end, settings.channels.get(channel)) for end in (sender, recipient)
            )
            return base.InboundMessage(inbound_id, channel, channel, sender, recipient, body or "")
        if status is None or not is_receipt:
            return base.Unread("the paths that are set find nothing in it")
        return base.Receipt(
            event_id=event_id,
            status=settings.statuses.get(status),
            provider_message_id=id_,
            idempotency_key=reference,
            raw=item if isinstance(item, dict) else {"event": item},
        )

    def _inbound_end(self, end: str, kind: str | None) -> str:
        """The sender or recipient of an inbound message, as the service writes it."""
        if kind != _KINDS["sms"]:
            prefix = _prefix_of(kind)
            return prefix + end.removeprefix(prefix)
        number = _DIGITS.fullmatch(_SEPARATORS.sub("", end))
        if number is None or self._settings.numbers == "national":
            return end
        has_code = self._settings.numbers == "msisdn" or number[1] or is_assigned(f"+{number[2]}")
        return f"+{number[2]}" if has_code else end


def configured() -> GenericProvider | None:
    """The provider, if HTTP_URL is set."""
    settings = HttpSettings()
    return None if settings.url is None else GenericProvider(settings)


def _prefix_of_headers(callback: base.Callback) -> str:
    """The beginning of the names of the signature's headers: `svix` where those of the standard are missing."""
    names = {name for name, _ in callback.headers}
    return "svix" if "svix-id" in names and "webhook-id" not in names else "webhook"


def _must_be_known(text: str, names: set[str]) -> str:
    if unknown := sorted(set(_PLACEHOLDER.findall(text)) - names):
        raise ValueError(f"{{{unknown[0]}}} has no place here; there is {', '.join(sorted(names))}")
    return text


def _prefix_of(kind: str | None) -> str:
    """The prefix of our addresses that the vendor's don't have: `device:`, or none for numbers and mail addresses."""
    return "" if kind is None or kind in _KINDS.values() else f"{kind}:"


def _filled(template: Any, fill: Callable[[str], Any]) -> Any:
    """A document with each of its strings filled in; names stay as they are."""
    if isinstance(template, dict):
        return {name: _filled(value, fill) for name, value in template.items()}
    if isinstance(template, list):
        return [_filled(value, fill) for value in template]
    return fill(template) if isinstance(template, str) else template


def _with_values(text: str, values: Mapping[str, JsonValue]) -> JsonValue:
    """Fill a string in. One that is a placeholder becomes its value, which may be a list or null.

    Placeholders in a value are not filled in.
    """
    if whole := _PLACEHOLDER.fullmatch(text):
        return values[whole[1]]
    return _PLACEHOLDER.sub(lambda found: _joined(values[found[1]]), text)


def _joined(value: JsonValue) -> str:
    """A value as a text: null is empty, the URLs of a list have spaces between them."""
    if isinstance(value, list):
        return " ".join(map(_joined, value))
    return "" if value is None else str(value)


def _document(content: bytes) -> JsonValue:
    """The JSON document in an answer; null for any other content."""
    try:
        document: JsonValue = read_json(content)
    except ValueError:
        return None
    return document


def _at(document: JsonValue, path: str) -> JsonValue:
    """The value at a path of names and indexes; null where it is missing."""
    for step in _STEP.findall(path):
        if isinstance(document, dict):
            document = document.get(step)
        elif isinstance(document, list) and step.isdecimal() and int(step) < len(document):
            document = document[int(step)]
        else:
            return None
    return document


def _text(value: JsonValue) -> str | None:
    """A string or a number, as text; None for anything else."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return text_of_number(value)
    return value if isinstance(value, str) else None
