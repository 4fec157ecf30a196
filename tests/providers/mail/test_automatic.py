"""Marks of mails that no person wrote, as mail servers, autoresponders and lists write their headers."""

from app.details import Automatic
from app.providers.mail.automatic import automatic_kind
from tests.cases import each_case

JANE = "From: Jane <jane@client.example>"
OUTLOOK = (
    "X-MS-Exchange-Transport-CrossTenantHeadersStamped: AM0PR01MB0001\nX-Auto-Response-Suppress: DR, OOF, AutoReply"
)


def kind_of(
    written: str, return_path: str | None = "jane@client.example", *, is_passed_on: bool = False
) -> str | None:
    headers = [(name, value.strip()) for name, _, value in (line.partition(":") for line in written.splitlines())]
    return automatic_kind(headers, return_path, is_passed_on=is_passed_on)


@each_case(
    "written",
    [
        f"{JANE}\nAuto-Submitted: auto-replied (vacation)",
        f"{JANE}\nAUTO-SUBMITTED: Auto-Replied; owner-email=jane@client.example",
        f"{JANE}\nAuto-Submitted: auto-generated",
        f"{JANE}\nAuto-Submitted: auto-notified; sieve",
        f"{JANE}\nPrecedence: bulk\nX-Autoreply: yes\nAuto-Submitted: auto-replied\nSubject: Out of Office Re: Hello",
        f"{JANE}\nX-Autorespond: Your order",
        f"{JANE}\nX-Autoresponder: yes",
        f"{JANE}\nPrecedence: auto_reply",
        f"{JANE}\nX-POST-MessageClass: 9; Autoresponder",
        f"{JANE}\nX-MS-Exchange-Generated-Message-Source: Out of Office Agent",
        f"{JANE}\nX-Auto-Response-Suppress: All\nSubject: Automatische Antwort: Angebot 17",
        f"{JANE}\nSubject: =?utf-8?B?{'UsOpcG9uc2UgYXV0b21hdGlxdWXCoDog'}?= Devis",
        f"{JANE}\nSubject: Automatic reply: Automatic reply: x",
        f"{JANE}\nSubject: 自動応答: 会議",
        f"{JANE}\nSubject: Automatiskt svar: offert",
        f"{JANE}\nSubject: Automatikus válasz: ajánlat",
        f"{JANE}\nSubject: Автоматична відповідь: рахунок",
        f"{JANE}\nSubject: AUTO: Jane Roe is out of the office (returning 02.01.2025)",
        f"{JANE}\nDelivered-By-The-Graces-Of: The Vacation program",
    ],
)
def test_a_reply_by_a_program_is_a_reply(written: str) -> None:
    assert kind_of(written) is Automatic.REPLY


@each_case(
    "written, return_path, expected",
    [
        ("From: MAILER-DAEMON@mx.client.example (Mail Delivery System)", "", Automatic.BOUNCE),
        ("From: Mail Delivery Subsystem <mailer-daemon@googlemail.com>", None, Automatic.BOUNCE),
        ("From: postmaster@client.example\nSubject: Undeliverable: Your order", None, Automatic.BOUNCE),
        ("From: postmaster@client.example\nSubject: Angebot", "", Automatic.BOUNCE),
        ("From: postmaster@client.example\nSubject: Non recapitabile: ordine 17", None, Automatic.BOUNCE),
        ("From: postmaster@client.example\nSubject: 配信不能: 注文", None, Automatic.BOUNCE),
        ("From: MAILER-DAEMON (Mail Delivery System)\nSubject: Your order", "", Automatic.BOUNCE),
        (
            "From: Jane <jane@client.example>\nX-Failed-Recipients: gone@client.example",
            "x@y.example",
            Automatic.BOUNCE,
        ),
        (
            "From: Microsoft Outlook <MicrosoftExchange329e71ec88ae4615bbc36ab6ce41109e@client.example>",
            None,
            Automatic.BOUNCE,
        ),
        (
            f'{JANE}\nContent-Type: multipart/report; boundary="b"; report-type=delivery-status',
            "",
            Automatic.BOUNCE,
        ),
        (
            f'{JANE}\nContent-Type: Multipart/Report; report-type = "Disposition-Notification"; boundary=b',
            "jane@client.example",
            Automatic.DISPOSITION,
        ),
        (f"{JANE}\nContent-Type: message/disposition-notification", None, Automatic.DISPOSITION),
        (
            "From: staff@hotmail.example\nContent-Type: multipart/report; boundary=b; report-type=feedback-report",
            "staff@hotmail.example",
            Automatic.COMPLAINT,
        ),
        (f"{JANE}\nAuto-Submitted: auto-replied\nReturn-Path: <>", None, Automatic.REPLY),
        (f"{JANE}\nReturn-Path: <>\nSubject: Wir sind umgezogen", None, Automatic.REPLY),
        (f"{JANE}\nSubject: Hello", "<>", Automatic.REPLY),
        (f"{JANE}\nSubject: Hello", "MAILER-DAEMON@mx.client.example", Automatic.REPLY),
    ],
)
def test_reports_and_mails_that_must_not_be_answered(
    written: str, return_path: str | None, expected: Automatic
) -> None:
    assert kind_of(written, return_path) is expected


