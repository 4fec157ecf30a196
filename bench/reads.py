"""The measured reads, by name."""

from collections.abc import Mapping

READS: Mapping[str, str] = {
    "conversations": "/api/conversations?limit=50",
    "page": "/api/conversations/1/messages?limit=50",
    "message": "/api/messages/1",
}
TITLES: Mapping[str, str] = {
    "conversations": "50 conversations",
    "page": "a page of 50 messages",
    "message": "one message",
}
#: Suffix of a read's name for the same answer from memory.
FROM_MEMORY = "-memory"
#: Messages in each conversation.
MESSAGES_EACH = 50
