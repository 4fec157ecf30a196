"""A reply in a conversation."""

from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from pydantic.config import JsonDict

from app.schemas.fields import SHOWN_TEXT, Attachments, Subject, Timestamp, Words, without_nul

_EXAMPLE: JsonDict = {"body": "Yes, we are open until six."}


class Reply(BaseModel):
    """A message to the other end of a conversation: what a send on its channel takes, without both ends.

    The fields are checked as those of a send. Further ones of a send, such as `cc` or `template`, are taken as well.
    """

    model_config = ConfigDict(extra="allow", json_schema_extra={"examples": [_EXAMPLE]})
    channel: (
        Annotated[str, Field(max_length=63, json_schema_extra=SHOWN_TEXT), AfterValidator(without_nul)] | None
    ) = Field(None, description="A channel of the conversation; left out, that of the last inbound message.")
    to: Words | None = Field(None, description="Another address of the person, in place of that of the last message.")
    subject: Subject | None = Field(None, description="Of a mail; left out, `Re:` and the last one.")
    body: Words | None = None
    attachments: Attachments = Field([], description="URLs, and paths of files that were uploaded here.")
    send_at: Timestamp | None = Field(None, description="When it is to leave, at most a year ahead.")

    def fields(self) -> dict[str, Any]:
        """The fields of a send that are given."""
        return self.model_dump(mode="json", exclude={"channel"}, exclude_unset=True, exclude_none=True)
