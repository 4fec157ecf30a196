"""WhatsApp, by the Cloud API of Meta: texts, each with at most one attachment, by its link.

Sending: https://developers.facebook.com/documentation/business-messaging/whatsapp/messages/send-messages
Errors: https://developers.facebook.com/documentation/business-messaging/whatsapp/support/error-codes
Groups: https://developers.facebook.com/documentation/business-messaging/whatsapp/groups/groups-messaging

Free text reaches a person who wrote within the last 24 hours, and a template everyone.
"""

import hashlib
import hmac
import re
import time
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Annotated, ClassVar
from urllib.parse import unquote, urlsplit

import httpx
from pydantic import AliasPath, Field, SecretStr, ValidationError, field_validator
from pydantic_settings import NoDecode

from app.consent import ReportedConsent
from app.phone_numbers import compared_form
from app.providers import base
from app.providers.chat.fields import Fields, fields_in
from app.providers.chat.templates import FilledTemplate, VendorTemplate, misfit
from app.providers.chat.whatsapp_callback import GROUP, NO_MARKETING, NUMBERLESS, items_of
from app.providers.chat.whatsapp_templates import listed_templates, written_template
from app.providers.toolbox.http_client import (
    HttpProvider,
    bearer,
    exchange,
    outcome_of,
    outcome_of_code,
    text_at,
)
from app.providers.toolbox.json_documents import read_json
from app.providers.toolbox.models import HttpVendorSettings, RotatingSecret, VendorModel
from app.providers.toolbox.taken_files import TakenFiles
from app.providers.toolbox.vendor_files import origin_of, vendors_target
from app.providers.toolbox.verification import (
    must_be_secret,
    must_match,
    only_header,
    only_parameter,
    secrets_in,
)

#: Too many requests: of the app, of the account, of the number, or for a number that gets complaints.
THROTTLED = {4, 80007, 130429, 131048}
#: Failed by an error, Meta says; the service is away or under maintenance. Too many messages to one person. A medium
#: that could not be fetched. A number that was registered too often within a while.
TEMPORARY = {2, 131000, 131016, 131053, 131056, 131057, 133016}
#: An unknown error, of which Meta says only that it may be temporary.
IN_DOUBT = {1}
#: Free text to a person who has not written within 24 hours.
WINDOW_IS_CLOSED = 131047
#: Errors of the account: the token, its permissions, a blocked or unpaid account, a number that is not registered.
REFUSES_US = {0, 3, 10, 190, 368, 131005, 131031, 131042, 133010, *range(200, 300)}

#: Kinds of files that Meta takes by their endings; any other file has to be a document.
#: https://developers.facebook.com/documentation/business-messaging/whatsapp/business-phone-numbers/media
_KINDS = {
    **dict.fromkeys(("jpg", "jpeg", "png"), "image"),
    **dict.fromkeys(("mp4", "3gp", "3gpp"), "video"),
    **dict.fromkeys(("aac", "amr", "mp3", "m4a", "ogg"), "audio"),
}
#: The same by their types. Any other file has to be a document.
_KINDS_OF_TYPES = {
    **dict.fromkeys(("image/jpeg", "image/png"), "image"),
    **dict.fromkeys(("video/mp4", "video/3gpp", "video/3gp"), "video"),
    **dict.fromkeys(("audio/aac", "audio/amr", "audio/mpeg", "audio/mp4", "audio/ogg"), "audio"),
}
_LARGEST = {"image": 5_000_000, "video": 16_000_000, "audio": 16_000_000}
_TAKEN = TakenFiles(
    "WhatsApp", {type_: _LARGEST[kind] for type_, kind in _KINDS_OF_TYPES.items()}, others=100_000_000
)
#: The name of a document whose link has none. WhatsApp shows it.
_UNNAMED = "attachment"
_LONGEST_NAME = 240
#: A file has an id. The API gives its address, which takes the token too, and expires after five minutes.
#: https://developers.facebook.com/documentation/business-messaging/whatsapp/business-phone-numbers/media
_FILE_ORIGIN = origin_of("https://lookaside.fbsbx.com")
_FILE_ID = re.compile(r"[0-9]{1,40}", re.ASCII)
_FILE = re.compile(r"/whatsapp_business/attachments/\?[!-~]+")
#: Seconds for which the list of templates is kept; pages of a hundred, and the most of them; bytes of a page.
_LIST_KEPT, _PAGE, _MOST_PAGES, _LARGEST_PAGE = 60.0, 100, 50, 5_000_000
_CHALLENGE = re.compile(r"[\x21-\x7e]{1,512}")


