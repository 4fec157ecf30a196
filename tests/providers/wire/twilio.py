"""The simulator as Twilio: sending, the list of messages, status callbacks and inbound texts.

https://www.twilio.com/docs/messaging/api/message-resource
"""

import base64
import hashlib
import hmac
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from email.utils import format_datetime
from functools import partial
from typing import Any, ClassVar
from urllib.parse import parse_qs, urlencode
from uuid import uuid4

import httpx
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from app.domain import MessageStatus
from app.providers.base import CallbackItem, InboundMessage, OutboundMessage
from app.providers.simulated.script import CarrierAnswer
from app.providers.toolbox.verification import first_secret, reference_in
from app.providers.twilio import TwilioSettings
from app.simulator.carrier import SendRequest
from app.simulator.ledger import Entry
from app.simulator.wire import WireFormat, call_back

_API_VERSION = "2010-04-01"
_PATH = f"/{_API_VERSION}/Accounts/{{account}}/Messages.json"
_REFUSALS = {
    CarrierAnswer.THROTTLED: (429, 20429, "Too Many Requests"),
    CarrierAnswer.ERROR: (500, 20500, "Internal Server Error"),
    CarrierAnswer.REFUSED: (400, 21211, "Invalid 'To' Phone Number"),
    CarrierAnswer.UNAUTHORISED: (401, 20003, "Authenticate"),
}
_UNDELIVERED = {"ErrorCode": "30003", "ErrorMessage": "Unreachable destination handset"}
_PAGE_SIZE, _LARGEST_PAGE = 50, 1000
_MORE = "https://www.twilio.com/docs/errors/{}"


