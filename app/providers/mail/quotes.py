"""What is new in a mail, and what it repeats of those before it.

Written here, because the libraries for it search whole texts with patterns that a hostile one keeps busy for minutes,
strip signatures and indentation, or build on lxml. This one looks at each line once, and leaves in place what it is
not sure of: a repetition is a nuisance, a lost answer is worse.
"""
# ruff: noqa: RUF001 - the words are of many languages, and so are their letters

import re

_LONGEST_LINE = 600
#: Mail programs wrap the line that says who wrote what.
_MOST_LINES_OF_ATTRIBUTION = 4
#: How far below its first line the head of a quoted mail may go on.
_LINES_OF_HEAD = 6

#: "On Friday, 1 November 2024 at 14:00, Jane Roe <jane@example.com> wrote:", by how it begins and how it ends.
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
        # Whatever the language: a time, and at the end the address of whoever wrote.
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

#: The first lines of a mail, as Outlook and others put them above it: who it is from, and when it was sent.
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

#: What is forwarded is what a mail is about, although it looks the same as a quotation.
_FORWARDED = re.compile(r"\s*(?:fwd?|wg|tr|rv|enc|doorst|vs|vb|vl|pd|i|转发|轉寄)\s?[:：]", re.IGNORECASE)


def split_quoted(text: str, subject: str | None = None) -> tuple[str, str | None]:
    """What a mail says by itself, and what it quotes; None where it quotes nothing.

    Answers between the lines of a quotation stay there with it, and so does everything where nothing else is left, or
    where the subject says that the mail is forwarded. Both texts lose blank lines at their ends.
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
    """The line that introduces what is quoted, the first one if it is said in several ways."""
    for number, line in enumerate(lines):
        line = line[:_LONGEST_LINE].strip()
        if not line or _is_quoted(line):
            continue
        if _ORIGINAL.match(line) or _is_attribution(lines, number) or _is_head(lines, number):
            above = number - 1
            return above if above >= 0 and _RULE.fullmatch(lines[above].strip()[:_LONGEST_LINE]) else number
    return None


def _is_attribution(lines: list[str], number: int) -> bool:
    said = ""
    for line in lines[number : number + _MOST_LINES_OF_ATTRIBUTION]:
        line = line[:_LONGEST_LINE].strip()
        if not line or _is_quoted(line):
            return False
        said = f"{said} {line}".strip()
        if line[-1] in ":：":
            # All of them name a day, so that "On the whole he said:" is no quotation.
            has_day = len(said) <= _LONGEST_LINE and _DIGIT.search(said) is not None
            return has_day and any(pattern.fullmatch(said) for pattern in _ATTRIBUTIONS)
    return False


def _is_head(lines: list[str], number: int) -> bool:
    if not _FROM_LINE.match(lines[number].strip()[:_LONGEST_LINE]):
        return False
    below = [line.strip()[:_LONGEST_LINE] for line in lines[number + 1 : number + 1 + _LINES_OF_HEAD]]
    return any(_SENT_LINE.match(line) for line in below) and any(_ABOUT_LINE.match(line) for line in below)


def _is_quoted(line: str) -> bool:
    return line.lstrip()[:1] == ">"


def _without_quoted_lines(lines: list[str], start: int) -> tuple[list[str], list[str]]:
    """Take a quotation in marked lines away, where it is in one piece: below the new text, or above it.

    `start` is where it is introduced. A signature or an answer below it is new text again.
    """
    quoted = [number for number in range(start, len(lines)) if _is_quoted(lines[number])]
    if not quoted:
        return lines, []
    first, last = quoted[0], quoted[-1]
    if any(line.strip() and not _is_quoted(line) for line in lines[first:last]):
        # There are answers in it: only what is quoted after the last of them can go.
        while last > first and (_is_quoted(lines[last - 1]) or not lines[last - 1].strip()):
            last -= 1
        return (lines[:last], lines[last:]) if quoted[-1] == _last_line(lines) else (lines, [])
    begin = start if start and first - start <= _MOST_LINES_OF_ATTRIBUTION + 1 else first
    if start == 0 and first <= _MOST_LINES_OF_ATTRIBUTION + 1 and _is_attribution(lines, 0):
        begin = 0
    return lines[:begin] + lines[last + 1 :], lines[begin : last + 1]


def _last_line(lines: list[str]) -> int:
    return max(number for number, line in enumerate(lines) if line.strip())
