"""The people of an inbound mail, by its headers: its contact, where an answer goes, and whom it was sent to first.

Contact forms, groups and mailing lists write their own address into From and name the person elsewhere. A mail
server that forwards notes the address that it forwards for.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from app.providers.base import Proof
from app.providers.mail.mime.headers import Headers
from app.providers.mail.mime.mailboxes import Mailbox, authors_of, mailboxes

#: The most addresses kept of one kind.
MOST_ADDRESSES = 100
#: The most addresses of one kind that are looked up.
_MOST_CLAIMS = 10
_LONGEST_ADDRESS = 320
_MOST_LABELS = 20

#: Headers that name the person where From is an address of a form, a group or a list. The last is of RFC 9057.
_INSTEAD = ("reply-to", "x-original-from", "x-original-sender", "author")
#: Headers of mail servers that forward. Those above were added later.
_FORWARDED = (
    "delivered-to",
    "x-delivered-to",
    "x-original-to",
    "envelope-to",
    "x-envelope-to",
    "x-forwarded-for",
    "x-forwarded-to",
    "resent-from",
)
#: Domains of vendors, whose addresses are not written to: mail for them was forwarded, unless To names them.
_TECHNICAL = re.compile(r"inbound\.postmarkapp\.com|sandbox[0-9a-f]+\.mailgun\.org")
#: Domains of the public, where an equal domain says nothing about two addresses.
_PUBLIC = re.compile(
    r"(126|163|aol|bluewin|freenet|gmail|gmx|googlemail|hotmail|icloud|laposte|libero|live|msn|naver|outlook|proton"
    r"|protonmail|qq|rediffmail|seznam|sina|t-online|wanadoo|yahoo|yandex|ymail|zoho|zohomail)\.[a-z.]{2,6}"
    r"|(mac|mail|me|comcast|verizon)\.(com|net)|example\.(com|net|org)|(free|orange|sfr)\.fr|(mail|inbox|list|bk)\.ru"
    r"|web\.de|wp\.pl|uol\.com\.br"
)
#: Local parts of addresses that programs and groups of a company use, and no colleague.
_ROLE = re.compile(
    r"(?:.+[-._+])?(?:(?:no|do[-._]?not)[-._]?reply|wordpress|wp|www|php|cgi|apache|nobody|root|admin|server|system|bot"
    r"|web(?:site|master|shop|server)?|(?:web|contact|kontakt|order)?[-._]?(?:form(?:s|ular)|form|mail|mailer|us)"
    r"|contact[eo]?|contatto|contato|kontakt|anfragen?|info|hello|hallo|office|support|help|helpdesk|service|sales"
    r"|shop|store|orders?|enquir(?:y|ies)|inquir(?:y|ies)|feedback|team|noti(?:fy|ce|fications?)|alerts?|auto|app|site"
    r"|leads?|list|newsletter)(?:[-._+\d].*)?"
)
#: Headers that the mailers of web pages and groups write, with the beginnings of values that tell in lower case.
_OF_PROGRAMS: dict[str, str | tuple[str, ...]] = {
    "x-php-originating-script": "",
    "x-php-script": "",
    "x-wpcf7-content-type": "",
    "x-mailer": ("phpmailer", "php/", "drupal", "wp mail", "laminas", "joomla", "swift", "symfony"),
    "auto-submitted": "auto-",
    "x-original-from": "",
    "x-original-sender": "",
    "x-google-group-id": "",
    "list-id": "",
    "list-post": "",
}
_LIST = ("list-id", "list-post", "mailing-list", "x-google-group-id")
_NAME_BY_GROUP = re.compile(r"'?(.+?)'? via .+")


@dataclass(frozen=True, slots=True)
class People:
    """The people of a mail.

    `senders` begin with the contact, as far as the headers tell. `sent_to` is as in `MailClaims`, for each recipient.
    `is_passed_on` is true for a person's words that came through a form or a group of the recipient's own.
    """

    senders: Sequence[Mailbox]
    reply_to: Sequence[str]
    cc: Sequence[str]
    sent_to: dict[str, list[tuple[str, Proof]]]
    is_passed_on: bool


def people_of(headers: Headers, recipients: Sequence[str], envelope_sender: str) -> People:
    """The people of a mail to the recipients of an envelope."""
    named = _mailboxes_by_header(headers)

    def in_headers(*names: str) -> list[Mailbox]:
        return [mailbox for name in names for mailbox in named.get(name, ())]

    to, cc, reply_to = (_different(in_headers(name)) for name in ("to", "cc", "reply-to"))
    sent_to = _sent_to(recipients, written=[*to, *cc], forwarded=list(_forwarders(headers)))
    own = _Own([*recipients, *(each for found in sent_to.values() for each, proof in found if proof is Proof.DOMAIN)])
    is_list = any(name.lower() in _LIST for name, _ in headers)
    is_by_program = any(_says_program(name.lower(), value) for name, value in headers)
    written_to = {each.address.lower() for each in [*to, *cc]}

    def rank(mailbox: Mailbox) -> int:
        """Lower for an address that is less likely to be the recipient's own.

        One that is only of the same domain may be a colleague's, unless a program or a group uses it.
        """
        address = mailbox.address.lower()
        if address in own.addresses:
            return 2
        is_ours = is_by_program or address in written_to or _ROLE.fullmatch(address.partition("@")[0]) is not None
        return int(own.has(address) and is_ours)

    sent_by = [*in_headers("sender"), *_usable(mailboxes(envelope_sender))]
    who_sent = {each.address.lower() for each in sent_by}
    # Of several authors, the one who also sent the mail is the likelier (RFC 5322, 3.6.2).
    written_by = sorted(in_headers("from"), key=lambda each: each.address.lower() not in who_sent)
    authors = (written_by or sent_by)[:_MOST_CLAIMS]
    others = in_headers(*_INSTEAD)[:_MOST_CLAIMS] if authors else []
    senders = sorted(_different([*authors, *others]), key=rank)
    is_own_list = any(own.has(place) for place in _places_of_list(headers))
    is_instead = bool(authors) and senders[0].address != authors[0].address
    return People(
        senders=_with_names(senders, authors),
        reply_to=[each.address for each in reply_to[:MOST_ADDRESSES]],
        cc=[each.address for each in cc[:MOST_ADDRESSES]],
        sent_to=sent_to,
        is_passed_on=is_own_list or (is_instead and not is_list),
    )


class _Own:
    """The recipient's own addresses and domains, as far as the envelope and the forwarding servers tell."""

    def __init__(self, addresses: Iterable[str]) -> None:
        self.addresses = {address.lower() for address in addresses}
        domains = {_domain_of(address) for address in self.addresses}
        self._domains = {each for each in domains if not (_PUBLIC.fullmatch(each) or _TECHNICAL.fullmatch(each))}
        self._above = {above for domain in self._domains for above in _upwards(domain)}

    def has(self, address: str) -> bool:
        """True for an address of one of the domains, or of one above or below it."""
        domain = _domain_of(address)
        return domain in self._above or any(above in self._domains for above in _upwards(domain))


