"""The lines that introduce what a mail quotes or forwards, in the languages of the mail programs that write them.

Each test reads a few lines, and of each line its beginning, so that no text takes quadratic time.
"""
# ruff: noqa: RUF001 - the words are of many languages, and so are their letters

import re
from collections.abc import Sequence

#: Characters of a line that are read.
LONGEST_LINE = 600
#: Mail programs wrap the line that introduces a quotation.
MOST_LINES_OF_ATTRIBUTION = 4
#: The head of a quoted mail continues at most this far below its first line.
LINES_OF_HEAD = 6

#: "On Friday, 1 November 2024 at 14:00, Jane Roe <jane@example.com> wrote:", by its beginning and its end.
_ATTRIBUTIONS = [
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        r"(?:On|At)\b.{4,} (?:wrote|writes|said) ?:",
        r"Am\b.{4,} schrieb\b.{0,200}:",
        r"Le\b.{4,} a écrit ?:",
        r"El\b.{4,} escribió ?:",
        r"(?:Il|In data)\b.{4,} ha scritto ?:",
        r"(?:Em|A|No dia)\b.{4,} escreveu ?:",
        r"Op\b.{4,} (?:schreef|heeft)\b.{0,200}:",
        r"(?:Den|Det|På|Tors|Fre|Mån|Tis|Ons|Lör|Sön|Man|Tir|Tor|Lør|Søn)\b.{4,} (?:skrev|skrifaði)\b.{0,200}:",
        r"(?:W dniu|Dnia|Pon|Wt|Śr|Czw|Pt|Sob|Niedz|W)\b.{4,} (?:napisał|napisała|napisał\(a\)|pisze) ?:",
        r"(?:Dne|Dňa|Po|Út|St|Čt|Pá|So|Ne)\b.{4,} (?:napsal|napsala|napsal\(a\)|napísal|napísal\(a\)) ?:",
    )
]
#: Those whose first words may be any.
_OPEN_ATTRIBUTIONS = [
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        r".{4,} schrieb am .{4,200}:",
        r".{4,} kirjoitti ?:",
        r".{4,} (?:пишет|написал|написала|написал\(а\)|пише) ?:",
        r".{4,} (?:yazdı|şunu yazdı|şunları yazdı) ?:",
        r".{4,}(?:写道|寫道|のメール|書きました|작성)\s?[:：]",
        # Any language: a time, and at the end the author's address.
        r"\W?\w.{0,400}\d{1,2}[:.h]\d\d\b.{0,200}<[^<>\s]+@[^<>\s]+>.{0,30}[:：]",
    )
]
_OWN_LINE = re.compile(r"[^\d@]*|.*[.!?…]")
_DIGIT = re.compile(r"\d")
#: Marks around names in texts that are written from right to left.
_DIRECTIONS = re.compile(r"[\u200e\u200f\u202a-\u202e\u2066-\u2069]")
#: The same without a day: "Jane wrote:".
_WROTE = re.compile(
    r"(?:^|.*\W)(?:wrote|writes|said|schrieb|écrit|escribió|scritto|escreveu|schreef|geschreven|skrev|skrifaði|kirjoitti|"
    r"napisał(?:a|\(a\))?|pisze|napsal(?:a|\(a\))?|napísal(?:a|\(a\))?|пишет|пише|написал(?:а|\(а\))?|написав|yazdı|"
    r"írta|a scris|έγραψε|napisa(?:l|o|la|o/la)|va escriure|rašė|rakstīja|menulis|đã viết|написа)\b"
    r".*[:：]|.*(?:写道|寫道|書きました|작성)\s?[:：]",
    re.IGNORECASE,
)

#: The author's address before the colon, in any language; and the form of Zoho.
_NAMES_AUTHOR = re.compile(r".*<[^<>\s]+@[^<>\s]+>[^<>]{0,60}[:：]|-{2,} ?On\b.{4,} wrote ?-{2,}", re.IGNORECASE)

_ORIGINAL = re.compile(
    r"[-_*‐–—]{2,}\s?(?:original(?: (?:message|e-?mail|appointment))?|reply message|"
    r"ursprüngliche (?:nachricht|mail|e-mail)|original ?nachricht|message d['’]origine|message original|"
    r"mensaje original|messaggio originale|mensagem original|oorspronkelijk bericht|"
    r"ursprungligt meddelande|oprindelig (?:meddelelse|besked)|opprinnelig melding|alkuperäinen viesti|"
    r"(?:oryginalna )?wiadomość(?: oryginalna)?|původní zpráva|исходное сообщение|"
    r"mail original|eredeti üzenet|pôvodná správa|izvorno sporočilo|izvorna poruka|mesaj original|αρχικό μήνυμα|"
    r"(?:özgün|orijinal) ileti|元のメッセージ|原始邮件|原始郵件|邮件原件|원본 메시지)\s?[-_*‐–—]{2,}",
    re.IGNORECASE,
)

