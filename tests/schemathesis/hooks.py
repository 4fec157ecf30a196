"""Loaded by schemathesis: values for the formats of our document, signatures, and what no schema can say."""

import base64
import hashlib
import hmac
import os
import time
from datetime import UTC, datetime
from typing import Any
from zlib import crc32

import schemathesis
from hypothesis import strategies as st
from schemathesis import Case, HookContext, Response, SerializationContext
from schemathesis.core.failures import Failure

#: Parts of the sentences that refuse a request which its schema allows. They are about addresses, two fields at once,
#: things that exist already, or cursors, which only the service can write.
RULES = (
    "not a phone number",
    "not an email address",
    "not an address of",
    "an address can't",
    "an alphanumeric sender can't receive",
    "This Idempotency-Key was used for a request with another body",
    "take the cursor from the Link header",
    "take it from `cursor` of an earlier page",
    "take the id from a message or the list of conversations",
    "is written by the service itself",
    "twice, in different cases",
    "a message needs a body or an attachment",
    "upload it first",
    "a file is not empty",
    "the form holds no file",
    "or text and html in its place",
    "body and text say different things",
    "a message can't expire before it leaves",
    "a message is scheduled for the future",
    "a message is scheduled for at most a year ahead",
    "this time is over",
    "name what is to change",
    "this key stands twice in one object",
    "this address is not one of yours",
    "leave it out for everything",
    "name the channel",
    "name the sender",
    "name the topic",
    "no provider here carries this channel",
    "a topic has up to 63 characters",
    "this is a name: write a phone number",
    "a group is written to as long as",
    "write some words, or leave it out",
    "give the reason in",
    "say what shows that they agree now",
    "not a time zone",
    "quiet hours can't end when they begin",
    "there is a span for this topic already",
    "a template has its own body",
    "this channel has no templates",
    "only a template reaches them",
    "this conversation has no message on this channel",
    "only a snoozed conversation opens at a time",
    "this time has passed",
)
_REJECTED, _ACCEPTED = "Schema-valid request rejected", "Schema-violating request accepted"
_LINES = {"/api/suppressions/batch", "/api/batches"}
_TOO_LONG = {413, 414, 431}

#: A limit of tenant 1 would answer the rest of a run with 429, and the end of the key that it shows with 401.
_SPARED = {"/api/admin/tenants/{tenant_id}": "tenant_id", "/api/admin/keys/{tenant_id}/{key_id}": "key_id"}
_KEY, _NOBODY = os.environ.get("FUZZ_KEY_ID", ""), 999_999_999

_LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
_name = st.text(_LETTERS, min_size=1, max_size=20)
_phone = st.integers(1000000, 9999999).map(lambda number: f"+1202{number}") | st.sampled_from(
    ["(201) 666-1234", "+44 20 7946 0958", "40404"]
)
_email = st.builds("{}@{}.example".format, _name, _name)
_url = st.builds("http{}://{}.example/{}".format, st.sampled_from(["", "s"]), _name, _name)
_moment = st.datetimes(datetime(1971, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC)).map(datetime.isoformat)  # noqa: DTZ001

for name, strategy in {
    "phone": _phone,
    "idn-email": _email | st.just("jürgen@bücher.example"),
    "mailbox": _email | st.builds("{} <{}>".format, _name, _email),
    "address": _phone | _email,
    "channel-address": _phone | st.builds("whatsapp:{}".format, _name),
    "uri": _url,
    "attachment": _url
    | st.builds("/api/files/{}/{}".format, st.text("0123456789abcdef", min_size=64, max_size=64), _name),
    "uri-reference": _url | _name,
    "date-time": _moment,
}.items():
    schemathesis.openapi.format(name, strategy)


@schemathesis.serializer("application/jsonl", "application/x-ndjson")
def _as_it_is(context: SerializationContext, value: Any) -> Any:
    """Lines as they are: the document says only that they are a text."""
    return value if isinstance(value, str | bytes) else str(value)


@schemathesis.hook
def before_call(context: HookContext, case: Case[Any], kwargs: dict[str, Any]) -> None:
    """Have webhooks signed where the service has a secret, and spare what the run itself stands on, and its time."""
    if case.path == "/api/events" and str(case.query.get("wait")) in map(str, range(61)):
        case.query["wait"] = 0
    if (case.method, str(case.path_parameters.get(_SPARED.get(case.path, "")))) in {("PATCH", "1"), ("DELETE", _KEY)}:
        case.path_parameters[_SPARED[case.path]] = _NOBODY
    if "WEBHOOK_SECRET" in os.environ and case.path.startswith("/api/webhooks/"):
        kwargs["auth"] = _signed


def _signed(request: Any) -> Any:
    """Called with the request as it will be sent. One in four is left unsigned, the same ones in every run."""
    body = request.body or b""
    body = body.encode() if isinstance(body, str) else body
    if crc32(body) % 4:
        secret = base64.b64decode(os.environ["WEBHOOK_SECRET"].removeprefix("whsec_"))
        timestamp = str(int(time.time()))
        signature = hmac.digest(secret, f"msg_1.{timestamp}.".encode() + body, hashlib.sha256)
        request.headers["webhook-id"], request.headers["webhook-timestamp"] = "msg_1", timestamp
        request.headers["webhook-signature"] = f"v1,{base64.b64encode(signature).decode()}"
    return request


@schemathesis.hook
def filter_failure(context: HookContext, failure: Failure, case: Case[Any], response: Response) -> bool:
    """Tell if it is one: no schema can say the `RULES`, and a request that is too long is refused unread.

    Lines are any text, of which each is judged by itself.
    """
    if failure.title == _ACCEPTED:
        return response.status_code not in _TOO_LONG and case.path not in _LINES
    return failure.title != _REJECTED or not any(rule in response.text for rule in RULES)
