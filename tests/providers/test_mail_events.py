"""The events of mail vendors: those that end a mail, and those that only mean something to a person."""

import json
from typing import Any

from app.consent import ReportedConsent
from app.domain import MessageStatus
from app.providers.base import Receipt
from app.providers.mail.events import Notice, is_program
from tests.cases import each_case
from tests.providers import test_mailgun, test_postmark, test_sendgrid, test_ses
from tests.providers.vendors import payload

UNDELIVERED, FAILED = MessageStatus.UNDELIVERED, MessageStatus.FAILED
DELIVERED, READ = MessageStatus.DELIVERED, MessageStatus.READ
IPHONE = "Mozilla/5.0 (iPhone; CPU iPhone OS 17_5 like Mac OS X) AppleWebKit/605.1.15 Mobile/15E148"
GMAIL = "Mozilla/5.0 (Windows NT 5.1; rv:11.0) Gecko Firefox/11.0 (via ggpht.com GoogleImageProxy)"

Expected = MessageStatus | Notice


def check(receipt: Receipt, expected: Expected) -> None:
    if isinstance(expected, Notice):
        assert (receipt.status, (receipt.detail or "").startswith(expected)) == (None, True), receipt.detail
    else:
        assert receipt.status is expected


@each_case(
    "said, expected",
    [
        ({"event": "bounce", "type": "bounce", "status": "5.1.1"}, UNDELIVERED),
        ({"event": "bounce"}, UNDELIVERED),
        ({"event": "bounce", "type": "blocked", "status": "4.7.1", "reason": "421 rate limited"}, Notice.SOFT_BOUNCE),
        ({"event": "bounce", "type": "blocked", "reason": "552 5.2.2 over quota"}, Notice.SOFT_BOUNCE),
        ({"event": "bounce", "type": "expired"}, Notice.SOFT_BOUNCE),
        ({"event": "deferred", "response": "450 4.2.0 greylisted"}, Notice.DELAY),
        ({"event": "dropped", "reason": "Bounced Address"}, FAILED),
        ({"event": "spamreport"}, Notice.COMPLAINT),
        ({"event": "group_unsubscribe"}, Notice.UNSUBSCRIBED),
        ({"event": "group_resubscribe"}, Notice.SUBSCRIBED),
        ({"event": "click"}, Notice.CLICK),
        ({"event": "open", "sg_machine_open": True, "useragent": IPHONE}, Notice.MACHINE_OPEN),
        ({"event": "open", "sg_machine_open": False, "useragent": "Mozilla/5.0"}, READ),
        ({"event": "open", "useragent": "Mozilla/5.0"}, Notice.MACHINE_OPEN),
        ({"event": "open", "useragent": GMAIL}, READ),
    ],
)
def test_an_event_of_sendgrid(said: dict[str, Any], expected: Expected) -> None:
    [receipt] = test_sendgrid.receipts(test_sendgrid.of(test_sendgrid.event(**said)))
    check(receipt, expected)


def client(**info: str) -> dict[str, Any]:
    return {"event": "opened", "client-info": info}


@each_case(
    "said, expected",
    [
        ({"event": "failed", "severity": "permanent", "reason": "suppress-bounce"}, UNDELIVERED),
        ({"event": "failed", "severity": "permanent", "flags": {"is-delayed-bounce": True}}, UNDELIVERED),
        ({"event": "failed", "severity": "temporary", "delivery-status": {"message": "4.2.2 full"}}, Notice.DELAY),
        ({"event": "rejected", "reject": {"reason": "unverified"}}, FAILED),
        ({"event": "complained"}, Notice.COMPLAINT),
        ({"event": "unsubscribed"}, Notice.UNSUBSCRIBED),
        ({"event": "clicked", "client-info": {"bot": "generic"}}, Notice.CLICK),
        (client(bot="gmail"), Notice.MACHINE_OPEN),
        (client(bot="generic", **{"client-type": "browser", "user-agent": IPHONE}), Notice.MACHINE_OPEN),
        (client(bot="", **{"client-type": "robot"}), Notice.MACHINE_OPEN),
        (client(**{"client-type": "unknown", "user-agent": "Mozilla/5.0"}), Notice.MACHINE_OPEN),
        (client(bot="", **{"client-type": "mobile browser", "user-agent": IPHONE}), READ),
        ({"event": "opened"}, READ),
    ],
)
def test_an_event_of_mailgun(said: dict[str, Any], expected: Expected) -> None:
    event = {"id": "Ase7i2zsRYeDXztHGENqRA", "timestamp": 1772366400.5, "recipient": "jane@example.com", **said}
    check(test_mailgun.receipt_of(test_mailgun.event(event)), expected)


