"""The files of messages as they are shown, in the order of the attachments."""

from sqlalchemy import ColumnElement, Text, case, cast, func, literal, null, select
from sqlalchemy.dialects.postgresql import aggregate_order_by

from app.db.models import File, Message
from app.db.statements.batches import TENANT
from app.db.statements.json_text import constant, json_object
from app.files import FileStatus

#: The length of `/api/files/`, from 1, and that of an id.
_ID_BEGINS, _ID_LENGTH = 12, 64
_attached = (
    func.jsonb_array_elements_text(Message.attachments)
    .table_valued("path", with_ordinality="position", name="attached")
    .render_derived()
)
_path: ColumnElement[str] = cast(_attached.c.path, Text())
_each = json_object(
    {
        "path": _path,
        "name": File.name,
        "content_type": File.content_type,
        "size": case((File.status == constant(FileStatus.STORED.value), File.size), else_=null()),
        "status": File.status,
        "reason": File.reason,
    }
)
_in_order = func.string_agg(_each, aggregate_order_by(constant(","), _attached.c.position))
_found = (
    select(func.concat(constant("["), _in_order, constant("]")))
    .where(
        File.tenant_id == TENANT,
        File.id == func.substr(_path, _ID_BEGINS, _ID_LENGTH),
        func.starts_with(_path, literal("/api/files/")),
    )
    .correlate(Message)
    .scalar_subquery()
)
#: The JSON of the files of a message, a list, or null for a message without any. Only messages with an
#: attachment of ours cost a look-up.
FILES_OF_MESSAGE: ColumnElement[str] = case(
    (cast(Message.attachments, Text()).like(literal('%"/api/files/%')), func.nullif(_found, constant("[]"))),
    else_=null(),
)
