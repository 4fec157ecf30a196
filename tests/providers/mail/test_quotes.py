"""The new text of a mail, told from quoted text."""
# ruff: noqa: RUF001 - the words are of many languages, and so are their letters

import pytest

from app.providers.mail.quotes import split_quoted
from tests.cases import each_case

ATTRIBUTIONS = [
    "On Fri, Nov 1, 2024 at 2:00 PM Jane Roe <jane@example.com> wrote:",
    "On Fri, Nov 1, 2024 at 2:00 PM Jane Roe of a company with a long name\n<jane@example.com> wrote:",
    "Am 01.11.24 um 14:00 schrieb Jane Roe:",
    "Jane Roe <jane@example.com> schrieb am Fr., 1. Nov. 2024, 14:00:",
    "Le ven. 1 nov. 2024 à 14:00, Jane Roe <jane@example.com> a écrit :",
    "El vie, 1 nov 2024 a las 14:00, Jane Roe (<jane@example.com>) escribió:",
    "Il giorno ven 1 nov 2024 alle ore 14:00 Jane Roe <jane@example.com> ha scritto:",
    "Em sex., 1 de nov. de 2024 às 14:00, Jane Roe <jane@example.com> escreveu:",
    "Op vr 1 nov 2024 om 14:00 schreef Jane Roe <jane@example.com>:",
    "Den fre 1 nov. 2024 kl 14:00 skrev Jane Roe <jane@example.com>:",
    "pe 1. marrask. 2024 klo 14.00 Jane Roe (jane@example.com) kirjoitti:",
    "pt., 1 lis 2024 o 14:00 Jane Roe <jane@example.com> napisał(a):",
    "W dniu 1.11.2024 o 14:00, Jane Roe pisze:",
    "pá 1. 11. 2024 v 14:00 odesílatel Jane Roe <jane@example.com> napsal:",
    "пт, 1 нояб. 2024 г. в 14:00, Jane Roe <jane@example.com>:",
    "01.11.2024 14:00, Jane Roe пишет:",
    "Jane Roe <jane@example.com>, 1 Kas 2024 Cum, 14:00 tarihinde şunu yazdı:",
    "2024年11月1日(金) 14:00 Jane Roe <jane@example.com>:",
    "Jane Roe <jane@example.com> 于2024年11月1日周五 14:00写道：",
    "2024년 11월 1일 (금) 14:00, Jane Roe <jane@example.com>님이 작성:",
]
HEADS = [
    "-----Original Message-----\nFrom: Jane Roe",
    "-----Ursprüngliche Nachricht-----\nVon: Jane Roe",
    "-------- Message d'origine --------\nDe : Jane Roe",
    "________________________________\nFrom: Jane\nSent: Friday, November 1, 2024 2:00 PM\nTo: Bob\nSubject: Hello",
    "From: Jane Roe <jane@example.com>\nDate: Friday, 1 November 2024 at 14:00\nTo: Bob\nSubject: Hello",
    "Feladó: Jane Roe\nElküldve: 2024. november 1. 14:00\nCímzett: Bob\nTárgy: Hello",
    "De la: Jane Roe\nTrimis: vineri, 1 noiembrie 2024 14:00\nCătre: Bob\nSubiect: Hello",
    "Από: Jane Roe\nΣτάλθηκε: Παρασκευή, 1 Νοεμβρίου 2024\nΠρος: Bob\nΘέμα: Hello",
    "מאת: Jane Roe\nנשלח: יום שישי 01 נובמבר 2024\nאל: Bob\nנושא: Hello",
    "Od: Jane Roe\nWysłane: piątek, 1 listopada 2024 14:00\nDo: Bob\nTemat: Hello",
    "*From:* Jane\n*Sent:* Friday, November 1, 2024\n*To:* Bob\n*Subject:* Hello",
    "Von: Jane\nGesendet: Freitag, 1. November 2024 14:00\nAn: Bob\nBetreff: Hallo",
    "De : Jane\nEnvoyé : vendredi 1 novembre 2024 14:00\nÀ : Bob\nObjet : Bonjour",
    "De: Jane\nEnviado: viernes, 1 de noviembre de 2024\nPara: Bob\nAsunto: Hola",
    "Da: Jane\nInviato: venerdì 1 novembre 2024\nA: Bob\nOggetto: Ciao",
    "Van: Jane\nVerzonden: vrijdag 1 november 2024\nAan: Bob\nOnderwerp: Hallo",
    "От: Jane\nОтправлено: 1 ноября 2024 г.\nКому: Bob\nТема: Привет",
    "发件人: Jane\n发送时间: 2024年11月1日\n收件人: Bob\n主题: 你好",
]


