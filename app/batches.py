"""The words of batches and of priorities."""

from datetime import UTC, datetime
from enum import IntEnum, StrEnum


class Priority(IntEnum):
    """The lane of a message in the delivery queue; the lowest number leaves first."""

    HIGH = 0  #: a code, or an answer that a person waits for.
    NORMAL = 1
    BULK = 2  #: a mailing, which may wait for everything else.

    @property
    def word(self) -> str:
        """The name that clients use."""
        return self.name.lower()

    @classmethod
    def of(cls, word: str) -> "Priority":
        """The priority that clients call so."""
        return cls[word.upper()]


class BatchState(StrEnum):
    """The state of a batch, in which the messages that have not left wait, leave or end."""

    RUNNING = "running"  #: its messages leave.
    PAUSED = "paused"  #: its messages wait.
    RESUMING = "resuming"  #: its messages leave again; some may still be held.
    CANCELING = "canceling"  #: its messages are canceled; some may still have to be.
    CANCELED = "canceled"  #: it has no message that waits.


#: The states in which the messages of a batch do not leave.
HOLDING = (BatchState.PAUSED, BatchState.CANCELING, BatchState.CANCELED)
#: The `due_at` of a message that its paused batch holds. Nothing is scheduled for so late.
HELD = datetime(2100, 1, 1, tzinfo=UTC)
