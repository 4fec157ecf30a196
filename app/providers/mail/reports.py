"""Mails about an earlier mail: it bounced (RFC 3464), was displayed (RFC 8098), or is unwanted (RFC 5965).

Bounces without such a report are read as well: those of qmail (https://cr.yp.to/proto/qsbmf.txt), of Exim, and texts
of other mail servers.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence

from app.consent import ReportedConsent
from app.details import Automatic
from app.domain import MessageStatus
from app.providers.base import InboundFile, MailReport
from app.providers.mail.events import CONSENT_OF, Notice, consent_of_bounce, notice_of_feedback
from app.providers.mail.mime.headers import MESSAGE_ID, Headers, header, one_line
from app.providers.mail.mime.parts import read_headers

Fields = Mapping[str, str]

_MOST_FILES = 50
_LONGEST_FIELDS = 64_000  # bytes
_LONGEST_TEXT = 20_000  # characters in which a bounce says what it is about
_LONGEST_DETAIL = 500
_MOST_NAMED = 20

_STATUS, _DISPOSITION, _FEEDBACK, _ORIGINAL = "status", "disposition", "feedback", "original"
_KINDS = {
    "message/delivery-status": _STATUS,
    "message/global-delivery-status": _STATUS,
    "message/disposition-notification": _DISPOSITION,
    "message/global-disposition-notification": _DISPOSITION,
    "message/feedback-report": _FEEDBACK,
    "message/rfc822": _ORIGINAL,
    "message/global": _ORIGINAL,
    "message/global-headers": _ORIGINAL,
    "text/rfc822-headers": _ORIGINAL,
}
#: A field that only one kind has, for a report's part whose type a vendor has not kept.
_TELLING = {
    _FEEDBACK: re.compile(rb"^feedback-type:", re.IGNORECASE | re.MULTILINE),
    _DISPOSITION: re.compile(rb"^disposition:", re.IGNORECASE | re.MULTILINE),
    _STATUS: re.compile(rb"^(?:final-recipient|reporting-mta):", re.IGNORECASE | re.MULTILINE),
    _ORIGINAL: re.compile(rb"^message-id:", re.IGNORECASE | re.MULTILINE),
}
_MARKS = {Automatic.BOUNCE, Automatic.DISPOSITION, Automatic.COMPLAINT}
_BLANK_LINE = re.compile(r"\n[ \t]*\n")
_FOLD = re.compile(r"\n[ \t]+")
_ADDRESS = re.compile(r'(?:"[^"\n]{1,64}"|[^\s<>:;,"()\[\]]{1,64})@[^\s<>:;,"()\[\]]{1,255}')
_XTEXT = re.compile(r"\+([0-9A-F]{2})")  # RFC 3461, 4
_HARD = ReportedConsent.HARD_BOUNCE
_ABOUT_MAILBOX = re.compile(r"\b55[013]\b")  #: the replies of SMTP for a mailbox that can't be used (RFC 5321, 4.2.3)
_CODE = re.compile(r"(?<![\d.])([245])\.\d{1,3}\.\d{1,3}(?!\.?\d)|\b([45])\d\d[ -]")  # RFC 3463, RFC 5321
_ID_IN_TEXT = re.compile(r"^[> \t]{0,9}message-id:[ \t]{0,9}(?:\n[ \t]{1,9})?(<[^<>\s]{1,900}>)", re.I | re.M)
_RENAMES = "amazonses.com"  #: SES replaces a Message-ID; ours is then the last in References.

_LATE = re.compile(
    r"\bdelayed\b|\bdelay in deliver|\bnot (?:yet been|been) delivered yet|\bnot yet been delivered"
    r"|\bwill (?:automatically )?(?:be retried|retry|try|keep trying|continue)|still trying|warning message only"
    r"|verzögert|retardé|retrasad",
    re.IGNORECASE,
)
_FAILED = re.compile(
    r"undeliver|\bnot be delivered|n't be delivered|able to deliver|\bfail(?:ed|ure)|giv(?:en|ing) up|returned"
    r"|permanent|rejected|refused|unknown user|user unknown|no such user|unzustellbar|nicht zugestellt|échec"
    r"|non (?:remis|distribu|consegnat)|no (?:se (?:ha )?pud|entregad)|não (?:pôde|foi) (?:ser )?entreg"
    r"|onbestelbaar|配信不能|配信できません",
    re.IGNORECASE,
)


def report_of(
    headers: Headers, text: str, files: Sequence[InboundFile], automatic: Automatic | None
) -> MailReport | None:
    """The report in a mail with these headers, whole text, files and mark; None if the mail is no report.

    Of several recipients, the one that the earlier mail was written to counts, or else the first that failed.
    """
    media_type = header(headers, "content-type").partition(";")[0].strip().lower()
    is_report = automatic in _MARKS or media_type == "multipart/report"
    if not is_report and media_type:  # a person may pass on a report, with its parts among the files
        return None
    parts = _parts(files, is_report=is_report)
    original = read_headers(parts[_ORIGINAL]) if _ORIGINAL in parts else []
    consent = None
    if _FEEDBACK in parts or automatic is Automatic.COMPLAINT:
        fields = _merged(_groups(parts.get(_FEEDBACK, b"")))
        kind, status = Automatic.COMPLAINT, None
        detail, consent = _complaint(fields)
    elif _DISPOSITION in parts:
        fields = _merged(_groups(parts[_DISPOSITION]))
        kind, (status, detail) = Automatic.DISPOSITION, _disposition(fields.get("disposition", ""))
    elif _STATUS in parts:
        fields = _group_about(header(original, "to"), _groups(parts[_STATUS]))
        kind, (status, detail) = Automatic.BOUNCE, _delivery(fields, text)
    elif automatic is Automatic.BOUNCE:
        fields = {}
        kind, (status, detail) = Automatic.BOUNCE, _bounce(header(headers, "subject"), text)
    else:
        return None
    if status is MessageStatus.UNDELIVERED:
        consent = consent_of_bounce(detail, _HARD if _ABOUT_MAILBOX.search(detail) else None)
    ids = _message_ids(fields, original) or _ids_in(text) or _answered(headers)
    named = [*fields.values(), header(headers, "x-failed-recipients"), header(original, "to")]
    recipients = _addresses(named if fields or original else [*named, text[:_LONGEST_TEXT]])
    detail = one_line(detail)[:_LONGEST_DETAIL].strip()
    identity = json.dumps([header(headers, "message-id"), ids, recipients, status, detail])
    report_id = hashlib.sha256(identity.encode("utf-8", "surrogatepass")).hexdigest()
    return MailReport(kind, report_id, ids, recipients, status, detail, consent)


def _parts(files: Sequence[InboundFile], *, is_report: bool) -> dict[str, bytes]:
    """The first file of each kind that a report has, by its type or, in what is known to be one, by its fields."""
    parts: dict[str, bytes] = {}
    for file in files[:_MOST_FILES]:
        content = file.content[:_LONGEST_FIELDS]
        kind = _KINDS.get(file.content_type.partition(";")[0].strip().lower())
        if kind is None and is_report:
            kind = next((each for each, field in _TELLING.items() if field.search(content)), None)
        if kind is not None:
            parts.setdefault(kind, content)
    return parts


def _groups(content: bytes) -> list[dict[str, str]]:
    """The fields of a report, by their names in lower case: one group for the mail, then one for each recipient."""
    text = content.decode("utf-8", "replace").replace("\r\n", "\n")
    groups = []
    for block in _BLANK_LINE.split(text):
        pairs = (line.partition(":") for line in _FOLD.sub(" ", block).split("\n"))
        fields = {name.strip().lower(): value.strip() for name, colon, value in pairs if colon}
        if fields:
            groups.append(fields)
    return groups


def _merged(groups: Iterable[Fields]) -> dict[str, str]:
    return {name: value for group in groups for name, value in group.items()}


def _group_about(recipient: str, groups: list[dict[str, str]]) -> dict[str, str]:
    """The fields about a mail's recipient, or about the first one that failed, with those about the whole mail."""
    about = [group for group in groups if "action" in group or "final-recipient" in group]
    written_to = {address.lower() for address in _addresses([recipient])}

    def fit(group: Fields) -> tuple[bool, bool]:
        named = {address.lower() for address in _addresses(group.values())}
        return bool(named & written_to), group.get("action", "").lower().startswith("failed")

    chosen = max(about, key=fit, default={})
    return {**_merged(group for group in groups if group not in about), **chosen}