@each_case("said", ATTRIBUTIONS)
@each_case("between", ["\n", "\n\n"])
def test_marked_lines_go_with_the_line_that_says_whose_they_are(said: str, between: str) -> None:
    quoted = f"{said}{between}> Shall we meet?\n>\n>> On Friday?"
    assert split_quoted(f"Yes.\n\n-- \nBob\n\n{quoted}\n") == ("Yes.\n\n-- \nBob", quoted)


@each_case(
    "said",
    [
        "Jane Roe <jane@example.com> ezt írta (időpont: 2024. nov. 1., P, 14:00):",
        "Pe 01.11.2024 14:00, Jane Roe a scris:",
        "Στις 1/11/2024 14:00, ο Jane Roe έγραψε:",
        "\u202bבתאריך יום ו׳, 1 בנוב׳ ב-14:00 מאת \u202aJane\u202c\u200f <\u202aj@example.com\u202c\u200f>:\u202c",
        "---- On Fri, 01 Nov 2024 14:00:00 +0530 Jane Roe <jane@example.com> wrote ----",
        "Quoting Jane Roe <jane@example.com>:",
        "* Jane Roe <jane@example.com> [2024-11-01 14:00]:",
    ],
)
def test_the_line_above_marked_lines_names_their_author(said: str) -> None:
    assert split_quoted(f"Yes.\n\n{said}\n> Shall we meet?") == ("Yes.", f"{said}\n> Shall we meet?")


@each_case("said", [*ATTRIBUTIONS, *HEADS])
def test_without_marks_everything_below_is_quoted(said: str) -> None:
    quoted = f"{said}\n\nShall we meet?\n\nJane"
    assert split_quoted(f"Yes.\n\n{quoted}") == ("Yes.", quoted)


@each_case("said", ATTRIBUTIONS)
@each_case("own", ["Friday.", "Is Friday at 14:00 all right?", "Yours\nBob", "It is 5 o'clock, @Jane!"])
def test_own_words_right_above_an_attribution_are_new(own: str, said: str) -> None:
    assert split_quoted(f"Yes.\n\n{own}\n{said}\n> Shall we meet?") == (
        f"Yes.\n\n{own}",
        f"{said}\n> Shall we meet?",
    )
    assert split_quoted(f"Yes.\n\n{own}\n{said}\n\nOld") == (f"Yes.\n\n{own}", f"{said}\n\nOld")


def test_an_answer_below_a_quotation_is_what_is_new() -> None:
    quoted = "On Fri, Nov 1, 2024 Jane wrote:\n> Shall we meet?"
    assert split_quoted(f"{quoted}\n\nYes, we shall.\n") == ("Yes, we shall.", quoted)
    assert split_quoted("> Shall we meet?\n\nYes, we shall.") == ("Yes, we shall.", "> Shall we meet?")


def test_answers_between_the_lines_stay_with_what_they_answer() -> None:
    between = "> Shall we meet?\nYes.\n> On Friday?\nNo."
    assert split_quoted(between) == (between, None)
    introduced = f"Hello!\n\nOn Fri, Nov 1, 2024 Jane wrote:\n{between}"
    assert split_quoted(introduced) == (introduced, None)


