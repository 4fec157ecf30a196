"""The meaning of a bounce for its address, by the words of real mail servers."""

from app.consent import ReportedConsent
from app.providers.mail.events import CONSENT_OF, Notice, consent_of_bounce, notice_of_feedback
from tests.cases import each_case

HARD, SOFT = ReportedConsent.HARD_BOUNCE, ReportedConsent.SOFT_BOUNCE


@each_case(
    "words, expected",
    [
        # Permanent by the vendor's verdict.
        (None, HARD),
        ("550 5.1.1 no such user", HARD),
        ("550-5.1.1 The email account that you tried to reach does not exist.", HARD),
        ("smtp; 550 5.1.10 RESOLVER.ADR.RecipientNotFound; Recipient not found by SMTP address lookup", HARD),
        ("550 5.2.1 The email account that you tried to reach is inactive.", HARD),
        ("550 5.4.1 Recipient address rejected: Access denied.", HARD),
        ("550 5.5.0 Requested action not taken: mailbox unavailable", HARD),
        ("554 delivery error: This user doesn't have a yahoo.com account", HARD),
        ("550 5.7.1 <jane@client.example>: Recipient address rejected: user unknown", HARD),
        ("552 5.2.2 The email account that you tried to reach is over quota", SOFT),
        ("550 5.4.7 Delivery expired (message too old)", SOFT),
        ("450 4.2.1 mailbox busy", SOFT),
        # The content, the sender or the policy is to blame, also if the vendor calls it permanent.
        ("550 5.7.1 Unfortunately, messages from [192.0.2.1] weren't sent: on our block list (S3140)", None),
        ("554 5.7.1 Message rejected as spam by Content Filtering.", None),
        ("550-5.7.26 This mail has been blocked because the sender is unauthenticated.", None),
        ("550 5.7.509 Access denied, sending domain example.com does not pass DMARC verification", None),
        ("550 5.7.1 TRANSPORT.RULES.RejectMessage; the message was rejected by organization policy", None),
        ("550 5.7.1 Access denied", None),
        ("550 5.2.1 The user is receiving mail at a rate that prevents additional messages", None),
        ("552 5.3.4 Message size exceeds fixed limit", None),
        ("552 5.2.3 Message exceeds maximum fixed size", None),
        ("554 5.6.0 Invalid message content", None),
        ("553 5.1.8 Sender domain does not exist", None),
        ("550 5.1.7 invalid sender", None),
        ("554 Service unavailable; Client host [192.0.2.1] blocked using zen.spamhaus.org", None),
        ("550 relaying denied", None),
        ("421 4.7.0 rate limited", None),
    ],
)
def test_only_a_bounce_about_the_address_is_a_hard_one(words: str | None, expected: ReportedConsent | None) -> None:
    assert consent_of_bounce(words, HARD) is expected


@each_case(
    "words, verdict, expected",
    [
        ("550 5.1.1 no such user", SOFT, SOFT),
        ("421 4.7.0 rate limited", SOFT, None),
        ("", SOFT, SOFT),
        ("550 5.1.1 no such user", None, HARD),
        ("Remote host said: 553 5.3.0 no such user", None, HARD),
        ("5.0.0", None, None),
        ("4.4.1 connect to client.example[192.0.2.1]:25: Connection timed out", None, SOFT),
        ("Undelivered Mail Returned to Sender", None, None),
    ],
)
def test_the_verdict_of_the_vendor_counts_where_the_words_tell_nothing(
    words: str, verdict: ReportedConsent | None, expected: ReportedConsent | None
) -> None:
    assert consent_of_bounce(words, verdict) is expected


@each_case(
    "kind, consent",
    [
        ("abuse", ReportedConsent.COMPLAINT),
        ("Abuse", ReportedConsent.COMPLAINT),
        ("fraud", ReportedConsent.COMPLAINT),
        (None, ReportedConsent.COMPLAINT),
        ("opt-out", ReportedConsent.UNSUBSCRIBED),
        ("not-spam", None),
        ("auth-failure", None),
        ("virus", None),
    ],
)
def test_a_complaint_is_one_of_a_person(kind: str | None, consent: ReportedConsent | None) -> None:
    assert CONSENT_OF.get(notice_of_feedback(kind)) is consent


def test_no_other_notice_means_anything() -> None:
    assert set(CONSENT_OF) == {Notice.COMPLAINT, Notice.UNSUBSCRIBED, Notice.SUBSCRIBED}
