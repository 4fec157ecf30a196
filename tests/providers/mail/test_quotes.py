"""The new text of a mail, told from quoted text."""
# ruff: noqa: RUF001 - the words are of many languages, and so are their letters

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


@each_case("said", [*ATTRIBUTIONS, *HEADS])
def test_without_marks_everything_below_is_quoted(said: str) -> None:
    quoted = f"{said}\n\nShall we meet?\n\nJane"
    assert split_quoted(f"Yes.\n\n{quoted}") == ("Yes.", quoted)


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
    ],
)
def test_a_hostile_text_takes_no_longer_than_another(line: str) -> None:
    """A quarter of a million characters: quadratic time would exceed the time limit for tests."""
    text = "\n".join([line] * (250_000 // len(line)))
    assert split_quoted(text)[0]
