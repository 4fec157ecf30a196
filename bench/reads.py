"""The reads that are measured, by name."""

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
#: Appended to a read's name: the same answer, given from memory.
FROM_MEMORY = "-memory"
#: Messages that each conversation holds.
MESSAGES_EACH = 50