class WhatsappSettings(HttpVendorSettings, env_prefix="WHATSAPP_"):
    access_token: SecretStr | None = None
    #: Our numbers with their ids: `+12016661234:106540352242922`, spaces between them.
    phone_number_ids: Annotated[dict[str, str], NoDecode] = Field(default_factory=dict)
    #: The secret of the app, which signs callbacks; two with a comma between them during a rotation.
    app_secret: RotatingSecret | None = None
    #: A secret of our choice, entered at Meta with the webhook's address.
    verify_token: RotatingSecret | None = None
    #: The id of the account, whose templates are listed.
    business_account_id: str | None = Field(None, pattern="^[0-9]+$")
    api_url: str = Field("https://graph.facebook.com/v23.0", pattern=r"^https?://[^/]+(/[^/]+)*$")

    @field_validator("phone_number_ids", mode="before")
    @classmethod
    def _number_and_id(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        pairs = [part.partition(":") for part in value.split()]
        if not all(re.fullmatch(r"\+[0-9]{7,15}", number) and id_.isdigit() for number, _, id_ in pairs):
            raise ValueError("write each number with its id: +12016661234:106540352242922")
        return {number: id_ for number, _, id_ in pairs}


class _Error(VendorModel):
    code: int
    title: str | None = None
    message: str | None = None
    details: str | None = Field(None, validation_alias=AliasPath("error_data", "details"))

    def __str__(self) -> str:
        said = self.details or self.title or self.message
        return f"{self.code} {said}".strip()[:300] if said else str(self.code)


class _Refused(VendorModel):
    error: _Error


class WhatsappProvider(HttpProvider[WhatsappSettings]):
    """The numbers of a WhatsApp business account."""

    channels: ClassVar = {"whatsapp": "phone"}
    receipts_carry_key: ClassVar = True
    largest_callback: ClassVar[int] = 3_000_000  # by Meta's documentation
    reply_window: ClassVar = timedelta(hours=24)
    takes_templates: ClassVar = True

    def __init__(self, settings: WhatsappSettings, client: httpx.AsyncClient | None = None) -> None:
        super().__init__(settings, client)
        self._numbers = {id_: number for number, id_ in settings.phone_number_ids.items()}
        self._ids = {compared_form(number): id_ for number, id_ in settings.phone_number_ids.items()}
        self._templates: list[VendorTemplate] = []
        self._templates_until = 0.0

    def refusals(self, payload: base.OutboundMessage) -> Mapping[str, str]:
        refused: dict[str, str] = {}
        if compared_form(payload.from_address) not in self._ids:
            refused["from"] = "The sender is none of WHATSAPP_PHONE_NUMBER_IDS."
        if len(payload.attachments) > 1:
            refused["attachments"] = "WhatsApp takes one attachment a message."
        if payload.template is not None and self._templates and (reason := misfit(payload.template, self._templates)):
            refused["template"] = reason
        return {**_TAKEN.refusals(payload), **refused}

    async def templates(self) -> Sequence[VendorTemplate]:
        account = self._settings.business_account_id
        if account is None:
            raise base.TemplatesUnavailable("Set WHATSAPP_BUSINESS_ACCOUNT_ID to the id of the WhatsApp account.")
        if time.monotonic() < self._templates_until:
            return self._templates
        found: list[VendorTemplate] = []
        after: str | None = None
        for _ in range(_MOST_PAGES):
            page = await self._page_of_templates(account, after)
            found += listed_templates(page)
            cursor = fields_in(page, "paging", "cursors").get("after")
            after = cursor if isinstance(cursor, str) and fields_in(page, "paging").get("next") else None
            if after is None:
                break
        self._templates, self._templates_until = found, time.monotonic() + _LIST_KEPT
        return found

    async def _page_of_templates(self, account: str, after: str | None) -> Fields:
        asked: dict[str, str | int] = {"fields": "name,language,status,category,components", "limit": _PAGE}
        request = self.client.build_request(
            "GET",
            f"{self._settings.api_url}/{account}/message_templates",
            params=asked | ({"after": after} if after else {}),
            headers={"Authorization": bearer(self._settings.access_token)},
        )
        response = await exchange(self.client, request, largest=_LARGEST_PAGE)
        if failure := _failure_of(response):
            raise failure
        page = read_json(response.content)
        if not isinstance(page, dict):
            raise base.TemporaryFailure("Meta's list of templates can't be read.")
        return page

    async def send(self, payload: base.OutboundMessage) -> base.ProviderResult:
        sender = self._ids[compared_form(payload.from_address)]
        request = self.client.build_request(
            "POST",
            f"{self._settings.api_url}/{sender}/messages",
            json=self._written(payload),
            headers={"Authorization": bearer(self._settings.access_token)},
        )
        return base.ProviderResult(await self.submit(request, "messages", 0, "id", failure=_failure_of))

    async def fetch_file(self, reference: str, *, most_bytes: int) -> base.FetchedFile:
        if not _FILE_ID.fullmatch(reference):
            raise base.FileUnavailable("It is not at the vendor.")
        headers = {"Authorization": bearer(self._settings.access_token)}
        asked = self.client.build_request("GET", f"{self._settings.api_url}/{reference}", headers=headers)
        url = text_at(await self.answer(asked, _failure_of), "url")
        if url is None:
            raise base.TemporaryFailure("The vendor tells no address of the file.")
        target = vendors_target(url, {_FILE_ORIGIN, origin_of(self._settings.api_url)}, _FILE)
        return await self.vendor_files.fetch(self.client, target, headers, most_bytes=most_bytes)

    def _written(self, payload: base.OutboundMessage) -> dict[str, object]:
        """The body of a request."""
        message: dict[str, object] = {
            "messaging_product": "whatsapp",
            **_addressed(payload.to_address),
            "biz_opaque_callback_data": payload.idempotency_key,
        }
        template = payload.template
        if template is None:
            return message | _content(payload)
        medium = _medium(payload, "") if payload.attachments else None
        known = next((each for each in self._templates if _is_of(each, template)), None)
        return message | {"type": "template", "template": written_template(template, medium, known)}

    def verify(self, callback: base.Callback) -> None:
        if callback.method == "GET":  # a handshake is not signed: its address has a token
            tokens = secrets_in(WHATSAPP_VERIFY_TOKEN=self._settings.verify_token)
            must_be_secret(only_parameter(callback, "hub.verify_token"), tokens, callback)
            return
        secrets = secrets_in(WHATSAPP_APP_SECRET=self._settings.app_secret)
        shown = only_header(callback, "x-hub-signature-256")
        expected = [hmac.new(secret, callback.body, hashlib.sha256).hexdigest() for secret in secrets]
        must_match([shown], [f"sha256={each}" for each in expected])

    def parse(self, callback: base.Callback) -> base.Reply | Sequence[base.CallbackItem | base.Unread]:
        """Messages and statuses, several of both in one callback, or a handshake. Other changes do not concern us."""
        if callback.method == "GET":
            return _subscription(callback)
        return list(items_of(callback.json(), self._numbers))


def configured() -> WhatsappProvider | None:
    """The provider, if WHATSAPP_ACCESS_TOKEN and WHATSAPP_PHONE_NUMBER_IDS are set."""
    settings = WhatsappSettings()
    return WhatsappProvider(settings) if settings.access_token and settings.phone_number_ids else None


def _subscription(callback: base.Callback) -> base.Reply:
    challenge = only_parameter(callback, "hub.challenge")
    if only_parameter(callback, "hub.mode") != "subscribe" or not _CHALLENGE.fullmatch(challenge):
        raise base.CallbackRefused("It asks for something else than to subscribe.")
    return base.Reply(challenge.encode(), "text/plain")


def _content(payload: base.OutboundMessage) -> dict[str, object]:
    if not payload.attachments:
        return {"type": "text", "text": {"preview_url": False, "body": payload.body}}
    return _medium(payload, payload.body)


def _medium(payload: base.OutboundMessage, caption: str) -> dict[str, object]:
    """The attachment by its link, as a message or as the parameter of a template's header."""
    [link] = payload.attachments
    kind, name = _kind_and_name(link, payload.files.get(link), has_text=bool(caption))
    medium = {"link": link} | ({"caption": caption} if caption else {})
    if kind == "document":
        medium["filename"] = name
    return {"type": kind, kind: medium}


def _is_of(known: VendorTemplate, template: FilledTemplate) -> bool:
    return (known.name, known.language) == (template.name, template.language)


def _addressed(to: str) -> dict[str, str]:
    if to.startswith(GROUP):
        return {"recipient_type": "group", "to": to.removeprefix(GROUP)}
    if to.startswith(NUMBERLESS):
        return {"recipient_type": "individual", "recipient": to.removeprefix(NUMBERLESS)}
    return {"recipient_type": "individual", "to": to.lstrip("+")}


def _kind_and_name(link: str, file: base.OutboundFile | None, *, has_text: bool) -> tuple[str, str]:
    """The kind of a file, by its type or the ending of its link, and its name. Audio takes no caption."""
    segment = unquote(urlsplit(link).path.rpartition("/")[2])
    name = "".join(filter(str.isprintable, segment)).strip()[-_LONGEST_NAME:] or _UNNAMED
    if file is not None:
        kind = _KINDS_OF_TYPES.get(file.content_type, "document")
    else:
        kind = _KINDS.get(name.rpartition(".")[2].lower(), "document") if "." in name else "document"
    return ("document" if kind == "audio" and has_text else kind), name


def _failure_of(response: httpx.Response) -> base.ProviderFailure | None:
    """Read an answer by Meta's own code, which says more than the status."""
    if response.is_success:
        return None
    try:
        error = _Refused.model_validate_json(response.content).error
    except ValidationError:
        return outcome_of(response)
    if error.code == WINDOW_IS_CLOSED:
        return base.PermanentFailure(f"{error.code} {base.WINDOW_CLOSED}")
    if error.code == NO_MARKETING:
        return base.RecipientRefused(str(error), ReportedConsent.NO_MARKETING)
    return outcome_of_code(
        response,
        error.code,
        str(error),
        throttled=THROTTLED,
        temporary=TEMPORARY,
        refuses_us=REFUSES_US,
        in_doubt=IN_DOUBT,
    )
