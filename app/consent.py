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


class ReportedConsent(StrEnum):
    """The meaning of a provider's report, or of its refusal to send, for the recipient's consent."""

    COMPLAINT = "complaint"  #: the recipient marked a mail as spam.
    HARD_BOUNCE = "hard_bounce"  #: the address does not work.
    SOFT_BOUNCE = "soft_bounce"  #: the mailbox did not take a mail this time; only several in a row count.
    UNSUBSCRIBED = "unsubscribed"  #: the recipient wants no more mail.
    SUBSCRIBED = "subscribed"  #: the recipient wants mail again.
    LEFT_GROUP = "left_group"  #: the recipient wants no more mail of one kind, such as a list of the vendor's.
    JOINED_GROUP = "joined_group"  #: the recipient wants mail of that kind again.
    OPTED_OUT = "opted_out"  #: the provider sends nothing to the recipient, because of an earlier refusal.
    NO_MARKETING = "no_marketing"  #: the same for advertisements.
    OPTED_IN = "opted_in"  #: the provider sends to the recipient again.


class LineStatus(StrEnum):
    """The result of a line of a list of refusals."""

    ADDED = "added"
    HELD = "held"  #: the same refusal was there already.
    REFUSED = "refused"  #: it can't be read, or is not valid.


#: Sources that say nothing about the person's will: the address did not work.
BOUNCES = (ConsentSource.HARD_BOUNCE, ConsentSource.SOFT_BOUNCES)
#: Sources by which the person spoke: such a refusal is lifted by hand only with evidence.
SAID_BY_PERSON = (
    ConsentSource.KEYWORD,
    ConsentSource.VENDOR,
    ConsentSource.UNSUBSCRIBE_LINK,
    ConsentSource.MAIL,
    ConsentSource.COMPLAINT,
)
