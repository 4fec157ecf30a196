"""Every error a caller may see: a class with a status, rendered by one handler as problem+json (RFC 9457)."""

from collections.abc import Sequence
from dataclasses import dataclass
from http import HTTPStatus


@dataclass(frozen=True, slots=True)
class FieldError:
    """What is wrong with one field; `location` reads like `body.from` or `query.limit`. Never holds the input."""

    location: str
    message: str


class ServiceError(Exception):
    """A deliberate error. The text is the `detail` of the answer, so it is written for the caller."""

    status: HTTPStatus = HTTPStatus.INTERNAL_SERVER_ERROR
    title: str = "Internal server error"
    retry_after: int | None = None  #: seconds

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


class BodyTooLarge(ServiceError):
    status, title = HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "Body too large"


class ConversationNotFound(ServiceError):
    status, title = HTTPStatus.NOT_FOUND, "Conversation not found"


class MessageNotFound(ServiceError):
    status, title = HTTPStatus.NOT_FOUND, "Message not found"


class IdempotencyConflict(ServiceError):
    status, title = HTTPStatus.UNPROCESSABLE_ENTITY, "Idempotency key reused"


class NotCancelable(ServiceError):
    status, title = HTTPStatus.CONFLICT, "Message not cancelable"


class NotRetriable(ServiceError):
    status, title = HTTPStatus.CONFLICT, "Message not retriable"


class ProviderNotFound(ServiceError):
    status, title = HTTPStatus.NOT_FOUND, "Provider not found"


class Overloaded(ServiceError):
    """The queue in front of the database is full; nothing was stored."""

    status, title, retry_after = HTTPStatus.SERVICE_UNAVAILABLE, "Overloaded", 1


class DatabaseUnavailable(ServiceError):
    """PostgreSQL is away, or did not answer in time."""

    status, title, retry_after = HTTPStatus.SERVICE_UNAVAILABLE, "Database unavailable", 2


class ConfigurationError(Exception):
    """The service can't start as it is configured; the text says what to set."""
