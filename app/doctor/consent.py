"""Checks of consent: refusals that can be found, and mails that can be left."""

from collections.abc import Iterator

from sqlalchemy import Connection, text

from app.config import Settings
from app.doctor.findings import DatabaseCheck, Finding, counted, ok, problem, warning
from app.services.consent.hashes import AddressHashes

_HASHED = text("SELECT address FROM suppressions WHERE is_hashed")
#: Mails with a topic among the latest messages.
_WITH_TOPIC = text(
    "SELECT count(*) FROM (SELECT channel, topic FROM messages ORDER BY id DESC LIMIT 10000) AS latest"
    " WHERE channel = 'email' AND topic IS NOT NULL"
)


def consent(settings: Settings, connection: Connection) -> Iterator[Finding]:
    """The refusals of erased people can be found with the secrets of today, and mailings have a way to leave them."""
    names = tuple(f"{name}:" for name in AddressHashes(settings.consent_secrets).names)
    hashed = [address for (address,) in connection.execute(_HASHED)]
    lost = sum(not address.startswith(names) for address in hashed)
    if lost:
        said = f"{counted(lost, 'refusal')} of erased people can't be found: CONSENT_SECRET lacks the secret of then."
        yield problem(said, "Add the former secret to CONSENT_SECRET, after the present one and a comma.")
    mailings = connection.execute(_WITH_TOPIC).scalar_one()
    if mailings and settings.unsubscribe_url is None:
        said = "Mails with a topic are sent without a link to unsubscribe: PUBLIC_URL is not https."
        yield warning(said, "Set PUBLIC_URL to this service, with https. Gmail and Yahoo demand the link.")
    elif mailings:
        said = "Mails with a topic are sent. It can't be seen here if their DKIM signature covers List-Unsubscribe."
        yield warning(said, "See docs/providers.md, section DKIM, and send one to yourself.")
    if not lost and not mailings:
        yield ok(f"{counted(len(hashed), 'refusal')} of erased people" if hashed else "in order")


CHECKS: list[DatabaseCheck] = [consent]