#: The head of a quoted mail, as Outlook and others write it: its sender and its date.
_FROM = (
    "From|Von|De|Da|Mittente|Van|Från|Fra|Od|Nadawca|От|Отправитель|Від|Від кого|Lähettäjä|Gönderen|Kimden|差出人|"
    "送信者|送信元|发件人|寄件者|寄件人|보낸 사람|Feladó|De la|Expeditor|Από|Šalje|Saatja|Nuo|Từ|מאת|من"
)
_SENT = (
    "Sent|Date|Gesendet|Datum|Envoyé|Date d'envoi|Enviado|Enviado el|Enviada em|Fecha|Data|Inviato|Verzonden|Skickat|"
    "Sendt|Dato|Wysłano|Odesláno|Отправлено|Дата|Надіслано|Lähetetty|Päiväys|Gönderildi|Tarih|送信日時|日時|"
    "发送时间|日期|寄件日期|보낸 날짜|Wysłane|Elküldve|Dátum|Trimis|Στάλθηκε|Ημερομηνία|Poslano|Poslané|Odoslané|"
    "Gönderme Tarihi|Saadetud|Kuupäev|Išsiųsta|Đã gửi|Ngày|נשלח|תאריך|تم الإرسال|التاريخ"
)
_ABOUT = (
    "To|Subject|An|Betreff|À|Objet|Sujet|Para|Asunto|Assunto|A|Oggetto|Aan|Onderwerp|Till|Ämne|Til|Emne|Do|Temat|Komu|"
    "Předmět|Predmet|Кому|Тема|Vastaanottaja|Aihe|Kime|Konu|宛先|件名|收件人|主题|收件者|主旨|받는 사람|제목|"
    "Címzett|Tárgy|Către|Subiect|Προς|Θέμα|Prima|Adressaat|Teema|Kam|Tema|Đến|Chủ đề|אל|נושא|إلى|الموضوع"
)
_FROM_LINE = re.compile(rf"[*_]{{0,2}}(?:{_FROM})\s?[:：][*_]{{0,2}}\s*\S", re.IGNORECASE)
_SENT_LINE = re.compile(rf"[*_]{{0,2}}(?:{_SENT})\s?[:：][*_]{{0,2}}\s*\S", re.IGNORECASE)
_ABOUT_LINE = re.compile(rf"[*_]{{0,2}}(?:{_ABOUT})\s?[:：]", re.IGNORECASE)

#: A line such as `>= 5` or `>:(`.
_NO_QUOTATION = re.compile(r">(?:=|[:;]['-]?[()\[\]{}|/\\<>DPpOoX@]{1,3}\s*$|[._]{1,2}[<>]\s*$)")
#: A time, a year or an address: of an attribution rather than of a person's own sentence.
_TIME_OR_ADDRESS = re.compile(r"\d{1,2}[:.h]\d\d|\b\d{4}\b|@")

#: Parts of the words for "forwarded".
_FORWARDED = re.compile(
    r"forward|weitergeleitet|weiterleit|réexpédi|transf[ée]r|transmis|reenvia|reexpedi|encaminhad|inoltrat|"
    r"doorgestuurd|doorgezonden|vidarebefordra|videresend|välite|edelleen|przekaz|przesłan|přepos|prepos|пересыл|"
    r"пересл|перенаправ|переадрес|yönlendir|[iİ]letil|[iİ]leti başlangıcı|továbbít|redirec|áframsen|转发|"
    r"轉寄|轉發|転送|전달",
    re.IGNORECASE,
)
#: "---------- Forwarded message ---------", and "----- Forwarded by Jane Roe on 1 November -----".
_BETWEEN_RULES = re.compile(r"[-_*=~]{2,}+\s{0,2}(.{3,200}?)\s{0,2}[-_*=~]{2,}")
_LONGEST_OPENING = 80
_WITHOUT_COLON = "this is a forwarded message"  # of The Bat!
#: The first prefix of a forwarded mail's subject, behind marks such as [EXT]. A reply to it begins with another.
_FORWARD_SUBJECT = re.compile(
    r"\s*(?:\[[^\[\]]{0,60}\]\s*)*"
    r"(?:fwd?|wg|tr|rv|enc|doorst|vs|vb|vl|pd|i|[iİ]lt|redir\.|videresend|转发|轉寄)\s?[:：]",
    re.IGNORECASE,
)


