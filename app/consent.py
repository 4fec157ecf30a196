"""The vocabulary of consent. It imports nothing of ours."""

from enum import StrEnum


class ConsentAction(StrEnum):
    """The action that a consent entry records."""

    GRANTED = "granted"
    REVOKED = "revoked"


class ConsentScope(StrEnum):
    """The messages to an address that a consent entry is about."""

    EVERYTHING = "everything"
    CHANNEL = "channel"  #: those on one channel
    SENDER = "sender"  #: those from one address
    TOPIC = "topic"  #: those of one topic, such as `newsletter`


class ConsentSource(StrEnum):
    """The way in which consent was given or revoked."""

    KEYWORD = "keyword"  #: a text such as STOP.
    VENDOR = "vendor"  #: the vendor has handled a keyword itself, or refuses to send for it.
    UNSUBSCRIBE_LINK = "unsubscribe_link"  #: the link or the one-click header of a mail.
    MAIL = "mail"  #: a mail that asks for it, or the vendor's unsubscribe event.
    COMPLAINT = "complaint"  #: a mail was marked as spam.
    HARD_BOUNCE = "hard_bounce"  #: a mail bounced permanently.
    SOFT_BOUNCES = "soft_bounces"  #: mails bounced again and again.
    API = "api"
    IMPORT = "import"


#: Sources that say nothing about the person's will: the address did not work.
BOUNCES = (ConsentSource.HARD_BOUNCE, ConsentSource.SOFT_BOUNCES)