def test_what_is_quoted_after_the_last_answer_goes() -> None:
    rest = "> Jane\n> Example Inc."
    assert split_quoted(f"> Shall we meet?\nYes.\n\n{rest}\n\n") == ("> Shall we meet?\nYes.", rest)


@each_case("subject", ["Fwd: Hello", "FW: Hello", "WG: Hallo", "TR : Bonjour", "转发：你好"])
@each_case("head", HEADS)
def test_what_is_forwarded_is_not_quoted(subject: str, head: str) -> None:
    text = f"For your files.\n\n{head}\n\nThe invoice."
    assert split_quoted(text, subject) == (text, None)


FORWARDS = [
    "---------- Forwarded message ----------\nFrom: Third Party <third@example.org>\nDate: Fri, Nov 1, 2024",
    "---------- Weitergeleitete Nachricht ---------\nVon: Dritter <third@example.org>\nDate: Fr., 1. Nov. 2024",
    "-------- Message transféré --------\nSujet : Plainte\nDate : Fri, 1 Nov 2024 14:00:00 +0100\nDe : Tiers",
    "-------- Messaggio Inoltrato --------\nOggetto: Reclamo\nData: Fri, 1 Nov 2024 14:00:00 +0100\nMittente: Terzi",
    "----- Mensaje reenviado -----\nDe: Tercero <third@example.org>\nPara: Jane\nEnviado: viernes, 1 de noviembre",
    "----- Vidarebefordrat meddelande -----\nFrån: Tredje\nTill: Jane\nSkickat: fredag 1 november 2024",
    "--- Treść przekazanej wiadomości ---\nTemat: Skarga\nData: Fri, 1 Nov 2024\nNadawca: Trzeci",
    '-------- Пересылаемое сообщение --------\n01.11.2024, 14:00, "Third" <third@example.org>:',
    "-------- 転送されたメッセージ --------\n件名: 苦情\n差出人: third@example.org",
    "---------- 转发的邮件 ---------\n发件人: third@example.org\n日期: 2024年11月1日",
    "------- Forwarded Message -------\nFrom: Third <third@example.org>\nDate: Friday, November 1st, 2024 at 14:00",
    "============ Forwarded message ============\nFrom: Third <third@example.org>\nTo: jane@example.com",
    "----- Forwarded by Jane Roe/ACME on 11/01/2024 02:00 PM -----\n\nThird Party\n11/01/2024 01:00 PM",
    "----- Forwarded message from Third Party <third@example.org> -----\n\nDate: Fri, 1 Nov 2024 14:00:00 +0000",
    "---------- Ursprüngliche Nachricht (weitergeleitet) ----------\nVon: Dritter\nAn: Jane",
    "Begin forwarded message:\n\n> From: Third <third@example.org>\n> Subject: Complaint",
    "Début du message transféré :\n\n> De: Tiers <third@example.org>\n> Date: 1 novembre 2024",
    "Inizio messaggio inoltrato:\n\n> Da: Terzi <third@example.org>\n> Oggetto: Reclamo",
    "Начало переадресованного сообщения:\n\n> От: Third <third@example.org>\n> Тема: Жалоба",
    "İleti başlangıcı:\n\n> Kimden: Third <third@example.org>\n> Konu: Sikayet",
    "> Begin forwarded message:\n>\n> From: Third <third@example.org>\n> Date: 1 November 2024",
    "This is a forwarded message\nFrom: Third <third@example.org>\nTo: Jane",
]
CHAIN = "On Thu, Oct 31, 2024 at 9:00 AM Shop <shop@example.com> wrote:\n> We will look at it."


@each_case("marker", FORWARDS)
@each_case("subject", ["Complaint", "Re: Fwd: Complaint", "[EXT] Fwd: Complaint", None])
@each_case("chain", ["", f"\n\n{CHAIN}"])
def test_what_a_marker_forwards_is_new_whatever_the_subject_is(marker: str, subject: str | None, chain: str) -> None:
    text = f"Please handle this.\n\n-- \nJane\n\n{marker}\n\nOrder 42 is broken.{chain}"
    assert split_quoted(text, subject) == (text, None)


