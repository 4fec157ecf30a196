"""The HTML form of a mail, as it was sent or received."""

from sqlalchemy import BigInteger, bindparam, select
from sqlalchemy.ext.asyncio import AsyncSession

from app.db.models import Message
from app.db.statements.batches import TENANT
from app.domain import Channel
from app.errors import HtmlNotFound, MessageNotFound
from app.providers.mail.html_source import looks_like_html

_READ = select(Message.channel, Message.body, Message.html).where(
    Message.tenant_id == TENANT, Message.id == bindparam("message", type_=BigInteger())
)


async def load_mail_html(session: AsyncSession, tenant_id: int, message_id: int) -> str:
    """The HTML of a mail: its own form, or its body where that is HTML.

    Raises `MessageNotFound`, and `HtmlNotFound`.
    """
    found = (await session.execute(_READ, {"tenant": tenant_id, "message": message_id})).one_or_none()
    if found is None:
        raise MessageNotFound("There is no message with this id.")
    if found.html:
        return str(found.html)
    if found.html is None and found.channel == Channel.EMAIL and looks_like_html(found.body):
        return str(found.body)
    raise HtmlNotFound("This message has no HTML.")