@each_case(
    "written",
    [
        f"{JANE}\nList-Id: Developers <dev.lists.project.example>\nPrecedence: list",
        f"{JANE}\nList-Post: <mailto:dev@lists.project.example>",
        f"{JANE}\nPrecedence: bulk\nList-Unsubscribe: <https://news.client.example/u/1>",
        f"{JANE}\nPrecedence: junk",
        f"{JANE}\nMailing-List: contact dev-help@project.example; run by ezmlm",
        f"{JANE}\nX-BeenThere: dev@project.example\nX-Mailman-Version: 2.1.5",
        "From: news@client.example\nList-ID: <1234.news.client.example>\nFeedback-ID: 1:2:3:esp",
    ],
)
def test_mail_to_subscribers_is_of_a_list(written: str) -> None:
    assert kind_of(written) is Automatic.LIST


@each_case(
    "written",
    [
        JANE,
        f"{JANE}\n{OUTLOOK}\nSubject: Offer",
        f"{JANE}\nAuto-Submitted: no",
        f"{JANE}\nAuto-Submitted: No (by hand)",
        f"{JANE}\nAuto-Submitted:",
        f"{JANE}\nX-Autoreply: no\nX-Auto-Respond: false",
        f"{JANE}\nPrecedence: first-class",
        f"{JANE}\nPrecedence: normal\nX-Priority: 1",
        f"{JANE}\nSubject: Re: Automatic reply: your holidays",
        f"{JANE}\nSubject: Out of office on Friday?",
        f"{JANE}\nSubject: Fwd: Undelivered Mail Returned to Sender",
        f"{JANE}\nSubject: Undeliverable parcel 17",
        f"{JANE}\nSubject: Onbestelbaar pakket",
        f"{JANE}\nSubject: Auto: Reparatur oder Verkauf?",
        "From: Mailer-Daemon Fans <fans@client.example>\nSubject: Hello",
        "From: Postmaster <postmaster@client.example>\nSubject: Your certificate",
        "From: billing@client.example\nSubject: Invoice 17\nFeedback-ID: 1:invoice:esp",
        f"{JANE}\nList-Unsubscribe: <https://esp.example/u>\nList-Unsubscribe-Post: List-Unsubscribe=One-Click",
        f"{JANE}\nX-MS-Exchange-Generated-Message-Source: Mailbox Rules Agent\nSubject: FW: Offer",
        f"{JANE}\nContent-Type: multipart/mixed; boundary=report-type=delivery-status",
        f"{JANE}\nContent-Type: multipart/report; boundary=b",
        f"{JANE}\nDisposition-Notification-To: jane@client.example\nReturn-Receipt-To: jane@client.example",
    ],
)
def test_a_person_is_never_marked(written: str) -> None:
    assert kind_of(written) is None


def test_a_form_or_group_of_ones_own_passes_on_what_a_person_wrote() -> None:
    form = "From: Shop <web@shop.example>\nAuto-Submitted: auto-generated\nPrecedence: bulk"
    assert kind_of(form, "", is_passed_on=True) is None
    group = "From: Jane via Web <web@shop.example>\nList-ID: <web.shop.example>\nPrecedence: list"
    assert kind_of(group, is_passed_on=True) is None
    assert kind_of(f"{group}\nAuto-Submitted: auto-replied", is_passed_on=True) is Automatic.REPLY
