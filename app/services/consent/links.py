"""Links by which the reader of a mail unsubscribes from its topic (RFC 2369, RFC 8058).

A link needs no row. Its token holds all that the refusal needs, encrypted and authenticated by AES-GCM. So it has no
end, and outlives its message. The key comes from `CONSENT_SECRET`. During a rotation the first secret seals, and all
of them open.
"""

from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from os import urandom
from typing import Any, Self
from urllib.parse import quote

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from sqlalchemy.ext.asyncio import AsyncConnection

from app.addresses import sender_address
from app.config import Settings
from app.consent import BOUNCES, ConsentScope, ConsentSource
from app.domain import Channel
from app.services.consent.hashes import AddressHashes
from app.services.consent.ledger import Said, refusals_of, revoke

_NONCE_BYTES = 12
#: Characters of a link in a header, whose lines have 998 at most (RFC 5322, 2.1.1). Only long addresses exceed it.
_LONGEST_LINK = 900


@dataclass(frozen=True, slots=True)
class Subscription:
    """A topic that an address gets mail of, and the message that the link is in.

    The address is normalised. `accepted_at` is aware UTC, in whole seconds once it was sealed.
    """

    tenant_id: int
    message_id: int
    accepted_at: datetime
    address_type: str
    address: str
    topic: str


class UnsubscribeLinks:
    """Makes tokens and headers, and opens tokens.

    `url` is what stands before a token in a link; None for links by mail only.
    """

    def __init__(self, secrets: Sequence[str], url: str | None) -> None:
        self._ciphers = [AESGCM(_key_of(secret)) for secret in secrets]
        self._url = url

    @classmethod
    def of(cls, settings: Settings) -> Self:
        return cls(settings.consent_secrets, settings.unsubscribe_url)

    def token_of(self, subscription: Subscription) -> str:
        """A token for a link, in the characters of base64url; no two are equal."""
        facts = (
            f"{subscription.tenant_id:x}",
            f"{subscription.message_id:x}",
            f"{int(subscription.accepted_at.timestamp()):x}",
            subscription.address_type,
            subscription.address,
            subscription.topic,
        )
        nonce = urandom(_NONCE_BYTES)
        return _text(nonce + self._ciphers[0].encrypt(nonce, "\n".join(facts).encode(), None))

    def opened(self, token: str) -> Subscription | None:
        """The subscription in a token; None for a text that is not exactly one of our tokens."""
        try:
            sealed = urlsafe_b64decode(token + "=" * (-len(token) % 4))
        except ValueError:
            return None
        if _text(sealed) != token or len(sealed) <= _NONCE_BYTES:
            return None
        for cipher in self._ciphers:
            try:
                facts = cipher.decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], None)
            except InvalidTag:
                continue
            tenant_id, message_id, seconds, address_type, address, topic = facts.decode().split("\n", 5)
            accepted_at = datetime.fromtimestamp(int(seconds, 16), UTC)
            return Subscription(int(tenant_id, 16), int(message_id, 16), accepted_at, address_type, address, topic)
        return None

    def headers_of(self, subscription: Subscription, sender: str) -> dict[str, str]:
        """The headers of a mail from `sender`, each on one line.

        Without a URL there is only the link by mail, and no `List-Unsubscribe-Post`, which promises a page.
        """
        token = self.token_of(subscription)
        page = f"<{self._url}{token}>" if self._url else ""
        mail = f"<mailto:{quote(sender, safe='@')}?subject=unsubscribe%20{token}>"
        links = [link for link in (page, mail) if 0 < len(link) <= _LONGEST_LINK]
        headers = {"List-Unsubscribe": ", ".join(links)} if links else {}
        return headers | ({"List-Unsubscribe-Post": "List-Unsubscribe=One-Click"} if page in links else {})

    def headers_for(self, tenant_id: int, message: Any, sent_to: str | None) -> dict[str, str]:
        """The headers for a claimed message; empty unless it is a mail of a topic.

        The link is for the address that the mail goes to: `sent_to`, if it goes elsewhere than the message says.
        """
        if message.topic is None or message.channel != Channel.EMAIL:
            return {}
        to = sender_address(sent_to or message.to_address, region="US", is_mail=True)
        subscription = Subscription(tenant_id, message.id, message.created_at, to.type, to.value, message.topic)
        return self.headers_of(subscription, message.from_address)


async def unsubscribe(
    connection: AsyncConnection,
    subscription: Subscription,
    hashes: AddressHashes,
    source: ConsentSource,
    *,
    from_everything: bool = False,
    message_id: int | None = None,
    detail: str | None = None,
) -> bool:
    """Revoke consent for the topic, or for everything; False if the same refusal holds already.

    It also holds already for a person who refused and was erased since: the address is not stored again.
    """
    scope, value = (ConsentScope.EVERYTHING, "") if from_everything else (ConsentScope.TOPIC, subscription.topic)
    tenant_id, address = subscription.tenant_id, subscription.address
    for known in await refusals_of(connection, tenant_id, hashes.of(tenant_id, address)):
        covers = known.scope is ConsentScope.EVERYTHING or (known.scope, known.scope_value) == (scope, value)
        if covers and known.source not in BOUNCES:
            return False
    said = Said(address, subscription.address_type, source, scope, value, message_id=message_id, detail=detail)
    [entry] = await revoke(connection, tenant_id, [said])
    return entry is not None


def _key_of(secret: str) -> bytes:
    return HKDF(SHA256(), length=32, salt=None, info=b"unsubscribe links").derive(secret.encode())


def _text(content: bytes) -> str:
    return urlsafe_b64encode(content).decode().rstrip("=")
