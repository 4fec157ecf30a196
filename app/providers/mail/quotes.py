"""The new text of a mail, separated from the text that it quotes.

Not by a library: those match patterns on whole texts, which a hostile text keeps busy for minutes, strip signatures
and indentation, or need lxml. This code reads each line once. In doubt it leaves the text in place: repeated text is
a nuisance, lost text is worse.
"""
# ruff: noqa: RUF001 - the words are of many languages, and so are their letters

import re

_LONGEST_LINE = 600
#: Mail programs wrap the line that introduces a quotation.
_MOST_LINES_OF_ATTRIBUTION = 4
#: The head of a quoted mail continues at most this far below its first line.
_LINES_OF_HEAD = 6

#: "On Friday, 1 November 2024 at 14:00, Jane Roe <jane@example.com> wrote:", by its beginning and its end.
_ATTRIBUTIONS = [
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        r"(?:On|At)\b.{4,} (?:wrote|writes|said) ?:",
        r"Am\b.{4,} schrieb\b.{0,200}:",
        r".{4,} schrieb am .{4,200}:",
        r"Le\b.{4,} a écrit ?:",
        r"El\b.{4,} escribió ?:",
        r"(?:Il|In data)\b.{4,} ha scritto ?:",
        r"(?:Em|A|No dia)\b.{4,} escreveu ?:",
        r"Op\b.{4,} (?:schreef|heeft)\b.{0,200}:",
        r"(?:Den|Det|På|Tors|Fre|Mån|Tis|Ons|Lör|Sön|Man|Tir|Tor|Lør|Søn)\b.{4,} (?:skrev|skrifaði)\b.{0,200}:",
        r".{4,} kirjoitti ?:",
        r"(?:W dniu|Dnia|Pon|Wt|Śr|Czw|Pt|Sob|Niedz|W)\b.{4,} (?:napisał|napisała|napisał\(a\)|pisze) ?:",
        r"(?:Dne|Dňa|Po|Út|St|Čt|Pá|So|Ne)\b.{4,} (?:napsal|napsala|napsal\(a\)|napísal|napísal\(a\)) ?:",
        r".{4,} (?:пишет|написал|написала|написал\(а\)|пише) ?:",
        r".{4,} (?:yazdı|şunu yazdı|şunları yazdı) ?:",
        r".{4,}(?:写道|寫道|のメール|書きました|작성)\s?[:：]",
        # Any language: a time, and at the end the author's address.
        r"\W?\w.{0,400}\d{1,2}[:.h]\d\d\b.{0,200}<[^<>\s]+@[^<>\s]+>.{0,30}[:：]",
    )
]
_DIGIT = re.compile(r"\d")

_ORIGINAL = re.compile(
    r"[-_*]{2,}\s?(?:original (?:message|e-?mail|appointment)|reply message|"
    r"ursprüngliche (?:nachricht|mail|e-mail)|original ?nachricht|message d['’]origine|message original|"
    r"mensaje original|messaggio originale|mensagem original|oorspronkelijk bericht|"
    r"ursprungligt meddelande|oprindelig (?:meddelelse|besked)|opprinnelig melding|alkuperäinen viesti|"
    r"(?:oryginalna )?wiadomość(?: oryginalna)?|původní zpráva|исходное сообщение|"
    r"(?:özgün|orijinal) ileti|元のメッセージ|原始邮件|原始郵件|邮件原件|원본 메시지)\s?[-_*]{2,}",
    re.IGNORECASE,
)
_RULE = re.compile(r"[_-]{10,}")

#: The head of a quoted mail, as Outlook and others write it: its sender and its date.
_FROM = "From|Von|De|Da|Van|Från|Fra|Od|От|Від|Lähettäjä|Gönderen|Kimden|差出人|送信者|发件人|寄件者|보낸 사람"
_SENT = (
    "Sent|Date|Gesendet|Datum|Envoyé|Date d'envoi|Enviado|Enviado el|Enviada em|Fecha|Data|Inviato|Verzonden|Skickat|"
    "Sendt|Dato|Wysłano|Odesláno|Отправлено|Дата|Надіслано|Lähetetty|Päiväys|Gönderildi|Tarih|送信日時|日時|"
    "发送时间|日期|寄件日期|보낸 날짜"
)
_ABOUT = (
    "To|Subject|An|Betreff|À|Objet|Para|Asunto|Assunto|A|Oggetto|Aan|Onderwerp|Till|Ämne|Til|Emne|Do|Temat|Komu|Předmět|"
    "Кому|Тема|Vastaanottaja|Aihe|Kime|Konu|宛先|件名|收件人|主题|收件者|主旨|받는 사람|제목"
)
_FROM_LINE = re.compile(rf"[*_]{{0,2}}(?:{_FROM})\s?[:：][*_]{{0,2}}\s*\S", re.IGNORECASE)
_SENT_LINE = re.compile(rf"[*_]{{0,2}}(?:{_SENT})\s?[:：][*_]{{0,2}}\s*\S", re.IGNORECASE)
_ABOUT_LINE = re.compile(rf"[*_]{{0,2}}(?:{_ABOUT})\s?[:：]", re.IGNORECASE)

