"""Files that clients upload."""

from pydantic import Field

from app.schemas.views import View


class UploadedFileView(View):
    """A file that was uploaded."""

    id: str
    path: str = Field(description="For the `attachments` of messages.")
    name: str
    content_type: str
    size: int = Field(description="In bytes.")