def bounce(kind: str) -> dict[str, Any]:
    return {**json.loads(payload("postmark", "bounce.json")), "Type": kind}


def opened(user_agent: str | None) -> dict[str, Any]:
    return {**json.loads(payload("postmark", "open.json")), "UserAgent": user_agent}


@each_case(
    "said, expected",
    [
        (bounce("HardBounce"), UNDELIVERED),
        (bounce("ManuallyDeactivated"), UNDELIVERED),
        (bounce("DMARCPolicy"), UNDELIVERED),
        (bounce("SMTPApiError"), FAILED),
        (bounce("SoftBounce"), Notice.SOFT_BOUNCE),
        (bounce("Blocked"), Notice.SOFT_BOUNCE),
        (bounce("Transient"), Notice.DELAY),
        (bounce("DnsError"), Notice.DELAY),
        (bounce("AutoResponder"), Notice.AUTOMATIC_REPLY),
        (bounce("ChallengeVerification"), Notice.CHALLENGE),
        (bounce("SpamComplaint"), Notice.COMPLAINT),
        (bounce("Unsubscribe"), Notice.UNSUBSCRIBED),
        (bounce("Unknown"), Notice.UNCLEAR_BOUNCE),
        (json.loads(payload("postmark", "spam-complaint.json")), Notice.COMPLAINT),
        ({"RecordType": "SubscriptionChange", "SuppressSending": True}, Notice.UNSUBSCRIBED),
        ({"RecordType": "SubscriptionChange", "SuppressSending": False}, Notice.SUBSCRIBED),
        (opened("Mozilla/5.0"), Notice.MACHINE_OPEN),
        (opened(GMAIL), READ),
        (opened(None), READ),
    ],
)
def test_an_event_of_postmark(said: dict[str, Any], expected: Expected) -> None:
    check(test_postmark.receipt_of(json.dumps(said).encode()), expected)


def ses(kind: str, name: str, **details: Any) -> dict[str, Any]:
    mail = json.loads(payload("ses", "delivery.json"))["mail"]
    return {"eventType": kind, "mail": mail, name: {"timestamp": "2026-03-01T12:00:00.000Z", **details}}


