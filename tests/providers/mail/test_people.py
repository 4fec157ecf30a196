"""The people of a mail: contact forms, groups, lists, copies, and mail that was forwarded."""

from time import process_time

import pytest

from app.providers.base import Proof
from app.providers.mail.people import MOST_ADDRESSES, People, people_of
from tests.cases import each_case

SUPPORT = "support@shop.example"
TECHNICAL = "4f0c2c@inbound.postmarkapp.com"


def people(written: str, *recipients: str, envelope_sender: str = "") -> People:
    headers = [(name, value.strip()) for name, _, value in (line.partition(":") for line in written.splitlines())]
    return people_of(headers, recipients or [SUPPORT], envelope_sender)


@each_case(
    "written, recipient, contact",
    [
        # From is the recipient's own address: forms, groups and lists.
        (f"From: Shop <{SUPPORT}>\nReply-To: Jane <jane@mail.example>", SUPPORT, ("Jane", "jane@mail.example")),
        (f"From: {SUPPORT.upper()}\nReply-To: jane@mail.example", SUPPORT, ("", "jane@mail.example")),
        (
            f"From: \"'Jane Roe' via Support\" <{SUPPORT}>\nX-Original-Sender: j@mail.example\nReply-To: {SUPPORT}",
            SUPPORT,
            ("Jane Roe", "j@mail.example"),
        ),
        (
            f"From: Jane via Support <{SUPPORT}>\nX-Original-From: =?utf-8?Q?J=C3=A4ne?= <jane@mail.example>",
            SUPPORT,
            ("Jäne", "jane@mail.example"),
        ),
        (f"From: {SUPPORT}\nAuthor: Jane <jane@mail.example>", SUPPORT, ("Jane", "jane@mail.example")),
        (f"From: {SUPPORT}\nReply-To: {SUPPORT}, Jane <jane@mail.example>", SUPPORT, ("Jane", "jane@mail.example")),
        ("From: WordPress <wordpress@shop.example>\nReply-To: j@mail.example", SUPPORT, ("", "j@mail.example")),
        ("From: web@shop.example\nReply-To: j@mail.example", "support@mail.shop.example", ("", "j@mail.example")),
        ("From: noreply@shop.example\nReply-To: j@mail.example", SUPPORT, ("", "j@mail.example")),
        ("From: shop-form@shop.example\nReply-To: j@mail.example", SUPPORT, ("", "j@mail.example")),
        ("From: Kontaktformular@shop.example\nReply-To: j@mail.example", SUPPORT, ("", "j@mail.example")),
        (
            "From: kim@shop.example\nX-Mailer: PHPMailer 6.9.1\nReply-To: j@mail.example",
            SUPPORT,
            ("", "j@mail.example"),
        ),
        (
            "From: 'Jane' via Crew <crew@shop.example>\nX-Original-Sender: j@mail.example",
            "bob@shop.example",
            ("Jane", "j@mail.example"),
        ),
        (
            "From: Jane via Crew <crew@shop.example>\nTo: crew@shop.example\nReply-To: j@mail.example",
            SUPPORT,
            ("Jane", "j@mail.example"),
        ),
        (
            f"From: {SUPPORT}\nTo: {SUPPORT}\nReply-To: j@mail.example\nX-Forwarded-To: {TECHNICAL}",
            TECHNICAL,
            ("", "j@mail.example"),
        ),
        # None of these names another person.
        (f"From: Shop <{SUPPORT}>", SUPPORT, ("Shop", SUPPORT)),
        (f"From: Shop <{SUPPORT}>\nReply-To: {SUPPORT}\nX-Original-Sender: {SUPPORT}", SUPPORT, ("Shop", SUPPORT)),
        ("From: Bob <bob@shop.example>\nReply-To: sales@shop.example", SUPPORT, ("Bob", "bob@shop.example")),
        # From is a colleague's.
        ("From: Bob <bob@shop.example>\nReply-To: bob@private.example", SUPPORT, ("Bob", "bob@shop.example")),
        # From is another's. All other headers are the sender's own words.
        (
            "From: j@evil.example\nTo: j@evil.example\nReply-To: victim@bank.example",
            SUPPORT,
            ("", "j@evil.example"),
        ),
        (
            "From: J via Dev <j@evil.example>\nTo: j@evil.example\nList-Id: <dev.evil.example>\n"
            "X-Original-From: victim@bank.example\nX-Original-Sender: victim@bank.example\nAuthor: v@bank.example",
            SUPPORT,
            ("J via Dev", "j@evil.example"),
        ),
        ("From: noreply@evil.example\nReply-To: v@bank.example", SUPPORT, ("", "noreply@evil.example")),
        ("From: victim@bank.example, <j@evil.example>", SUPPORT, ("", "j@evil.example")),
        ("From: victim@bank.example, J <j@evil.example>", SUPPORT, ("J", "j@evil.example")),
        (
            f"From: j@evil.example\nCc: j@evil.example, {SUPPORT}\nReply-To: v@bank.example",
            SUPPORT,
            ("", "j@evil.example"),
        ),
        # From is a person's.
        (
            "From: Jane <jane@client.example>\nReply-To: office@client.example",
            SUPPORT,
            ("Jane", "jane@client.example"),
        ),
        ("From: j@client.example\nX-Original-Sender: evil@x.example", SUPPORT, ("", "j@client.example")),
        ("From: j@gmail.com\nReply-To: j@work.example", "shop@gmail.com", ("", "j@gmail.com")),
        ("From: j@notshop.example\nReply-To: j@work.example", SUPPORT, ("", "j@notshop.example")),
        ("From: j@client.example\nCc: j@client.example\nReply-To: o@x.example", SUPPORT, ("", "j@client.example")),
        ("Sender: Jane <j@client.example>\nFrom: nothing", SUPPORT, ("Jane", "j@client.example")),
    ],
)
def test_the_contact_is_the_person(written: str, recipient: str, contact: tuple[str, str]) -> None:
    assert people(written, recipient).senders[0] == contact


