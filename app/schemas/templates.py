"""Templates as their vendor has them."""

from pydantic import BaseModel, Field


class TemplateView(BaseModel):
    """A template in one language. The names of its places are numbers from 1 on, if the vendor names none."""

    channel: str = Field(examples=["whatsapp"])
    name: str
    language: str
    status: str = Field(description="The vendor's word.", examples=["APPROVED"])
    category: str = Field(examples=["utility"])
    body: str
    header: str | None = Field(description="`text`, or the kind of file that the message attaches.")
    header_parameters: list[str]
    parameters: list[str] = Field(description="The places in the body.", examples=[["1", "2"]])
    buttons: dict[str, str] = Field(description="The buttons that have a value, by their place, with their kind.")