@each_case(
    "said, expected",
    [
        (ses("Bounce", "bounce", bounceType="Permanent", bounceSubType="NoEmail"), UNDELIVERED),
        (ses("Bounce", "bounce", bounceType="Permanent", bounceSubType="OnAccountSuppressionList"), UNDELIVERED),
        (ses("Bounce", "bounce", bounceType="Transient", bounceSubType="General"), Notice.BOUNCE_OR_REPLY),
        (ses("Bounce", "bounce", bounceType="Transient", bounceSubType="MailboxFull"), Notice.SOFT_BOUNCE),
        (ses("Bounce", "bounce", bounceType="Transient", bounceSubType="ContentRejected"), Notice.SOFT_BOUNCE),
        (ses("Bounce", "bounce", bounceType="Transient"), Notice.SOFT_BOUNCE),
        (ses("Bounce", "bounce", bounceType="Undetermined", bounceSubType="Undetermined"), Notice.UNCLEAR_BOUNCE),
        (ses("DeliveryDelay", "deliveryDelay", delayType="InternalFailure"), Notice.DELAY),
        (ses("Complaint", "complaint", complaintFeedbackType="abuse"), Notice.COMPLAINT),
        (ses("Complaint", "complaint", complaintSubType="OnAccountSuppressionList"), UNDELIVERED),
        (ses("Complaint", "complaint", complaintFeedbackType="not-spam"), Notice.NO_SPAM),
        (ses("Subscription", "subscription"), Notice.UNSUBSCRIBED),
        (ses("Click", "click", link="https://shop.example"), Notice.CLICK),
        (ses("Open", "open", userAgent="Mozilla/5.0"), Notice.MACHINE_OPEN),
        (ses("Open", "open", userAgent=IPHONE), READ),
        (ses("Reject", "reject", reason="Bad content"), FAILED),
        (ses("Delivery", "delivery"), DELIVERED),
    ],
)
def test_an_event_of_ses(said: dict[str, Any], expected: Expected) -> None:
    check(test_ses.receipt_of(json.dumps(said).encode()), expected)


COMPLAINT, HARD, SOFT = ReportedConsent.COMPLAINT, ReportedConsent.HARD_BOUNCE, ReportedConsent.SOFT_BOUNCE
UNSUBSCRIBED, SUBSCRIBED = ReportedConsent.UNSUBSCRIBED, ReportedConsent.SUBSCRIBED
LEFT, JOINED = ReportedConsent.LEFT_GROUP, ReportedConsent.JOINED_GROUP
OPTED_OUT, OPTED_IN = ReportedConsent.OPTED_OUT, ReportedConsent.OPTED_IN

Means = ReportedConsent | None


@each_case(
    "said, means",
    [
        ({"event": "spamreport"}, COMPLAINT),
        ({"event": "unsubscribe"}, UNSUBSCRIBED),
        ({"event": "group_unsubscribe", "asm_group_id": 10}, LEFT),
        ({"event": "group_resubscribe", "asm_group_id": 10}, JOINED),
        ({"event": "bounce", "type": "bounce", "status": "5.1.1", "reason": "550 5.1.1 no such user"}, HARD),
        ({"event": "bounce", "type": "bounce", "status": "5.0.0", "reason": "550 go away"}, HARD),
        ({"event": "bounce", "type": "bounce", "bounce_classification": "Invalid Address"}, HARD),
        ({"event": "bounce", "type": "bounce", "bounce_classification": "Content"}, None),
        ({"event": "bounce", "type": "bounce", "bounce_classification": "Reputation"}, None),
        ({"event": "bounce", "type": "bounce", "status": "5.7.1", "reason": "550 5.7.1 spam"}, None),
        ({"event": "bounce", "type": "bounce", "reason": "552 5.2.2 over quota"}, SOFT),
        ({"event": "bounce", "type": "blocked", "reason": "421 rate limited"}, None),
        ({"event": "bounce", "type": "blocked", "reason": "550 denied"}, None),
        ({"event": "bounce", "type": "blocked", "status": "5.1.1", "reason": "no such user"}, SOFT),
        ({"event": "bounce", "type": "blocked", "bounce_classification": "Mailbox Unavailable"}, SOFT),
        ({"event": "bounce", "type": "expired", "reason": "unable to get mx info"}, SOFT),
        ({"event": "dropped", "reason": "Bounced Address"}, HARD),
        ({"event": "dropped", "reason": "Invalid"}, HARD),
        ({"event": "dropped", "reason": "Unsubscribed Address"}, UNSUBSCRIBED),
        ({"event": "dropped", "reason": "Spam Reporting Address"}, COMPLAINT),
        ({"event": "dropped", "reason": "Spam Content"}, None),
        ({"event": "dropped", "reason": "Recipient List over Package Quota"}, None),
        ({"event": "deferred", "response": "452 4.2.2 mailbox full"}, None),
        ({"event": "open"}, None),
    ],
)
def test_what_an_event_of_sendgrid_means_for_consent(said: dict[str, Any], means: Means) -> None:
    [receipt] = test_sendgrid.receipts(test_sendgrid.of(test_sendgrid.event(**said)))
    assert receipt.consent is means