def _sent_to(
    recipients: Sequence[str], *, written: Iterable[Mailbox], forwarded: Iterable[str]
) -> dict[str, list[tuple[str, Proof]]]:
    """For each recipient the addresses that the mail was sent to first, the likeliest first, as in `MailClaims`.

    None for one that To or Cc names. A blind copy is not forwarded, so To alone counts only for a vendor's address.
    """
    to = {each.address.lower(): each.address for each in written}
    through = {each.lower(): each for each in forwarded}
    received = {each.lower() for each in recipients}
    passed = [each for each in to if each in through] + [each for each in through if each not in to]
    passed = [each for each in passed if each not in received][:_MOST_CLAIMS]
    alone = [each for each in to if each not in through and each not in received][:_MOST_CLAIMS]

    def first_of(recipient: str) -> list[tuple[str, Proof]]:
        if recipient.lower() in to:
            return []
        domain = _domain_of(recipient)
        is_technical = _TECHNICAL.fullmatch(domain) is not None

        def proof_of(candidate: str) -> Proof:
            if candidate not in through:
                return Proof.NONE if passed or len(alone) > 1 else Proof.DOMAIN
            if is_technical or _domain_of(candidate) in _upwards(domain):
                return Proof.DOMAIN
            return Proof.HEADERS if candidate in to else Proof.NONE

        candidates = passed + alone if is_technical else passed
        return [(to.get(each) or through[each], proof_of(each)) for each in candidates]

    return {recipient: first_of(recipient) for recipient in recipients}


def _forwarders(headers: Headers) -> Iterator[str]:
    """The addresses in the headers of forwarding servers, the earliest first."""
    for name, value in reversed(headers):
        if name.lower() in _FORWARDED:
            # X-Forwarded-For has its addresses with blanks between them.
            value = ", ".join(value.split()) if name.lower() == "x-forwarded-for" else value
            yield from (each.address for each in _usable(mailboxes(value)))


def _places_of_list(headers: Headers) -> Iterator[str]:
    """The list's id (RFC 2919) and its address (RFC 2369), each as an address."""
    for name, value in headers:
        if name.lower() == "list-id":
            yield "@" + value.rpartition("<")[2].partition(">")[0].strip()[:_LONGEST_ADDRESS]
        elif name.lower() == "list-post":
            yield from (each.address for each in mailboxes(value))


def _mailboxes_by_header(headers: Headers) -> dict[str, list[Mailbox]]:
    """The mailboxes of each header that names people, by its name in lower case."""
    wanted = {"from", "sender", "to", "cc", *_INSTEAD}
    found: dict[str, list[Mailbox]] = {}
    for name, value in headers:
        if (known := name.lower()) in wanted:
            written = authors_of(value) if known == "from" else mailboxes(value)
            found.setdefault(known, []).extend(_usable(written))
    return found


def _usable(found: Iterable[Mailbox]) -> Iterator[Mailbox]:
    """Those that can be stored whole. The beginning of a longer address could be another one."""
    return (each for each in found if len(each.address) <= _LONGEST_ADDRESS)


def _says_program(name: str, value: str) -> bool:
    return name in _OF_PROGRAMS and value.strip().lower().startswith(_OF_PROGRAMS[name])


def _different(found: Iterable[Mailbox]) -> list[Mailbox]:
    """The first mailbox of each address, compared without regard to case."""
    first: dict[str, Mailbox] = {}
    for mailbox in found:
        first.setdefault(mailbox.address.lower(), mailbox)
    return list(first.values())


def _with_names(senders: list[Mailbox], authors: list[Mailbox]) -> list[Mailbox]:
    """The same, where a group's `'Jane' via Web` in From names a person whose address stands elsewhere."""
    by_group = _NAME_BY_GROUP.fullmatch(authors[0].name) if authors else None
    if by_group is None or senders[0].name or senders[0].address == authors[0].address:
        return senders
    return [Mailbox(by_group[1], senders[0].address), *senders[1:]]


def _domain_of(address: str) -> str:
    return address.rpartition("@")[2].lower().rstrip(".")


def _upwards(domain: str) -> list[str]:
    """A domain and those above it, without the topmost."""
    labels = domain.split(".")[-_MOST_LABELS:]
    return [".".join(labels[place:]) for place in range(max(len(labels) - 1, 1))]
