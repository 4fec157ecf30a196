"""The subject of an answer."""
# ruff: noqa: RUF001 - the words are of many languages, and so are their letters

from app.providers.mail.subjects import answer_to
from tests.cases import each_case


@each_case(
    "subject",
    [
        "Re: Hello",
        "RE: Hello",
        "re:Hello",
        "RE : Bonjour",
        "Re[2]: Hello",
        "Re^3: Hello",
        "Re(4): Hello",
        "AW: Hallo",
        "Antw: Hallo",
        "SV: Hej",
        "VS: Hei",
        "RV: Hola",
        "R: Ciao",
        "RIF: Ciao",
        "RES: Oi",
        "Odp: Witaj",
        "YNT: Selam",
        "Отв: Привет",
        "Ответ: Привет",
        "回复：你好",
        "答复: 你好",
        "回覆: 你好",
        "[EXT] Re: Hello",
        "[a] [b] AW: Hallo",
    ],
)
def test_an_answer_keeps_the_subject_of_an_answer(subject: str) -> None:
    assert answer_to(f" {subject} ") == subject


@each_case(
    ("subject", "answer"),
    [
        ("Hello", "Re: Hello"),
        ("Fwd: Hello", "Re: Fwd: Hello"),
        ("Regarding: your order", "Re: Regarding: your order"),
        ("Receipt 12: paid", "Re: Receipt 12: paid"),
        ("[Ticket 42] Hello", "Re: [Ticket 42] Hello"),
        ("Ref: 4711", "Re: Ref: 4711"),
        ("Hello Re: you", "Re: Hello Re: you"),
        ("x" * 998, "Re: " + "x" * 994),
        ("[" * 500 + "Re:", "Re: " + "[" * 500 + "Re:"),
        ("", None),
        (" ", None),
        (None, None),
    ],
)
def test_any_other_mail_is_answered_with_re(subject: str | None, answer: str | None) -> None:
    assert answer_to(subject) == answer
