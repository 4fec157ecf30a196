"""Slack: an app's messages in the channels that it was invited to, and in direct messages.

Sending: https://docs.slack.dev/reference/methods/chat.postMessage
Callbacks: https://docs.slack.dev/reference/events/message
Signatures: https://docs.slack.dev/authentication/verifying-requests-from-slack
Escaping: https://docs.slack.dev/messaging/formatting-message-text
Files: https://docs.slack.dev/reference/objects/file-object

An app is `slack:A024BE7LH`, by its app id. At the other end is a channel, `slack:C024BE91L`, a person,
`slack:U024BE7LH`, or a thread with either, `slack:C024BE91L/1503435956.000247`. Direct messages come from a channel
of their own, `slack:D024BE91L`, which is another address of the person. Slack waits three seconds for our reply to a
callback, and retries it up to three times. It does not report whether a message was read.
"""

import hashlib
import hmac
import html
import re
from collections.abc import Mapping, Sequence
from typing import ClassVar
from urllib.parse import urlsplit

import httpx
from pydantic import AliasPath, Field, SecretStr, ValidationError

from app.details import MessageDetails
from app.providers import base
from app.providers.chat.fields import Fields, fields_in, objects_in, text_in
from app.providers.chat.slack_text import words_of
from app.providers.toolbox.http_client import HttpProvider, bearer, outcome_of, outcome_of_code, text_at
from app.providers.toolbox.models import HttpVendorSettings, RotatingSecret, VendorModel, moment_of
from app.providers.toolbox.vendor_files import origin_of, vendors_target
from app.providers.toolbox.verification import must_be_recent, must_match, only_header, secrets_in

#: These come with status 200 and `ok: false`, like all errors but 429.
THROTTLED = {"ratelimited", "rate_limited", "message_limit_exceeded"}
TEMPORARY = {"service_unavailable", "team_added_to_org", "request_timeout"}
#: After these, Slack says, a part of the request may have been carried out.
IN_DOUBT = {"internal_error", "fatal_error"}
REFUSES_US = {
    "access_denied",
    "accesslimited",
    "account_inactive",
    "ekm_access_denied",
    "enterprise_is_restricted",
    "invalid_auth",
    "missing_scope",
    "no_permission",
    "not_allowed_token_type",
    "not_authed",
    "org_login_required",
    "team_access_not_granted",
    "token_expired",
    "token_revoked",
    "two_factor_setup_required",
}
#: The kinds of messages that a person or an app wrote. Others report edits, deletions, arrivals and departures.
_WRITTEN = {"", "bot_message", "file_share", "me_message", "thread_broadcast"}

_KIND = "slack:"
_ADDRESS = re.compile(r"slack:([A-Z0-9]{2,40})(?:/([0-9]{1,12}\.[0-9]{1,9}))?")
#: The user of Slack's own notes, which stand in the direct messages of others.
_SLACK_ITSELF = "USLACKBOT"
#: Slack cuts a longer text off without an error.
_LONGEST_TEXT = 40_000
_CHALLENGE = re.compile(r"[\x21-\x7e]{1,512}")
#: A link is written between < and >, with | before its title.
_IN_A_LINK = str.maketrans({"<": "%3C", ">": "%3E", "|": "%7C", "&": "&amp;"})

_ID = re.compile(r"[A-Z0-9]{2,40}")
_FILE = re.compile(
    r"/files-pri/[A-Z0-9]+-[A-Z0-9]+(?:/download)?"
    r"/(?!\.{1,2}(?:\?|$))(?:[\w.~-]|%(?!2[eEfF]|5[cC])[0-9A-Fa-f]{2})+(?:\?[!-~]*)?",
    re.ASCII,
)
_TIMESTAMP = re.compile(r"[0-9]{1,11}\.[0-9]{1,9}", re.ASCII)


class SlackSettings(HttpVendorSettings, env_prefix="SLACK_"):
    #: `xoxb-...`, with the scopes `chat:write` and, for files of others, `files:read`.
    bot_token: SecretStr | None = None
    #: `A024BE7LH`: the sender of its messages is `slack:A024BE7LH`.
    app_id: str | None = Field(None, pattern=r"^[A-Z0-9]{2,40}$")
    #: The secret that signs callbacks; two with a comma between them during a rotation.
    signing_secret: RotatingSecret | None = None
    api_url: str = Field("https://slack.com/api", pattern=r"^https?://[^/]+(/[^/]+)*$")


class _Answer(VendorModel):
    ok: bool
    error: str | None = None
    messages: list[str] = Field([], validation_alias=AliasPath("response_metadata", "messages"))