def is_quoted(line: str) -> bool:
    """True for a line that begins with `>`, unless it is a comparison or a face."""
    line = line.lstrip()
    return line[:1] == ">" and not _NO_QUOTATION.match(line)


def begins_quotation(lines: Sequence[str], number: int) -> bool:
    """True for a line that says whose words are below it: "On Friday Jane wrote:", or the head of a mail."""
    line = _read(lines[number])
    return bool(_ORIGINAL.match(line)) or is_attribution(lines, number) or _is_head(lines, number)


def is_attribution(lines: Sequence[str], number: int) -> bool:
    """True for the first line of an attribution with a day, such as "On Friday, 1 November 2024, Jane wrote:".

    The line of the author's own words right above one is none.
    """
    read: list[str] = []
    for line in map(_read, lines[number : number + MOST_LINES_OF_ATTRIBUTION]):
        if not line or is_quoted(line):
            return False
        read.append(line)
        if ends_attribution(line):
            certainty = _certainty(read)
            below = max((_certainty(read[start:]) for start in range(1, len(read))), default=0) if certainty else 0
            return certainty > below or (certainty == below == 1 and not _OWN_LINE.fullmatch(read[0]))
    return False


def _certainty(read: Sequence[str]) -> int:
    """2 for lines that are an attribution by its first word and its end, 1 for one by its end, or else 0.

    All of them name a day: "On the whole he said:" introduces no quotation.
    """
    introduction = " ".join(read)
    if len(introduction) > LONGEST_LINE or not _DIGIT.search(introduction):
        return 0
    if any(pattern.fullmatch(introduction) for pattern in _ATTRIBUTIONS):
        return 2
    return int(any(pattern.fullmatch(introduction) for pattern in _OPEN_ATTRIBUTIONS))


def is_plain_attribution(line: str) -> bool:
    """True for an attribution in one line, with or without a day."""
    read = _read(line)
    return any(each.fullmatch(read) for each in (_WROTE, _NAMES_AUTHOR)) or is_attribution([line], 0)


def ends_attribution(line: str) -> bool:
    """True for a line with a colon at its end, as the last line of every attribution has one."""
    return _read(line)[-1:] in {":", "："}


def is_own_introduction(line: str) -> bool:
    """True for a line such as "It prints:", and False for attributions, also of a language that is not known here."""
    line = _read(line)
    return ends_attribution(line) and not is_plain_attribution(line) and _TIME_OR_ADDRESS.search(line) is None


def begins_forward(lines: Sequence[str], number: int) -> bool:
    """True for the line above a forwarded mail: "---------- Forwarded message ---------", "Begin forwarded message:".

    Some programs mark it as quoted together with the mail. A quotation that an attribution introduces is none.
    """
    line = _read(lines[number])
    if not _FORWARDED.search(line):
        return False
    if is_quoted(line):
        above = next((text for text in map(_read, reversed(lines[max(0, number - 3) : number])) if text), "")
        if is_quoted(above) or ends_attribution(above):
            return False
        line = line.lstrip("> ")
    between = _BETWEEN_RULES.match(line)
    if between and _FORWARDED.search(between[1]):
        return True
    is_opening = ends_attribution(line) or line.lower() == _WITHOUT_COLON
    if not is_opening or len(line) > _LONGEST_OPENING:
        return False
    below = (_read(text).lstrip("> ") for text in lines[number + 1 : number + 5])
    first = next((text for text in below if text), "")
    return any(pattern.match(first) for pattern in (_FROM_LINE, _SENT_LINE, _ABOUT_LINE))


def is_forward_subject(subject: str | None) -> bool:
    """True if the first prefix of a subject is one of forwarded mail."""
    return _FORWARD_SUBJECT.match(subject or "") is not None


def _is_head(lines: Sequence[str], number: int) -> bool:
    first = _read(lines[number])
    if not (_FROM_LINE.match(first) or (_SENT_LINE.match(first) and _DIGIT.search(first))):
        return False
    head = [first, *map(_read, lines[number + 1 : number + 1 + LINES_OF_HEAD])]
    return all(any(kind.match(line) for line in head) for kind in (_FROM_LINE, _SENT_LINE, _ABOUT_LINE))


def _read(line: str) -> str:
    return _DIRECTIONS.sub("", line[:LONGEST_LINE]).strip()
