"""Mailgun (Sinch), mail.

Sending: https://documentation.mailgun.com/docs/mailgun/api-reference/send/mailgun/messages
Events: https://documentation.mailgun.com/docs/mailgun/user-manual/webhooks/webhook-payloads
Their signature: https://documentation.mailgun.com/docs/mailgun/user-manual/webhooks/securing-webhooks
Inbound mail: https://documentation.mailgun.com/docs/mailgun/user-manual/receive-forward-store/
"""

import asyncio
import hashlib
import hmac
import re
from collections.abc import Sequence
from datetime import timedelta
from http import HTTPStatus
from typing import Annotated, Any, ClassVar

import httpx
from pydantic import AliasPath, Field

from app.consent import ReportedConsent
from app.domain import MessageStatus
from app.providers import base
from app.providers.mail.events import CONSENT_OF, Notice, consent_of_bounce, is_program
from app.providers.mail.formats import mailgun_inbound
from app.providers.mail.mime.mailboxes import mailboxes
from app.providers.mail.outbound import HttpMailProvider, Mail, all_written, written
from app.providers.toolbox.http_client import basic, outcome_of, reason_in
from app.providers.toolbox.models import ApiUrl, HttpVendorSettings, RotatingSecret, VendorId, VendorModel, moment_of
from app.providers.toolbox.multipart import parts_of
from app.providers.toolbox.vendor_files import origin_of, vendors_target
from app.providers.toolbox.verification import first_secret, must_be_recent, must_match, secrets_in

#: For `failed` and `opened` it depends on the event. `stored` is not about a mail of ours.
STATUSES = {
    "accepted": MessageStatus.QUEUED,
    "delivered": MessageStatus.DELIVERED,
    "failed": MessageStatus.UNDELIVERED,
    "rejected": MessageStatus.FAILED,
    "opened": MessageStatus.READ,
}
NOTICES = {
    "clicked": Notice.CLICK,
    "complained": Notice.COMPLAINT,
    "unsubscribed": Notice.UNSUBSCRIBED,
}
#: The meaning of a permanent failure by its `reason`. Other reasons say nothing about the address by themselves.
FAILURES = {
    "bounce": ReportedConsent.HARD_BOUNCE,
    "old": ReportedConsent.SOFT_BOUNCE,  # tried for too long
    "suppress-bounce": ReportedConsent.HARD_BOUNCE,
    "suppress-unsubscribe": ReportedConsent.UNSUBSCRIBED,
    "suppress-complaint": ReportedConsent.COMPLAINT,
}

#: Mailgun retries a callback for 8 hours and 5 minutes, always with its first signature. With the usual five minutes,
#: callbacks of an outage would be lost.
RETRIED_FOR = timedelta(hours=8, minutes=5)
#: Where the files of a mail are that a route stores instead of handing them over. They are kept for three days.
_FILE_DOMAIN = "api.mailgun.net"
_FILE = re.compile(r"/v3/domains/[A-Za-z0-9.-]+/messages/[A-Za-z0-9_=-]+/attachments/[0-9]+")
#: The name of our reference among a mail's variables.
_REFERENCE = "reference"


class MailgunSettings(HttpVendorSettings, env_prefix="MAILGUN_"):
    api_key: RotatingSecret | None = None
    #: The domain that sends, as Mailgun lists it; the sandbox's works too.
    domain: str | None = Field(None, pattern=r"^[A-Za-z0-9.-]+$")
    #: The HTTP webhook signing key; two with a comma between them during a rotation.
    signing_key: RotatingSecret | None = None
    #: https://api.eu.mailgun.net for domains of that region.
    api_url: ApiUrl = "https://api.mailgun.net"


class _Signature(VendorModel):
    timestamp: str
    token: Annotated[str, Field(min_length=1, max_length=512)]
    signature: str
    #: By the key of the parent account, for a subaccount's domain.
    parent_signature: str = Field("", alias="parent-signature")


class _Signed(VendorModel):
    signature: _Signature


class _Event(VendorModel):
    id: VendorId
    event: str
    timestamp: float
    severity: str | None = None
    reason: str | None = None
    recipient: str | None = None
    to: str | None = Field(None, validation_alias=AliasPath("message", "headers", "to"))
    message_id: VendorId | None = Field(None, validation_alias=AliasPath("message", "headers", "message-id"))
    description: str | None = Field(None, validation_alias=AliasPath("delivery-status", "description"))
    answer: str | None = Field(None, validation_alias=AliasPath("delivery-status", "message"))
    code: str | None = Field(None, validation_alias=AliasPath("delivery-status", "enhanced-code"))
    bot: str | None = Field(None, validation_alias=AliasPath("client-info", "bot"))
    client_type: str | None = Field(None, validation_alias=AliasPath("client-info", "client-type"))
    user_agent: str | None = Field(None, validation_alias=AliasPath("client-info", "user-agent"))
    rejection: str | None = Field(None, validation_alias=AliasPath("reject", "reason"))
    #: An empty list where a mail has none.
    user_variables: dict[str, Any] | list[Any] = Field({}, alias="user-variables")


class _EventCallback(VendorModel):
    event_data: dict[str, Any] = Field(alias="event-data")


