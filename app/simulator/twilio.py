"""The simulator as Twilio: messages to send, the list of messages, status callbacks, and texts that come in.

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
from app.providers.simulated.script import Reply
from app.providers.toolbox.verification import first_secret, reference_in
from app.providers.twilio import TwilioSettings
from app.simulator.carrier import Order
from app.simulator.ledger import Entry
from app.simulator.wire import WireFormat, call

_API_VERSION = "2010-04-01"
_PATH = f"/{_API_VERSION}/Accounts/{{account}}/Messages.json"
_REFUSALS = {
    Reply.THROTTLED: (429, 20429, "Too Many Requests"),
    Reply.ERROR: (500, 20500, "Internal Server Error"),
    Reply.REFUSED: (400, 21211, "Invalid 'To' Phone Number"),
    Reply.UNAUTHORISED: (401, 20003, "Authenticate"),
}
_UNDELIVERED = {"ErrorCode": "30003", "ErrorMessage": "Unreachable destination handset"}
_PAGE_SIZE, _LARGEST_PAGE = 50, 1000
_MORE = "https://www.twilio.com/docs/errors/{}"


class TwilioFormat(WireFormat):
    """Any account. Receipts go to the StatusCallback of their message, if it names one; texts to `webhook`.

    Calls are signed with the first auth token, and not at all where there is none. What the list shows is forgotten
    when the process ends.
    """

    accepted_status: ClassVar[int] = 201

    def __init__(self, settings: TwilioSettings, webhook: str | None) -> None:
        self._token = first_secret(settings.auth_token)
        self._webhook = webhook
        self._messages: dict[str, dict[str, Any]] = {}  # by sid, the oldest first

    def routes(self) -> Sequence[Route]:
        return [Route(_PATH, self._submit, methods=["POST"]), Route(_PATH, self._list, methods=["GET"])]

    def accepted(self, order: Order, entry: Entry) -> Response:
        return JSONResponse(_shown(self._messages[order.id]), self.accepted_status)

    def refused(self, reply: Reply, entry: Entry) -> Response:
        return _error(*_REFUSALS[reply])

    def note(self, order: Order) -> None:
        message = order.message
        media = len(message.attachments)
        self._list_it(order.id, "outbound-api", message.from_address, message.to_address, message.body, media)

    async def _submit(self, request: Request) -> Response:
        if "authorization" not in request.headers:
            return _error(*_REFUSALS[Reply.UNAUTHORISED])
        form = parse_qs((await request.body()).decode("latin-1"))
        fields = {name: values[0] for name, values in form.items()}
        media = form.get("MediaUrl", [])
        for missing, code in (("To", 21604), ("From", 21603), ("Body", 21602)):
            if missing not in fields and not (missing == "Body" and media):
                return _error(400, code, f"A '{missing}' is required.")
        status_callback = fields.get("StatusCallback")
        message = OutboundMessage(
            message_id=0,  # the service's own, which a carrier never learns
            channel="sms",
            type="mms" if media else "sms",
            from_address=fields["From"],
            to_address=fields["To"],
            body=fields.get("Body", ""),
            idempotency_key=reference_in(status_callback) or hashlib.sha256(repr(form).encode()).hexdigest(),
            attachments=media,
        )
        sink = partial(
            self._call_back, request.state.client, request.path_params["account"], status_callback, message
        )
        return await self.answer(request, Order(message, id=_sid("MM" if media else "SM", uuid4().hex), sink=sink))

    async def _call_back(
        self,
        client: httpx.AsyncClient,
        account: str,
        status_callback: str | None,
        message: OutboundMessage,
        event: CallbackItem,
    ) -> None:
        if isinstance(event, InboundMessage):
            sid = _sid("SM", event.provider_message_id)
            self._list_it(sid, "inbound", event.from_address, event.to_address, event.body, 0)
            said = {"SmsStatus": "received", "Body": event.body, "NumMedia": "0", "NumSegments": "1"}
            url, ends = self._webhook, (event.from_address, event.to_address)
        else:
            sid, status = str(event.provider_message_id), str(event.raw["status"])
            self._messages[sid]["status"] = status
            said = {"SmsStatus": status, "MessageStatus": status}
            said |= _UNDELIVERED if event.status is MessageStatus.UNDELIVERED else {}
            url, ends = status_callback, (message.from_address, message.to_address)
        if url is None:
            return
        fields = {"AccountSid": account, "ApiVersion": _API_VERSION, "MessageSid": sid, "SmsSid": sid, **said}
        fields |= {"From": ends[0], "To": ends[1]}
        headers = {"Content-Type": "application/x-www-form-urlencoded"}
        if self._token:
            headers["X-Twilio-Signature"] = _signature(self._token, url, fields)
        await call(client, url, urlencode(fields).encode(), headers)

    def _list_it(self, sid: str, direction: str, sender: str, recipient: str, body: str, media: int) -> None:
        if sid not in self._messages:  # as when a call is repeated
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
        """The messages, the newest first, page by page; those of one day (UTC), sender or recipient, if asked."""
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
        more = len(found) > (page + 1) * size
        following = f"{request.url.path}?{urlencode({**asked, 'Page': page + 1})}" if more else None
        shown = found[page * size : (page + 1) * size]
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
