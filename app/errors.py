"""All errors that clients can see: a class with a status each, rendered as problem+json (RFC 9457)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus


@dataclass(frozen=True, slots=True)
class FieldError:
    """The problem of one field; `location` reads like `body.from` or `query.limit`. Never holds the input."""

    location: str
    message: str


class ServiceError(Exception):
    """A deliberate error. The text is the `detail` of the answer, so it is written for the caller."""

    status: HTTPStatus = HTTPStatus.INTERNAL_SERVER_ERROR
    title: str = "Internal server error"
    retry_after: int | None = None  #: seconds
    headers: Mapping[str, str] = {}  #: besides Retry-After
    members: Mapping[str, str] = {}  #: further ones of the problem document

    def __init__(self, detail: str, *, errors: Sequence[FieldError] = ()) -> None:
        super().__init__(detail)
        self.detail = detail
        self.errors = list(errors)


class InvalidRequest(ServiceError):
    status, title = HTTPStatus.UNPROCESSABLE_ENTITY, "Invalid request"


class BadRequest(ServiceError):
    status, title = HTTPStatus.BAD_REQUEST, "Bad request"


class UnsupportedMediaType(ServiceError):
    status, title = HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "Unsupported media type"


class Unauthorized(ServiceError):
    """The answer is the same for every cause. `reason` and the prefix of the key are for the audit only."""

    status, title = HTTPStatus.UNAUTHORIZED, "Unauthorized"
    headers: Mapping[str, str] = {"WWW-Authenticate": "Bearer"}

    def __init__(self, reason: str, prefix: str | None = None) -> None:
        super().__init__("This needs a valid API key, in the header Authorization: Bearer <key>.")
        self.reason = reason
        self.prefix = prefix


class SignatureRefused(ServiceError):
    status, title = HTTPStatus.UNAUTHORIZED, "Signature refused"


class ScopeMissing(ServiceError):
    status, title = HTTPStatus.FORBIDDEN, "Scope missing"


class NotTheOperator(ServiceError):
    status, title = HTTPStatus.FORBIDDEN, "Not the operator"


class CrossSite(ServiceError):
    status, title = HTTPStatus.FORBIDDEN, "Cross-site request"


class LoginNeeded(ServiceError):
    """There is no session. With `at`, the address of the login page, a browser is sent there.

    A refused `cookie` is removed by this header `Set-Cookie`.
    """

    status, title = HTTPStatus.UNAUTHORIZED, "Login needed"

    def __init__(self, *, at: str | None = None, is_fragment: bool = False, cookie: str | None = None) -> None:
        super().__init__("Log in with an API key at /login.")
        self.headers = {"Location": at} if at else {"WWW-Authenticate": "Cookie"}
        if at:
            self.status = HTTPStatus.SEE_OTHER
        if is_fragment:
            self.headers |= {"HX-Redirect": "/login"}
        if cookie:
            self.headers |= {"Set-Cookie": cookie}


class FormRefused(ServiceError):
    """A change was asked for without the token of the session."""

    status, title = HTTPStatus.FORBIDDEN, "Form refused"


class ChannelNotServed(ServiceError):
    status, title = HTTPStatus.UNPROCESSABLE_ENTITY, "Channel not served"


class ChannelNotFound(ServiceError):
    status, title = HTTPStatus.NOT_FOUND, "Channel not found"


class TemplatesNotListed(ServiceError):
    """The vendor does not list its templates now, or not with these settings."""

    status, title, retry_after = HTTPStatus.SERVICE_UNAVAILABLE, "Templates not listed", 30


class TenantNotFound(ServiceError):
    status, title = HTTPStatus.NOT_FOUND, "Tenant not found"


class KeyNotFound(ServiceError):
    status, title = HTTPStatus.NOT_FOUND, "Key not found"


class AddressNotFound(ServiceError):
    status, title = HTTPStatus.NOT_FOUND, "Address not found"


class TenantExists(ServiceError):
    status, title = HTTPStatus.CONFLICT, "Tenant exists"


class AddressTaken(ServiceError):
    status, title = HTTPStatus.CONFLICT, "Address taken"


class BodyTooLarge(ServiceError):
    status, title = HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "Body too large"


class AddressTooLong(ServiceError):
    status, title = HTTPStatus.REQUEST_URI_TOO_LONG, "Address too long"


class TooManyHeaders(ServiceError):
    status, title = HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "Too many headers"


class ConversationNotFound(ServiceError):
    status, title = HTTPStatus.NOT_FOUND, "Conversation not found"


class ContactNotFound(ServiceError):
    status, title = HTTPStatus.NOT_FOUND, "Contact not found"


class EventsGone(ServiceError):
    """`oldest` is the cursor from which on the log can be read."""

    status, title = HTTPStatus.GONE, "Events gone"

    def __init__(self, oldest: str) -> None:
        super().__init__(
            "Events after this cursor have been removed. Go on from `oldest`, and read what you have missed from the "
            "lists of messages and conversations."
        )
        self.members = {"oldest": oldest}


class EventNotFound(ServiceError):
    status, title = HTTPStatus.NOT_FOUND, "Event not found"


class WebhookEndpointNotFound(ServiceError):
    status, title = HTTPStatus.NOT_FOUND, "Webhook endpoint not found"


class TooManyWebhookEndpoints(ServiceError):
    status, title = HTTPStatus.CONFLICT, "Too many webhook endpoints"


class NoDemo(ServiceError):
    status, title = HTTPStatus.CONFLICT, "No demo here"


class NotErasable(ServiceError):
    status, title = HTTPStatus.CONFLICT, "Contact not erasable"


class SuppressionNotFound(ServiceError):
    status, title = HTTPStatus.NOT_FOUND, "Suppression not found"


class MessageNotFound(ServiceError):
    status, title = HTTPStatus.NOT_FOUND, "Message not found"


class HtmlNotFound(ServiceError):
    status, title = HTTPStatus.NOT_FOUND, "HTML not found"


class BatchNotFound(ServiceError):
    status, title = HTTPStatus.NOT_FOUND, "Batch not found"


class BatchCanceled(ServiceError):
    status, title = HTTPStatus.CONFLICT, "Batch canceled"


class MessageFileNotFound(ServiceError):
    status, title = HTTPStatus.NOT_FOUND, "File not found"


class FileGone(ServiceError):
    status, title = HTTPStatus.GONE, "File gone"


class FilePending(ServiceError):
    """The file is still to be fetched from the vendor."""

    status, title, retry_after = HTTPStatus.SERVICE_UNAVAILABLE, "File pending", 5


class IdempotencyConflict(ServiceError):
    status, title = HTTPStatus.UNPROCESSABLE_ENTITY, "Idempotency key reused"


class NotCancelable(ServiceError):
    status, title = HTTPStatus.CONFLICT, "Message not cancelable"


class NotRetriable(ServiceError):
    status, title = HTTPStatus.CONFLICT, "Message not retriable"


class ProviderNotFound(ServiceError):
    status, title = HTTPStatus.NOT_FOUND, "Provider not found"


class WebhookCallNotFound(ServiceError):
    status, title = HTTPStatus.NOT_FOUND, "Webhook call not found"


class NotVerifiable(ServiceError):
    """A secret of ours is missing. The caller is not at fault, and should retry later."""

    status, title, retry_after = HTTPStatus.SERVICE_UNAVAILABLE, "Not verifiable", 60


class Overloaded(ServiceError):
    """The queue in front of the database is full; nothing was stored."""

    status, title, retry_after = HTTPStatus.SERVICE_UNAVAILABLE, "Overloaded", 1


class DatabaseUnavailable(ServiceError):
    """PostgreSQL is away, or did not answer in time."""

    status, title, retry_after = HTTPStatus.SERVICE_UNAVAILABLE, "Database unavailable", 2


class Stopping(ServiceError):
    """The process is about to stop, and should get no further requests."""

    status, title, retry_after = HTTPStatus.SERVICE_UNAVAILABLE, "Stopping", 1


class TooManyReaders(ServiceError):
    """As many readers of the event log wait in this process as may, or the process is being stopped."""

    status, title, retry_after = HTTPStatus.SERVICE_UNAVAILABLE, "Too many readers", 5


class FileStoreUnavailable(ServiceError):
    """The directory for files can't be written to."""

    status, title, retry_after = HTTPStatus.SERVICE_UNAVAILABLE, "File store unavailable", 60


class TooManyRequests(ServiceError):
    """A limit that lifts after `retry_after` seconds."""

    status, title = HTTPStatus.TOO_MANY_REQUESTS, "Too many requests"

    def __init__(self, detail: str, *, retry_after: int) -> None:
        super().__init__(detail)
        self.retry_after = retry_after


class TooManyFailures(TooManyRequests):
    title = "Too many failures"


class DailyCapReached(TooManyRequests):
    title = "Daily cap reached"


class ConfigurationError(Exception):
    """The service can't start as it is configured; the text says what to set."""