class MailgunProvider(HttpMailProvider[MailgunSettings]):
    """A client of Mailgun's v3 API, for one domain."""

    #: A mail of 25 MB, its files and its parts side by side, and the form around them.
    largest_callback: ClassVar = 35_000_000

    async def send(self, payload: base.OutboundMessage) -> base.ProviderResult:
        mail = await self._composer.mail(payload)
        request = self.client.build_request(
            "POST",
            f"{self._settings.api_url}/v3/{self._settings.domain}/messages",
            data=_fields(mail, payload.idempotency_key),
            files=[("attachment", (file.name, file.content, file.content_type)) for file in mail.files] or None,
            headers={"Authorization": basic("api", first_secret(self._settings.api_key))},
        )
        id = await self.submit(request, "id", failure=_failure_of)
        return base.ProviderResult(id.strip("<>"))

    async def fetch_file(self, reference: str, *, most_bytes: int) -> base.FetchedFile:
        target = vendors_target(reference, {origin_of(self._settings.api_url)}, _FILE, domain=_FILE_DOMAIN)
        headers = {"Authorization": basic("api", first_secret(self._settings.api_key))}
        return await self.vendor_files.fetch(self.client, target, headers, most_bytes=most_bytes)

    async def verify(self, callback: base.Callback) -> str:
        """The result is the token: the signature does not cover the body."""
        keys = secrets_in(MAILGUN_SIGNING_KEY=self._settings.signing_key)
        shown = await asyncio.to_thread(_signature_in, callback) if callback.is_large else _signature_in(callback)
        must_be_recent(shown.timestamp, callback, retried_for=RETRIED_FOR)
        signed = (shown.timestamp + shown.token).encode("utf-8", "replace")
        signatures = [each for each in (shown.signature, shown.parent_signature) if each]
        must_match(signatures, [hmac.new(key, signed, hashlib.sha256).hexdigest() for key in keys])
        return shown.token

    def parse(self, callback: base.Callback) -> Sequence[base.CallbackItem]:
        if callback.media_type != "application/json":
            return mailgun_inbound(callback)
        return [_receipt(_EventCallback.model_validate(callback.json()).event_data)]


def configured() -> MailgunProvider | None:
    """The provider, if MAILGUN_API_KEY and MAILGUN_DOMAIN are set."""
    settings = MailgunSettings()
    return MailgunProvider(settings) if settings.api_key and settings.domain else None


def _fields(mail: Mail, reference: str) -> dict[str, str]:
    answer = {"Reply-To": all_written(mail.reply_to)} if mail.reply_to else {}
    headers = {"Message-Id": mail.message_id, **answer, **mail.further_headers}
    fields = {
        "from": written(mail.from_),
        "to": written(mail.to),
        **{name: all_written(each) for name, each in (("cc", mail.cc), ("bcc", mail.bcc)) if each},
        "subject": mail.subject,
        "text": mail.text,
        **{f"h:{name}": value for name, value in headers.items()},
        f"v:{_REFERENCE}": reference,
    }
    return fields if mail.html is None else {**fields, "html": mail.html}


def _failure_of(response: httpx.Response) -> base.ProviderFailure | None:
    failure = outcome_of(response, reason_in(response, "message"))
    if response.status_code == HTTPStatus.NOT_FOUND:  # an unknown domain
        return base.CredentialsRefused(f"{failure}: is MAILGUN_DOMAIN right, and MAILGUN_API_URL its region's?")
    return failure


def _signature_in(callback: base.Callback) -> _Signature:
    """The signature of a callback: in the body, in a route's form among the fields of the mail."""
    try:
        if callback.media_type == "application/json":
            return _Signed.model_validate(callback.json()).signature
        names = ("timestamp", "token", "signature")
        found = [(part.name, part.content.decode()) for part in parts_of(callback) if part.name in names]
        if len(found) != len(names):
            raise base.CallbackRefused("Its signature is missing, or there twice.")
        return _Signature.model_validate(dict(found))
    except ValueError:
        raise base.CallbackRefused("No signature can be read from it.") from None


def _receipt(raw: dict[str, Any]) -> base.Receipt:
    event = _Event.model_validate(raw)
    variables = event.user_variables if isinstance(event.user_variables, dict) else {}
    reference = variables.get(_REFERENCE)
    notice = _notice(event)
    words = event.description or event.answer or event.rejection or event.reason
    return base.Receipt(
        event_id=f"{event.id}:{event.timestamp}",  # an id is unique within a day only
        status=None if notice else STATUSES.get(event.event),
        provider_message_id=event.message_id.strip("<>") if event.message_id else None,
        idempotency_key=reference if isinstance(reference, str) else None,
        detail=notice.with_words_of(words) if notice else words,
        occurred_at=moment_of(event.timestamp),
        raw=raw,
        recipient=event.recipient,
        named=[each.address for each in mailboxes(event.to or "")],
        consent=_consent(event, notice),
    )


def _consent(event: _Event, notice: Notice | None) -> ReportedConsent | None:
    if notice is not None:
        return CONSENT_OF.get(notice)
    if event.event != "failed":
        return None
    verdict = FAILURES.get(event.reason or "")
    if (event.reason or "").startswith("suppress-"):  # Mailgun's own words follow
        return verdict
    return consent_of_bounce(" ".join(filter(None, (event.code, event.answer, event.description))), verdict)


def _notice(event: _Event) -> Notice | None:
    """The meaning of an event that changes no status.

    `bot` is empty for people (https://documentation.mailgun.com/docs/mailgun/user-manual/tracking-messages/open-click-bot-detect).
    """
    is_bot = is_program(event.user_agent) if event.bot is None else bool(event.bot)
    is_bot = is_bot or event.client_type == "robot"
    if event.event == "opened" and is_bot:
        return Notice.MACHINE_OPEN
    if event.event == "failed" and event.severity == "temporary":
        return Notice.DELAY
    return NOTICES.get(event.event)