class _Accepted(VendorModel):
    channel: str = Field(pattern=rf"^{_ID.pattern}$")
    ts: str = Field(pattern=rf"^{_TIMESTAMP.pattern}$")


class SlackProvider(HttpProvider[SlackSettings]):
    """An app in a workspace."""

    channels: ClassVar = {"slack": "slack"}

    def refusals(self, payload: base.OutboundMessage) -> Mapping[str, str]:
        refused: dict[str, str] = {}
        if payload.from_address != f"{_KIND}{self._settings.app_id}":
            refused["from"] = "The sender is not the app SLACK_APP_ID."
        if not _ADDRESS.fullmatch(payload.to_address):
            refused["to"] = "Slack has no such address: it is written slack:C024BE91L."
        if len(_text(payload)) > _LONGEST_TEXT:
            refused["body"] = f"A message in Slack has at most {_LONGEST_TEXT} characters."
        return refused

    async def send(self, payload: base.OutboundMessage) -> base.ProviderResult:
        headers = {
            "Authorization": bearer(self._settings.bot_token),
            "Content-Type": "application/json; charset=utf-8",  # without the charset, Slack adds a warning
        }
        url = f"{self._settings.api_url}/chat.postMessage"
        request = self.client.build_request("POST", url, json=_written(payload), headers=headers)
        response = await self.answer(request, _failure_of)
        try:
            accepted = _Accepted.model_validate_json(response.content)
        except ValidationError:
            raise base.UnknownOutcome(f"{response.status_code} without an id: the answer can't be read.") from None
        return base.ProviderResult(f"{accepted.channel}:{accepted.ts}")

    async def fetch_file(self, reference: str, *, most_bytes: int) -> base.FetchedFile:
        """Fetch a file by its address, or by its id where the event only has that."""
        headers = {"Authorization": bearer(self._settings.bot_token)}
        api_url = self._settings.api_url
        if _ID.fullmatch(reference):
            asked = self.client.build_request(
                "GET", f"{api_url}/files.info", params={"file": reference}, headers=headers
            )
            answer = await self.answer(asked, _failure_of)
            reference = text_at(answer, "file", "url_private") or ""
        host = urlsplit(api_url).hostname
        target = vendors_target(reference, {origin_of(f"https://files.{host}"), origin_of(api_url)}, _FILE)
        # Without the scope `files:read`, Slack leads to a page where people log in, or answers with it.
        file = await self.vendor_files.fetch(self.client, target, headers, most_bytes=most_bytes, follows=False)
        if file.content_type == "text/html" and not reference.lower().endswith((".html", ".htm")):
            raise base.PermanentFailure("Slack answers with a page instead of the file: is `files:read` missing?")
        return file

    def verify(self, callback: base.Callback) -> None:
        secrets = secrets_in(SLACK_SIGNING_SECRET=self._settings.signing_secret)
        timestamp = only_header(callback, "x-slack-request-timestamp")
        shown = only_header(callback, "x-slack-signature")
        must_be_recent(timestamp, callback)
        signed = f"v0:{timestamp}:".encode() + callback.body
        must_match([shown], [f"v0={hmac.new(secret, signed, hashlib.sha256).hexdigest()}" for secret in secrets])

    def parse(self, callback: base.Callback) -> base.Reply | Sequence[base.CallbackItem]:
        """A message, or a handshake. A mention of the app comes as two events with one message."""
        content = callback.json()
        kind, event = text_in(content, "type"), fields_in(content, "event")
        if kind == "url_verification":
            challenge = text_in(content, "challenge")
            if not _CHALLENGE.fullmatch(challenge):
                raise base.CallbackRefused("It has no valid challenge.")
            return base.Reply(challenge.encode(), "text/plain")
        if not kind:
            raise ValueError("a callback has a type")
        if kind != "event_callback":
            return []
        app_id = text_in(content, "api_app_id")
        if not event or not _ID.fullmatch(app_id):
            raise ValueError("an event is about something, and names its app")
        if not _is_written(event) or _is_ours(event, app_id, content):
            return []
        return [_inbound(event, app_id)]


def configured() -> SlackProvider | None:
    """The provider, if SLACK_BOT_TOKEN and SLACK_APP_ID are set."""
    settings = SlackSettings()
    return SlackProvider(settings) if settings.bot_token and settings.app_id else None


def _written(payload: base.OutboundMessage) -> dict[str, object]:
    """The body of a request."""
    channel, _, thread = payload.to_address.removeprefix(_KIND).partition("/")
    return {
        "channel": channel,
        "text": _text(payload),
        **({"thread_ts": thread} if thread else {}),
        "metadata": {"event_type": "message_sent", "event_payload": {"reference": payload.idempotency_key}},
    }