def failed(reason: str, message: str = "", *, severity: str = "permanent") -> dict[str, Any]:
    return {"event": "failed", "severity": severity, "reason": reason, "delivery-status": {"message": message}}


@each_case(
    "said, means",
    [
        ({"event": "complained"}, COMPLAINT),
        ({"event": "unsubscribed"}, UNSUBSCRIBED),
        (failed("bounce", "550 5.1.1 unknown user"), HARD),
        (failed("bounce"), HARD),
        (failed("bounce", "550 5.7.1 spam message rejected"), None),
        (failed("bounce", "552 5.2.2 mailbox full"), SOFT),
        (failed("old"), SOFT),
        (failed("generic", "550 no"), None),
        (failed("generic", "550 5.1.1 unknown user"), HARD),
        (failed("espblock", "554 blocked"), None),
        (failed("suppress-bounce"), HARD),
        (failed("suppress-unsubscribe"), UNSUBSCRIBED),
        (failed("suppress-complaint"), COMPLAINT),
        (failed("generic", "452 4.2.2 mailbox full", severity="temporary"), None),
        ({"event": "rejected", "reject": {"reason": "Sandbox"}}, None),
        ({"event": "delivered"}, None),
    ],
)
def test_what_an_event_of_mailgun_means_for_consent(said: dict[str, Any], means: Means) -> None:
    event = {"id": "Ase7i2zsRYeDXztHGENqRA", "timestamp": 1772366400.5, "recipient": "jane@example.com", **said}
    assert test_mailgun.receipt_of(test_mailgun.event(event)).consent is means


def subscription(*, stops: bool, **values: Any) -> dict[str, Any]:
    known = json.loads(payload("postmark", "subscription-change.json"))
    return {**known, "SuppressSending": stops, "SuppressionReason": "ManualSuppression", **values}


def spam_bounce(kind: str) -> dict[str, Any]:
    return {**bounce(kind), "Details": "554 5.7.1 rejected as spam"}


@each_case(
    "said, means",
    [
        (bounce("HardBounce"), HARD),
        (spam_bounce("HardBounce"), None),
        (bounce("BadEmailAddress"), HARD),
        (bounce("SoftBounce"), SOFT),
        (spam_bounce("SoftBounce"), None),
        *((bounce(kind), None) for kind in ("Blocked", "SpamNotification", "VirusNotification", "DMARCPolicy")),
        *((bounce(kind), None) for kind in ("Transient", "DnsError", "AutoResponder", "Unknown", "SMTPApiError")),
        (bounce("ManuallyDeactivated"), OPTED_OUT),
        (bounce("SpamComplaint"), COMPLAINT),
        (bounce("Unsubscribe"), UNSUBSCRIBED),
        (bounce("Subscribe"), SUBSCRIBED),
        (json.loads(payload("postmark", "spam-complaint.json")), COMPLAINT),
        (json.loads(payload("postmark", "subscription-change.json")), HARD),
        (subscription(stops=True), UNSUBSCRIBED),
        (subscription(stops=True, SuppressionReason="SpamComplaint"), COMPLAINT),
        (subscription(stops=True, Origin="Customer"), OPTED_OUT),
        (subscription(stops=True, Origin="Admin"), OPTED_OUT),
        (subscription(stops=False, SuppressionReason=None), SUBSCRIBED),
        (subscription(stops=False, SuppressionReason=None, Origin="Customer"), OPTED_IN),
        (json.loads(payload("postmark", "delivery.json")), None),
    ],
)
def test_what_an_event_of_postmark_means_for_consent(said: dict[str, Any], means: Means) -> None:
    assert test_postmark.receipt_of(json.dumps(said).encode()).consent is means