#: Forwarded text looks like a quotation, but is the content of the mail.
_FORWARDED = re.compile(r"\s*(?:fwd?|wg|tr|rv|enc|doorst|vs|vb|vl|pd|i|转发|轉寄)\s?[:：]", re.IGNORECASE)


def split_quoted(text: str, subject: str | None = None) -> tuple[str, str | None]:
    """The new text of a mail, and the quoted text or None.

    Replies between quoted lines stay in the new text together with the quotation. The whole text counts as new if it
    is all quoted, or if the subject marks the mail as forwarded. Blank lines at both ends are removed.
    """
    if _FORWARDED.match(subject or ""):
        return text.strip(), None
    lines = text.split("\n")
    start = _start_of_quotation(lines)
    if start is None:
        new, quoted = _without_quoted_lines(lines, 0)
    elif any(_is_quoted(line) for line in lines[start:]):
        new, quoted = _without_quoted_lines(lines, start)
    else:
        new, quoted = lines[:start], lines[start:]
    if not any(line.strip() for line in new):
        return text.strip(), None
    return "\n".join(new).strip(), "\n".join(quoted).strip() or None


def _start_of_quotation(lines: list[str]) -> int | None:
    """The first line that introduces a quotation."""
    for number, line in enumerate(lines):
        line = line[:_LONGEST_LINE].strip()
        if not line or _is_quoted(line):
            continue
        if _ORIGINAL.match(line) or _is_attribution(lines, number) or _is_head(lines, number):
            above = number - 1
            return above if above >= 0 and _RULE.fullmatch(lines[above].strip()[:_LONGEST_LINE]) else number
    return None


def _is_attribution(lines: list[str], number: int) -> bool:
    introduction = ""
    for line in lines[number : number + _MOST_LINES_OF_ATTRIBUTION]:
        line = line[:_LONGEST_LINE].strip()
        if not line or _is_quoted(line):
            return False
        introduction = f"{introduction} {line}".strip()
        if line[-1] in ":：":
            # All of them name a day: "On the whole he said:" introduces no quotation.
            has_day = len(introduction) <= _LONGEST_LINE and _DIGIT.search(introduction) is not None
            return has_day and any(pattern.fullmatch(introduction) for pattern in _ATTRIBUTIONS)
    return False


def _is_head(lines: list[str], number: int) -> bool:
    if not _FROM_LINE.match(lines[number].strip()[:_LONGEST_LINE]):
        return False
    below = [line.strip()[:_LONGEST_LINE] for line in lines[number + 1 : number + 1 + _LINES_OF_HEAD]]
    return any(_SENT_LINE.match(line) for line in below) and any(_ABOUT_LINE.match(line) for line in below)


def _is_quoted(line: str) -> bool:
    return line.lstrip()[:1] == ">"


def _without_quoted_lines(lines: list[str], start: int) -> tuple[list[str], list[str]]:
    """Separate the new lines from quoted lines (`>`) that are in one piece, below or above them.

    `start` is the line that introduces the quotation. A signature or reply below it is new text again.
    """
    quoted = [number for number in range(start, len(lines)) if _is_quoted(lines[number])]
    if not quoted:
        return lines, []
    first, last = quoted[0], quoted[-1]
    if any(line.strip() and not _is_quoted(line) for line in lines[first:last]):
        # There are replies in it: only the quotation after the last of them is removed.
        while last > first and (_is_quoted(lines[last - 1]) or not lines[last - 1].strip()):
            last -= 1
        is_at_the_end = not any(line.strip() for line in lines[quoted[-1] + 1 :])
        return (lines[:last], lines[last:]) if is_at_the_end else (lines, [])
    begin = start if start and first - start <= _MOST_LINES_OF_ATTRIBUTION + 1 else first
    if start == 0 and first <= _MOST_LINES_OF_ATTRIBUTION + 1 and _is_attribution(lines, 0):
        begin = 0
    return lines[:begin] + lines[last + 1 :], lines[begin : last + 1]
