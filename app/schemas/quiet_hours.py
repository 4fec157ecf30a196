"""Quiet hours: the span of a day in which messages wait."""

from datetime import time
from typing import Annotated, Self
from zoneinfo import ZoneInfo

from pydantic import AfterValidator, BaseModel, Field, model_validator

from app.schemas.fields import Topic

_CLOCK = r"^([01][0-9]|2[0-3]):[0-5][0-9]$"


def _zone(name: str) -> str:
    try:
        ZoneInfo(name)
    except (ValueError, OSError, KeyError):
        raise ValueError("not a time zone; write its IANA name, such as Europe/Berlin") from None
    return name


Clock = Annotated[str, Field(pattern=_CLOCK)]
TimeZone = Annotated[str, Field(max_length=64, pattern=r"^[A-Za-z0-9_+/-]+$"), AfterValidator(_zone)]


class QuietHoursView(BaseModel):
    """A span of the day, by the time of the recipients. It may pass midnight."""

    topic: Topic | None = Field(
        None, description="Only for messages of this topic, in place of the span without one.", examples=["offers"]
    )
    begins: Clock = Field(examples=["21:00"])
    ends: Clock = Field(examples=["08:00"])
    time_zone: TimeZone = Field(
        description="For recipients whose own zone is not certain, such as those of mail.", examples=["Europe/Berlin"]
    )

    @model_validator(mode="after")
    def _leaves_time(self) -> Self:
        if self.begins == self.ends:
            raise ValueError("quiet hours can't end when they begin")
        return self

    @property
    def times(self) -> tuple[time, time]:
        return time.fromisoformat(self.begins), time.fromisoformat(self.ends)