@each_case("marker", [marker for marker in FORWARDS if not marker.startswith(("> ", "Begin", "This"))][:6])
def test_what_the_answered_mail_forwarded_is_quoted(marker: str) -> None:
    marked = "\n".join(f"> {line}" for line in f"See below.\n\n{marker}\n\nOrder 42.".split("\n"))
    said = "On Fri, Nov 1, 2024 at 2:00 PM Jane Roe <jane@example.com> wrote:"
    assert split_quoted(f"Done.\n\n{said}\n{marked}") == ("Done.", f"{said}\n{marked}")
    head = "From: Jane\nSent: Friday, November 1, 2024\nTo: Shop\nSubject: Fw: Complaint"
    below = f"{head}\n\nSee below.\n\n{marker}\n\nOrder 42."
    assert split_quoted(f"Done.\n\n{below}", "Re: Fw: Complaint") == ("Done.", below)


def test_a_mail_that_is_forwarded_below_an_answer_stays() -> None:
    forward = "---------- Forwarded message ---------\nFrom: Third <third@example.org>\n\nOrder 42 is broken."
    assert split_quoted(f"Yes. And see below.\n\n{CHAIN}\n\n{forward}") == (
        f"Yes. And see below.\n\n\n{forward}",
        CHAIN,
    )


@each_case("subject", ["Fwd: Hello", "I: have a question", "TR: 4711", "[EXT] FW: Hello"])
def test_a_subject_alone_forwards_nothing_that_an_attribution_quotes(subject: str) -> None:
    assert split_quoted(f"Yes.\n\n{CHAIN}", subject) == ("Yes.", CHAIN)


@each_case("subject", ["Re: FW: Hello", "AW: WG: Hallo", "[EXT] Re: Fwd: Hello"])
def test_a_reply_to_a_forwarded_mail_quotes_it(subject: str) -> None:
    assert split_quoted(f"Yes.\n\n{HEADS[3]}\n\nOld", subject) == ("Yes.", f"{HEADS[3]}\n\nOld")


@each_case(
    "pasted",
    [
        "> ls\n> a b",
        "> npm run build\n>\n> sh: vite: not found",
        ">>> import this\n>>> 1 / 0",
        "> **Note:** 30 days",
        "> first\n\n> second",
        ">> nested\n> twice",
    ],
)
@each_case("above", ["Output:", "I get this.", "Hello,\n\nas of line 3 it prints this:", "Your page says"])
def test_marked_lines_between_new_paragraphs_are_the_authors_own(pasted: str, above: str) -> None:
    text = f"{above}\n\n{pasted}\n\nWhy?"
    assert split_quoted(text) == (text, None)
    assert split_quoted(f"{text}\n\n{CHAIN}") == (text, CHAIN)
    assert split_quoted(f"{text}\n\n{HEADS[6]}\n\nAlt") == (text, f"{HEADS[6]}\n\nAlt")


@each_case(
    "text",
    [
        "It prints:\n\n> error 42\n> in file x",
        "Das kommt heraus:\n> Fehler",
        "I typed\n\n>>> sum([1, 2])\n3\n>>> sum(None)",
        ">>> import shop\n>>> shop.open()\n\nWhy does it fail?",
        "3c3\n< old line\n---\n> new line",
        "We need\n>= 5 pieces",
        "That is bad\n\n>:-(",
        "Never again. >_<\n>.<",
        "<<<<<<< HEAD\na\n=======\nb\n>>>>>>> feature",
        "> Q?\nA.\n\nIt prints:\n> error",
    ],
)
def test_what_a_person_pastes_or_writes_with_that_sign_stays(text: str) -> None:
    assert split_quoted(text) == (text, None)


