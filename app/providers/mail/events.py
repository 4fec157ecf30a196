"""The meaning of mail vendors' events: as sentences for the timeline, and for the recipient's consent."""

import re
from enum import StrEnum

from app.consent import ReportedConsent


class Notice(StrEnum):
    """An event that changes no status. Its value begins the detail of the receipt."""

    COMPLAINT = "The recipient reported it as spam"
    MACHINE_OPEN = "A program opened it, which is no sign that a person read it"
    CLICK = "A link in it was opened"
    DELAY = "It could not be delivered yet, and is tried again"
    SOFT_BOUNCE = "It bounced for a reason that may pass, and is not tried again"
    BOUNCE_OR_REPLY = "It bounced for a reason that may pass, or an out-of-office notice came back"
    UNCLEAR_BOUNCE = "Something came back that does not say whether it arrived"
    AUTOMATIC_REPLY = "An automatic reply came back, such as an out-of-office notice"
    CHALLENGE = "The recipient's server asks the sender to confirm that a person wrote it"
    UNSUBSCRIBED = "The recipient wants no further mail"
    SUBSCRIBED = "The recipient wants mail again"
    HANDED_ON = "It was handed on to a server that reports nothing"
    DELETED = "It was deleted, perhaps unread"
    PROCESSED = "The recipient's program tells what it did with it, which is no sign that a person read it"
    NO_SPAM = "The recipient reported that it is no spam"
    UNVERIFIED = "A server could not verify its sender"
    VIRUS = "A server reported a virus in it"

    def with_words_of(self, vendor: str | None) -> str:
        """The sentence, followed by the vendor's or the server's own words."""
        return f"{self}: {vendor}" if vendor else self.value


#: The meaning for consent of the notices that have one.
CONSENT_OF = {
    Notice.COMPLAINT: ReportedConsent.COMPLAINT,
    Notice.UNSUBSCRIBED: ReportedConsent.UNSUBSCRIBED,
    Notice.SUBSCRIBED: ReportedConsent.SUBSCRIBED,
}
#: By the type of a complaint (RFC 5965). All others are complaints of a person.
_FEEDBACK = {
    "not-spam": Notice.NO_SPAM,
    "opt-out": Notice.UNSUBSCRIBED,
    "auth-failure": Notice.UNVERIFIED,
    "virus": Notice.VIRUS,
}


def notice_of_feedback(kind: str | None) -> Notice:
    """The meaning of a complaint of this type."""
    return _FEEDBACK.get((kind or "").lower(), Notice.COMPLAINT)


_HARD, _SOFT = ReportedConsent.HARD_BOUNCE, ReportedConsent.SOFT_BOUNCE
_CODE = re.compile(r"(?<![\d.])([45])\.(\d{1,3})\.(\d{1,3})(?!\.?\d)")  # RFC 3463
_FULL = re.compile(
    r"over ?quota|quota exceeded|exceeded (?:his|her|its|their) quota|mailbox (?:is )?full|out of storage"
    r"|insufficient (?:system )?storage",
    re.IGNORECASE,
)
_UNKNOWN = re.compile(
    r"user unknown|unknown user|no such (?:user|mailbox|recipient|person|address)|no mailbox here"
    r"|(?:user|mailbox|recipient|account|address)[\w' ]{0,40}(?:not exist|n't exist|not found|is disabled|unknown)"
    r"|invalid (?:recipient|mailbox)|unrouteable address|(?:domain|host)[\w' ]{0,20} not (?:exist|found)",
    re.IGNORECASE,
)
#: Refusals of the content, of the sender, or of too many mails.
_POLICY = re.compile(
    r"spam|block|black ?list|deny ?list|polic(?:y|ies)|reputation|dmarc|\bspf\b|dkim|authenticat|virus|malware"
    r"|content|\brate\b|too many|relay|gr[ea]ylist|\brbl\b|dnsbl|suspicious|too (?:large|big)|size",
    re.IGNORECASE,
)


def consent_of_bounce(words: str | None, verdict: ReportedConsent | None) -> ReportedConsent | None:
    """The meaning of a bounce for its address, by the words of the server that refused the mail.

    `verdict` is the vendor's, which counts where the words tell nothing. A refusal of the content or of the sender
    says nothing about the address, even if the vendor calls it permanent. A soft bounce never becomes a hard one.
    """
    found = _by_words(words or "", verdict)
    return _SOFT if found is _HARD and verdict is _SOFT else found


def _by_words(words: str, verdict: ReportedConsent | None) -> ReportedConsent | None:
    code = _CODE.search(words)
    kind, subject, detail = (int(part) for part in code.groups()) if code else (0, 0, 0)
    if _FULL.search(words) or (subject, detail) in {(2, 2), (4, 7)}:  # a full mailbox, or tried for too long
        return _SOFT
    if subject == 1 and kind == 5:
        return None if detail in {7, 8} else _HARD  # those two are about the sender
    if subject == 6 or (subject, detail) in {(2, 3), (2, 4), (3, 4)}:  # the content, its size, a mailing list
        return None
    if _POLICY.search(words):
        return None
    if _UNKNOWN.search(words) or (kind, subject, detail) == (5, 2, 1):
        return _HARD
    if subject == 7:  # security and policy
        return None
    return _SOFT if kind == 4 and subject in {1, 2, 4} else verdict


#: Apple's Mail Privacy Protection loads the pictures of all mail, under this name alone
#: (https://help.socketlabs.com/docs/identifying-apple-mpp-opens-in-notification-api-events). Gmail's and Yahoo's
#: proxies load them when a person opens the mail, so they are not among the programs.
_APPLE = "Mozilla/5.0"
_PROGRAM = re.compile(
    r"(?<!cu)bot\b|crawler|spider|scanner|^(?:curl|wget|python-\w+|go-http-client|okhttp|java|libwww-perl)\b",
    re.IGNORECASE,  # and Cubot makes telephones
)


def is_program(user_agent: str | None) -> bool:
    """True for the User-Agent of an opening that no person has made, as far as it can be told."""
    return user_agent is not None and (user_agent.strip() == _APPLE or bool(_PROGRAM.search(user_agent[:1000])))
