"""The meaning of mail vendors' events that change no status, as sentences for the timeline."""

import re
from enum import StrEnum


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

    def with_words_of(self, vendor: str | None) -> str:
        """The sentence, followed by the vendor's or the server's own words."""
        return f"{self}: {vendor}" if vendor else self.value


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