@each_case(
    ("text", "new", "quoted"),
    [
        ("Yes.\n\nJane wrote:\n> Shall we meet?", "Yes.", "Jane wrote:\n> Shall we meet?"),
        ("Jane Roe schrieb:\n\n> Treffen?\n\nJa.", "Ja.", "Jane Roe schrieb:\n\n> Treffen?"),
        ("Yes.\n\n> Shall we meet?\n\n-- \nBob", "Yes.\n\n\n-- \nBob", "> Shall we meet?"),
        (
            "Ndiyo.\n\n1 Novemba 2024, 14:00 Jane aliandika:\n> Lini?",
            "Ndiyo.\n\n1 Novemba 2024, 14:00 Jane aliandika:",
            "> Lini?",
        ),
        (
            "Thanks!\n\n> On 1 Nov 2024, at 14:00, Shop <shop@example.com> wrote:\n>\n> Blue?\n\nYes.",
            "Thanks!\n\n\nYes.",
            "> On 1 Nov 2024, at 14:00, Shop <shop@example.com> wrote:\n>\n> Blue?",
        ),
        (
            "> Q?\nA.\n\nOn Fri, Nov 1, 2024\nJane wrote:\n> Rest",
            "> Q?\nA.",
            "On Fri, Nov 1, 2024\nJane wrote:\n> Rest",
        ),
        (
            "Ja.\n\nGesendet: Freitag, 1. November 2024 um 14:00 Uhr\nVon: Shop\nAn: Jane\nBetreff: Hallo\n\nAlt",
            "Ja.",
            "Gesendet: Freitag, 1. November 2024 um 14:00 Uhr\nVon: Shop\nAn: Jane\nBetreff: Hallo\n\nAlt",
        ),
        (
            "Hi.\n\n----- Original Message -----\nFrom: S\nDate: Monday\nSubject: X\nTo: R\n\n> Hey\n>\n> Tuesday",
            "Hi.",
            "----- Original Message -----\nFrom: S\nDate: Monday\nSubject: X\nTo: R\n\n> Hey\n>\n> Tuesday",
        ),
        (
            "Yes.\n\nOn Fri, Nov 1, 2024 Jane wrote:\n\nHello" + "\nline" * 9 + "\n> older\n\nend",
            "Yes.",
            "On Fri, Nov 1, 2024 Jane wrote:\n\nHello" + "\nline" * 9 + "\n> older\n\nend",
        ),
    ],
)
def test_the_mail_that_is_answered_is_quoted(text: str, new: str, quoted: str) -> None:
    assert split_quoted(text) == (new, quoted)


@each_case(
    "text",
    [
        "",
        "Hello!",
        "On the whole he wrote:\nnothing at all",
        "On Friday 1 November I said:\nno",
        "From: here\nTo: there",
        "Date: tomorrow\nTo: Bob",
        "> only a quotation",
        "On Fri, Nov 1, 2024 at 2:00 PM Jane <jane@example.com> wrote:\n> only a quotation",
        "-----Original Message-----\nFrom: Jane\n\nonly a quotation",
        "a\n---\nb",
        "Agenda for 14:00:\n- one\n- two",
    ],
)
def test_what_quotes_nothing_stays_whole(text: str) -> None:
    assert split_quoted(text) == (text, None)


@each_case(
    "line",
    [
        "On 1" + " wrote" * 98 + ":",
        "a 11:11 " * 70 + "<a@b> x:",
        "a 11:11 <a@b>" * 40 + ":",
        ">" * 590 + ":",
        "From: x",
        "1 1 1 1",
        "- " * 300,
        "_" * 599,
        "-" * 300 + " forward",
        "forward:\n> From: x",
        "> forward:",
        "----- Forwarded " * 30,
        ">:",
        "It is:\n> x",
    ],
)
@pytest.mark.slow
def test_a_hostile_text_takes_no_longer_than_another(line: str) -> None:
    """A quarter of a million characters: quadratic time would exceed the time limit for tests."""
    text = "\n".join([line] * (250_000 // len(line)))
    assert split_quoted(text)[0]
