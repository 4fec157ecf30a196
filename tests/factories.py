"""Requests as clients and providers write them; a test names only what it is about."""

from collections.abc import Callable
from typing import Any

#: The two ends of all messages here, unless a test names others.
CUSTOMER, CONTACT = "+12016661234", "+18045551234"
CUSTOMER_EMAIL, CONTACT_EMAIL = "user@example.com", "contact@example.com"
WRITTEN_AT = "2024-11-01T14:00:00Z"


def sms(**changes: object) -> dict[str, Any]:
    """What a client posts to send a text; `from_` stands for `from`, which Python keeps for itself."""
    return _changed(
        {
            "from": CUSTOMER,
            "to": CONTACT,
            "type": "sms",
            "body": "Hello!",
            "attachments": None,
            "timestamp": WRITTEN_AT,
        },
        changes,
    )


def email(**changes: object) -> dict[str, Any]:
    """What a client posts to send a mail."""
    return _changed(
        {
            "from": CUSTOMER_EMAIL,
            "to": CONTACT_EMAIL,
            "body": "<p>Hello!</p>",
            "attachments": None,
            "timestamp": WRITTEN_AT,
        },
        changes,
    )


def sms_webhook(**changes: object) -> dict[str, Any]:
    """What a provider posts when a text has come in."""
    return _changed(
        {
            "from": CONTACT,
            "to": CUSTOMER,
            "type": "sms",
            "messaging_provider_id": "message-1",
            "body": "text",
            "attachments": None,
            "timestamp": WRITTEN_AT,
        },
        changes,
    )


def email_webhook(**changes: object) -> dict[str, Any]:
    """What a provider posts when a mail has come in."""
    return _changed(
        {
            "from": CONTACT_EMAIL,
            "to": CUSTOMER_EMAIL,
            "xillio_id": "message-2",
            "body": "<p>text</p>",
            "attachments": None,
            "timestamp": WRITTEN_AT,
        },
        changes,
    )


def _changed(request: dict[str, Any], changes: dict[str, object]) -> dict[str, Any]:
    return request | {name.removesuffix("_"): value for name, value in changes.items()}


Factory = Callable[..., dict[str, Any]]
SENDS: dict[str, Factory] = {"/api/messages/sms": sms, "/api/messages/email": email}
WEBHOOKS: dict[str, Factory] = {"/api/webhooks/sms": sms_webhook, "/api/webhooks/email": email_webhook}
#: Every route that takes a body, and what it takes.
POSTS = SENDS | WEBHOOKS