def test_without_an_author_the_envelope_counts_and_no_other_header() -> None:
    assert people("Reply-To: jane@mail.example", envelope_sender="b@x.example").senders[0] == ("", "b@x.example")
    assert people("Reply-To: jane@mail.example").senders == []
    cut = "e" * 307 + "@bank.example"
    assert people("From: nobody", envelope_sender=f"{cut}.evil.example").senders == []


@each_case("bracket", ["(", "[", "<", "{", "()", '"(', "(a", "<a@b.example>"])
@each_case("header", ["From", "Reply-To", "Cc", "Sender", "X-Forwarded-To"])
def test_two_hundred_thousand_brackets_are_a_header_like_any_other(header: str, bracket: str) -> None:
    found = people(f"{header}: {bracket * (200_000 // len(bracket))}", envelope_sender="jane@mail.example")
    assert found.senders


def test_reply_addresses_and_copies_are_kept_as_they_are_spelled() -> None:
    found = people(
        "From: j@x.example\nReply-To: Office <Office@Client.example>, office@client.example\n"
        "Cc: =?utf-8?Q?Ann=2C?= <Ann@x.example>, Team: b@x.example, c@x.example;\nCc: d@x.example"
    )
    assert found.reply_to == ["Office@Client.example"]
    assert found.cc == ["Ann@x.example", "b@x.example", "c@x.example", "d@x.example"]
    many = people("From: j@x.example\nCc: " + ", ".join(f"a{number}@x.example" for number in range(500)))
    assert len(many.cc) == MOST_ADDRESSES