def _complaint(fields: Fields) -> tuple[str, ReportedConsent | None]:
    kind = fields.get("feedback-type", "").lower()
    notice = notice_of_feedback(kind)
    words = fields.get("auth-failure") if notice is Notice.UNVERIFIED else kind
    return notice.with_words_of(words), CONSENT_OF.get(notice)


def _disposition(written: str) -> tuple[MessageStatus | None, str]:
    """`manual-action/MDN-sent-manually; displayed` is the doing of a person, `automatic-action` of a program."""
    mode, _, what = written.lower().partition(";")
    if what.strip().startswith("displayed") and not mode.strip().startswith("automatic-action"):
        return MessageStatus.READ, written
    notice = Notice.DELETED if what.strip().startswith("deleted") else Notice.PROCESSED
    return None, notice.with_words_of(written)


def _delivery(fields: Fields, text: str) -> tuple[MessageStatus | None, str]:
    """By `Action`: a server that reports a failure has given up, also with a code for a temporary one."""
    code = fields.get("status", "").split(" ")[0]
    said = fields.get("diagnostic-code", "")
    said = said.partition(";")[2].strip() or said
    words = said if code in said else f"{code} {said}".strip()
    match fields.get("action", "").split(" ")[0].lower().strip(";"):
        case "failed":
            return MessageStatus.UNDELIVERED, words
        case "delayed":
            return None, Notice.DELAY.with_words_of(words)
        case "delivered":
            return MessageStatus.DELIVERED, words
        case "relayed" | "expanded":
            return None, Notice.HANDED_ON.with_words_of(words)
    by_code = {"5": MessageStatus.UNDELIVERED, "2": MessageStatus.DELIVERED}
    if code[:1] in by_code:
        return by_code[code[:1]], words
    return (None, Notice.DELAY.with_words_of(words)) if code[:1] == "4" else _bounce("", text)