def bounced(kind: str, sub_type: str, words: str | None = None) -> dict[str, Any]:
    recipients = [{"emailAddress": "jane@example.com", "diagnosticCode": words}] if words else []
    return ses("Bounce", "bounce", bounceType=kind, bounceSubType=sub_type, bouncedRecipients=recipients)


def preferences(*statuses: str, everything: bool = False) -> dict[str, Any]:
    topics = [{"topicName": f"topic-{number}", "subscriptionStatus": each} for number, each in enumerate(statuses)]
    now = {"unsubscribeAll": everything, "topicSubscriptionStatus": topics}
    return ses("Subscription", "subscription", contactList="shop", newTopicPreferences=now)


@each_case(
    "said, means",
    [
        (bounced("Permanent", "General", "smtp; 550 5.1.1 user unknown"), HARD),
        (bounced("Permanent", "General"), HARD),
        (bounced("Permanent", "General", "smtp; 554 5.7.1 rejected as spam"), None),
        (bounced("Permanent", "NoEmail"), HARD),
        (bounced("Permanent", "Suppressed"), HARD),
        (bounced("Permanent", "OnAccountSuppressionList"), OPTED_OUT),
        (bounced("Permanent", "UnsubscribedRecipient"), UNSUBSCRIBED),
        (bounced("Transient", "MailboxFull"), SOFT),
        (bounced("Transient", "General", "smtp; 450 4.2.0 out of office"), None),
        (bounced("Transient", "ContentRejected"), None),
        (bounced("Undetermined", "Undetermined"), None),
        (ses("Complaint", "complaint", complaintFeedbackType="abuse"), COMPLAINT),
        (ses("Complaint", "complaint"), COMPLAINT),
        (ses("Complaint", "complaint", complaintFeedbackType="not-spam"), None),
        (ses("Complaint", "complaint", complaintSubType="OnAccountSuppressionList"), COMPLAINT),
        (ses("Subscription", "subscription"), UNSUBSCRIBED),
        (preferences(everything=True), UNSUBSCRIBED),
        (preferences("OptOut", "OptIn"), LEFT),
        (preferences("OptIn", "OptIn"), JOINED),
        (ses("DeliveryDelay", "deliveryDelay", delayType="MailboxFull"), None),
        (ses("Reject", "reject", reason="Bad content"), None),
    ],
)
def test_what_an_event_of_ses_means_for_consent(said: dict[str, Any], means: Means) -> None:
    assert test_ses.receipt_of(json.dumps(said).encode()).consent is means


def test_the_vendor_s_words_follow_the_notice() -> None:
    said = {"event": "bounce", "type": "blocked", "reason": "421 try later"}
    [receipt] = test_sendgrid.receipts(test_sendgrid.of(test_sendgrid.event(**said)))
    assert receipt.detail == "It bounced for a reason that may pass, and is not tried again: 421 try later"


@each_case(
    "user_agent, expected",
    [
        ("Mozilla/5.0", True),
        (" Mozilla/5.0 ", True),
        ("Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)", True),
        ("python-requests/2.31", True),
        ("Go-http-client/1.1", True),
        ("curl/8.5.0", True),
        ("Mozilla/5.0 (compatible; bingbot/2.0)", True),
        (IPHONE, False),
        (GMAIL, False),
        ("YahooMailProxy; https://help.yahoo.com/kb/yahoo-mail-proxy-SLN28749.html", False),
        ("Mozilla/5.0 (Linux; Android 9; CUBOT NOTE 7) AppleWebKit/537.36", False),
        ("Outlook-iOS/709.2144270.prod.iphone (3.12.0)", False),
        ("", False),
        (None, False),
    ],
)
def test_a_program_is_known_by_its_name(user_agent: str | None, expected: bool) -> None:
    assert is_program(user_agent) is expected