@each_case(
    "written, recipient, expected",
    [
        # A vendor's own domain: the forwarding headers count, and a single address in To.
        (f"To: {SUPPORT}\nDelivered-To: {SUPPORT}", TECHNICAL, [(SUPPORT, Proof.DOMAIN)]),
        ("To: Support@Shop.example", TECHNICAL, [("Support@Shop.example", Proof.DOMAIN)]),
        ("To: a@shop.example, b@x.example", TECHNICAL, [("a@shop.example", Proof.NONE), ("b@x.example", Proof.NONE)]),
        (
            f"To: list@x.example\nEnvelope-To: {SUPPORT}",
            TECHNICAL,
            [(SUPPORT, Proof.DOMAIN), ("list@x.example", Proof.NONE)],
        ),
        (
            f"To: info@shop.example\nX-Forwarded-For: {SUPPORT} {TECHNICAL}\nX-Forwarded-To: {TECHNICAL}",
            TECHNICAL,
            [(SUPPORT, Proof.DOMAIN), ("info@shop.example", Proof.NONE)],
        ),
        # A domain below the one that people write to.
        (f"To: {SUPPORT}\nX-Original-To: {SUPPORT}", "support@parse.shop.example", [(SUPPORT, Proof.DOMAIN)]),
        # Any other domain: only the database can tell.
        (f"To: {SUPPORT}\nDelivered-To: {SUPPORT}", "u17@parse.example", [(SUPPORT, Proof.HEADERS)]),
        (
            "To: jane@client.example\nDelivered-To: jane@client.example",
            SUPPORT,
            [("jane@client.example", Proof.HEADERS)],
        ),
        # Two hops: the first one is written last.
        (
            "Delivered-To: b@shop.example\nX-Original-To: a@shop.example",
            "in@parse.shop.example",
            [("a@shop.example", Proof.DOMAIN), ("b@shop.example", Proof.DOMAIN)],
        ),
        # Written to directly, or a blind copy.
        (f"To: {TECHNICAL}\nDelivered-To: {SUPPORT}", TECHNICAL, []),
        ("To: jane@client.example", SUPPORT, []),
        (f"Delivered-To: {SUPPORT}", SUPPORT, []),
        ("Delivered-To: nothing\nX-Forwarded-For: 192.0.2.1, 192.0.2.2", SUPPORT, []),
    ],
)
def test_a_forwarded_mail_tells_whom_it_was_sent_to(
    written: str, recipient: str, expected: list[tuple[str, Proof]]
) -> None:
    assert people(f"From: j@x.example\n{written}", recipient).sent_to == {recipient: expected}


def test_of_two_recipients_neither_takes_the_other_ones_mail() -> None:
    found = people(f"From: j@x.example\nTo: {SUPPORT}\nDelivered-To: {SUPPORT}", SUPPORT, "sales@shop.example")
    assert found.sent_to == {SUPPORT: [], "sales@shop.example": []}


@each_case(
    "written, expected",
    [
        (f"From: {SUPPORT}\nReply-To: jane@mail.example", True),
        ("From: j@x.example\nList-Id: <web.shop.example>\nTo: web@shop.example", True),
        ("From: j@x.example\nList-Post: <mailto:web@shop.example>", True),
        ("From: j@x.example", False),
        ("From: monitor@shop.example", False),
        ("From: Jane via Dev <dev@lists.example>\nTo: dev@lists.example\nList-Id: <dev.lists.example>", False),
    ],
)
def test_ones_own_forms_and_groups_pass_on_what_a_person_wrote(written: str, expected: bool) -> None:
    assert people(written).is_passed_on is expected


@pytest.mark.slow
def test_thousands_of_addresses_take_no_quadratic_time() -> None:
    addresses = ", ".join(f"a{number}@d{number}.example" for number in range(4_000))
    headers = [(name, addresses) for name in ("From", "To", "Cc", "Reply-To", "Delivered-To", "X-Original-From")]
    before = process_time()
    people_of(headers, addresses.split(", "), "")
    assert process_time() - before < 5