class TwilioFormat(WireFormat):
    """Any account. Receipts go to their message's StatusCallback, if it has one, and inbound texts to `webhook`.

    Callbacks are signed with the first auth token, or unsigned without one. The list of messages is kept in memory.
    """

    accepted_status: ClassVar[int] = 201

    def __init__(self, settings: TwilioSettings, webhook: str | None) -> None:
        self._token = first_secret(settings.auth_token)
        self._webhook = webhook
        self._messages: dict[str, dict[str, Any]] = {}  # by sid, the oldest first

    def routes(self) -> Sequence[Route]:
        return [Route(_PATH, self._submit, methods=["POST"]), Route(_PATH, self._list, methods=["GET"])]

    def accepted(self, request: SendRequest, entry: Entry) -> Response:
        return JSONResponse(_shown(self._messages[request.id]), self.accepted_status)

    def refused(self, answer: CarrierAnswer, entry: Entry) -> Response:
        return _error(*_REFUSALS[answer])

    def note(self, request: SendRequest) -> None:
        message = request.message
        media = len(message.attachments)
        self._add_to_list(request.id, "outbound-api", message.from_address, message.to_address, message.body, media)

    async def _submit(self, http_request: Request) -> Response:
        if "authorization" not in http_request.headers:
            return _error(*_REFUSALS[CarrierAnswer.UNAUTHORISED])
        form = parse_qs((await http_request.body()).decode("latin-1"))
        fields = {name: values[0] for name, values in form.items()}
        media = form.get("MediaUrl", [])
        for missing, code in (("To", 21604), ("From", 21603), ("Body", 21602)):
            if missing not in fields and not (missing == "Body" and media):
                return _error(400, code, f"A '{missing}' is required.")
        status_callback = fields.get("StatusCallback")
        message = OutboundMessage(
            message_id=0,  # the service's own, unknown to a carrier
            channel="sms",
            type="mms" if media else "sms",
            from_address=fields["From"],
            to_address=fields["To"],
            body=fields.get("Body", ""),
            idempotency_key=reference_in(status_callback) or hashlib.sha256(repr(form).encode()).hexdigest(),
            attachments=media,
        )
        sink = partial(
            self._call_back, http_request.state.client, http_request.path_params["account"], status_callback, message
        )
        request = SendRequest(message, id=_sid("MM" if media else "SM", uuid4().hex), sink=sink)
        return await self.answer(http_request, request)

    async def _call_back(
        self,
        client: httpx.AsyncClient,
        account: str,
        status_callback: str | None,
        message: OutboundMessage,
        item: CallbackItem,
    ) -> None:
        if isinstance(item, InboundMessage):
            sid = _sid("SM", item.provider_message_id)
            self._add_to_list(sid, "inbound", item.from_address, item.to_address, item.body, 0)
            content = {"SmsStatus": "received", "Body": item.body, "NumMedia": "0", "NumSegments": "1"}
            url, ends = self._webhook, (item.from_address, item.to_address)
        else:
            sid, status = str(item.provider_message_id), str(item.raw["status"])
            self._messages[sid]["status"] = status
            content = {"SmsStatus": status, "MessageStatus": status}
            content |= _UNDELIVERED if item.status is MessageStatus.UNDELIVERED else {}
            url, ends = status_callback, (message.from_address, message.to_address)
        if url is None:
            return
        fields = {"AccountSid": account, "ApiVersion": _API_VERSION, "MessageSid": sid, "SmsSid": sid, **content}
        fields |= {"From": ends[0], "To": ends[1]}
        headers = {"Content-Type": "application/x-www-form-urlencoded"}
        if self._token:
            headers["X-Twilio-Signature"] = _signature(self._token, url, fields)
        await call_back(client, url, urlencode(fields).encode(), headers)

    def _add_to_list(self, sid: str, direction: str, sender: str, recipient: str, body: str, media: int) -> None:
        if sid not in self._messages:  # a repeated callback
            self._messages[sid] = {
                "sid": sid,
                "status": "received" if direction == "inbound" else "queued",
                "direction": direction,
                "from": sender,
                "to": recipient,
                "body": body,
                "num_media": str(media),
                "date_sent": datetime.now(UTC),
                "error_code": None,
                "error_message": None,
            }

    async def _list(self, request: Request) -> Response:
        """A page of messages, the newest first, filtered by day (UTC), sender or recipient."""
        asked = request.query_params
        wanted = {name.lower(): asked[name] for name in ("To", "From") if name in asked}
        day = asked["DateSent"].partition("T")[0] if "DateSent" in asked else None
        found = [
            _shown(message)
            for message in reversed(self._messages.values())
            if all(message[name] == value for name, value in wanted.items())
            and day in {None, message["date_sent"].date().isoformat()}
        ]
        page = _number(asked.get("Page"), 0)
        size = min(max(_number(asked.get("PageSize"), _PAGE_SIZE), 1), _LARGEST_PAGE)
        # A page begins after the message that its token names: new messages shift no page.
        sids = [message["sid"] for message in found]
        first = sids.index(asked["PageToken"]) + 1 if asked.get("PageToken") in sids else 0
        shown = found[first : first + size]
        following = None
        if len(found) > first + size:
            token = {"Page": page + 1, "PageToken": shown[-1]["sid"]}
            following = f"{request.url.path}?{urlencode({**asked, **token})}"
        return JSONResponse({"messages": shown, "page": page, "page_size": size, "next_page_uri": following})


def _error(status: int, code: int, message: str) -> JSONResponse:
    return JSONResponse({"code": code, "message": message, "more_info": _MORE.format(code), "status": status}, status)


def _sid(prefix: str, name: str) -> str:
    return f"{prefix}{hashlib.md5(name.encode(), usedforsecurity=False).hexdigest()}"


def _signature(token: str, url: str, fields: Mapping[str, str]) -> str:
    signed = url + "".join(name + value for name, value in sorted(fields.items()))
    return base64.b64encode(hmac.digest(token.encode(), signed.encode(), hashlib.sha1)).decode()


def _shown(message: Mapping[str, Any]) -> dict[str, Any]:
    return {**message, "date_sent": format_datetime(message["date_sent"])}


def _number(written: str | None, default: int) -> int:
    return int(written) if written and written.isascii() and written.isdigit() else default