def _bounce(subject: str, text: str) -> tuple[MessageStatus | None, str]:
    """The meaning of a bounce's text, which is certain only of one with a permanent code or a word for a failure."""
    said = text[:_LONGEST_TEXT]
    code = _CODE.search(said)
    line = said[said.rfind("\n", 0, code.start()) + 1 :].partition("\n")[0].strip() if code else subject
    kind = (code[1] or code[2]) if code else ""
    beginning = f"{subject}\n{said[:2000]}"
    if kind != "5" and _LATE.search(beginning):
        return None, Notice.DELAY.with_words_of(line)
    if kind == "5" or _FAILED.search(beginning):
        return MessageStatus.UNDELIVERED, line
    return None, Notice.UNCLEAR_BOUNCE.with_words_of(line)


def _message_ids(fields: Fields, original: Headers) -> list[str]:
    """The Message-IDs by which a report names the earlier mail."""
    written = [fields.get("original-message-id", ""), fields.get("x-original-message-id", "")]
    ids = _unwrapped([*written, header(original, "message-id")])
    references = MESSAGE_ID.findall(header(original, "references"))
    if references and any(id.endswith(_RENAMES) for id in ids):
        ids += _unwrapped(references[-1:])
    return list(dict.fromkeys(ids))


def _ids_in(text: str) -> list[str]:
    """The Message-ID in a copy of the earlier mail within the text."""
    match = _ID_IN_TEXT.search(text[: 10 * _LONGEST_TEXT])
    return _unwrapped([match[1]]) if match else []


def _answered(headers: Headers) -> list[str]:
    references = MESSAGE_ID.findall(header(headers, "references"))
    return list(dict.fromkeys(_unwrapped([header(headers, "in-reply-to"), *references[-1:]])))


def _unwrapped(written: Iterable[str]) -> list[str]:
    """Message-IDs without `<>`, which some programs leave out."""
    found = [(MESSAGE_ID.search(each) or [each.strip()])[0].strip("<>") for each in written]
    return [id for id in found if "@" in id and " " not in id]


def _addresses(texts: Iterable[str]) -> list[str]:
    """The addresses in texts, in order, also as they are without the encoding of an `Original-Recipient`."""
    found = [address.strip("'.") for text in texts for address in _ADDRESS.findall(text[:_LONGEST_TEXT])]
    decoded = [_XTEXT.sub(lambda match: chr(int(match[1], 16)), address) for address in found]
    return list(dict.fromkeys([*found, *decoded]))[:_MOST_NAMED]