def _text(payload: base.OutboundMessage) -> str:
    """The body with links below it, escaped: a text can mention no person and contain no link of its own."""
    links = [_link(link, payload.files.get(link)) for link in payload.attachments]
    return "\n".join(part for part in (html.escape(payload.body, quote=False), *links) if part)


def _link(url: str, file: base.OutboundFile | None) -> str:
    """A link, with its name as the title for a file of ours."""
    title = "|" + html.escape(file.name, quote=False).replace("|", " ") if file else ""
    return f"<{url.translate(_IN_A_LINK)}{title}>"


def _failure_of(response: httpx.Response) -> base.ProviderFailure | None:
    """Read an answer: an error usually comes with status 200 and Slack's own word for it."""
    failure = outcome_of(response)
    try:
        answer = _Answer.model_validate_json(response.content)
    except ValidationError:
        return failure or base.UnknownOutcome(f"{response.status_code} with an answer that can't be read.")
    if answer.ok or (failure and not answer.error):
        return failure
    error = answer.error or "an error without a name"
    detail = "; ".join([error, *answer.messages])[:300]
    failure = outcome_of_code(
        response,
        error,
        detail,
        throttled=THROTTLED,
        temporary=TEMPORARY,
        refuses_us=REFUSES_US,
        in_doubt=IN_DOUBT,
    )
    return failure or base.PermanentFailure(detail)


def _is_written(event: Fields) -> bool:
    """True for a message that a person or an app wrote. Raises `ValueError` for an event without a type."""
    kind = text_in(event, "type")
    if not kind:
        raise ValueError("an event has a type")
    is_message = kind in {"message", "app_mention"} and text_in(event, "subtype") in _WRITTEN
    return is_message and event.get("hidden") is not True


def _is_ours(event: Fields, app_id: str, content: object) -> bool:
    """True for a message of this app, by its id or that of its user."""
    bots = [each for each in objects_in(content, "authorizations") if each.get("is_bot") is True]
    ourselves = {text_in(each, "user_id") for each in bots} - {""}
    return text_in(event, "app_id") == app_id or text_in(event, "user") in ourselves


def _inbound(event: Fields, app_id: str) -> base.InboundMessage:
    """The message of an event. Raises `ValueError` if it does not say where and when it was written."""
    channel, moment, thread = (text_in(event, name) for name in ("channel", "ts", "thread_ts"))
    if not _ID.fullmatch(channel) or not _TIMESTAMP.fullmatch(moment):
        raise ValueError("a message has a channel and a timestamp")
    author = next((id_ for name in ("user", "bot_id") if _ID.fullmatch(id_ := text_in(event, name))), "")
    is_direct = text_in(event, "channel_type") == "im" or channel.startswith("D")
    person = author if is_direct and author == text_in(event, "user") and author != _SLACK_ITSELF else ""
    in_thread = bool(_TIMESTAMP.fullmatch(thread)) and thread != moment  # otherwise it begins a thread
    return base.InboundMessage(
        # The message's own id: that of the event differs where one message comes as two events.
        provider_message_id=f"{channel}:{moment}",
        channel="slack",
        type="slack",
        from_address=f"{_KIND}{person or channel}" + (f"/{thread}" if in_thread else ""),
        to_address=f"{_KIND}{app_id}",
        body=words_of(event),
        attachments=[file for each in objects_in(event, "files") if (file := _file(each))],
        kept={
            file: _facts(each) for each in objects_in(event, "files") if _is_at_slack(each) and (file := _file(each))
        },
        sent_at=moment_of(moment),
        details=MessageDetails(
            from_name=_name(event) or None, author=f"{_KIND}{author}" if author and not person else None
        ),
        alias=f"{_KIND}{channel}" if person else None,
    )


def _file(file: Fields) -> str:
    return text_in(file, "url_private") or text_in(file, "id")


def _is_at_slack(file: Fields) -> bool:
    """False for a link to a file at another service, such as a drive."""
    return file.get("is_external") is not True and text_in(file, "mode") != "external"


def _facts(file: Fields) -> base.FileFacts:
    return base.FileFacts(text_in(file, "name"), text_in(file, "mimetype"))


def _name(event: Fields) -> str:
    """The name of the author, where Slack tells it: that which an app gave itself, or that of a profile."""
    profile, bot = fields_in(event, "user_profile"), fields_in(event, "bot_profile")
    names = (event, "username"), (profile, "display_name"), (profile, "real_name"), (profile, "name"), (bot, "name")
    return next((name for document, field in names if (name := text_in(document, field))), "")
