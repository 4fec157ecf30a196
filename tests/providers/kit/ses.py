"""Amazon SES, as the contract test sees it. It calls by notifications of SNS, which certificates vouch for."""

import base64
import email
import email.policy
import json
import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import httpx
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from app.domain import MessageStatus
from app.providers.base import Callback
from app.providers.toolbox.sns import RETRIED_FOR
from app.providers.toolbox.verification import TOLERANCE
from app.testing.description import PICTURE, REFERENCE, Asked, Description, called, mail
from tests.providers.vendors import payload

ACCESS_KEY, SECRET_KEY = "AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"
TOPIC = "arn:aws:sns:eu-west-1:123456789012:mail"
KEY = generate_private_key(65537, 2048)
_FILE = "Content-Type: text/plain\nContent-Disposition: attachment; filename=a.txt\n\nattached"


def certificate() -> httpx.Response:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "sns.amazonaws.com")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(KEY.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .sign(KEY, SHA256())
    )
    return httpx.Response(200, content=made.public_bytes(Encoding.PEM))


def sign(body: bytes) -> Callback:
    notification = {
        "Message": body.decode(),
        "MessageId": "22b80b92-fdea-4c2c-8f9d-bdfb0c7bf324",
        "Timestamp": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z"),
        "TopicArn": TOPIC,
        "Type": "Notification",
    }
    signed = "".join(f"{name}\n{value}\n" for name, value in notification.items()).encode()
    signature = base64.b64encode(KEY.sign(signed, PKCS1v15(), SHA256())).decode()
    envelope = {
        **notification,
        "SignatureVersion": "2",
        "Signature": signature,
        "SigningCertURL": "https://sns.eu-west-1.amazonaws.com/SimpleNotificationService-1.pem",
    }
    return called("ses", json.dumps(envelope).encode(), {"content-type": "text/plain; charset=UTF-8"})


def forge(callback: Callback, value: str | None) -> Callback:
    envelope = json.loads(callback.body)
    del envelope["Signature"]
    return replace(callback, body=json.dumps(envelope | ({} if value is None else {"Signature": value})).encode())


def asked(content: bytes) -> object:
    """The request, with what its mail says in place of the mail."""
    request = json.loads(content)
    raw = base64.b64decode(request["Content"]["Raw"]["Data"])
    sent = email.message_from_bytes(raw, policy=email.policy.default)
    request["Content"] = [sent["From"], sent["To"], sent["Subject"], sent["Message-ID"], sent.get_content()]
    return request


def with_file() -> bytes:
    received = json.loads(payload("ses", "received.json"))
    headers, _, text = received["content"].replace("\r\n", "\n").partition("\n\n")
    parts = f"--b\nContent-Type: text/plain\n\n{text}\n--b\n{_FILE}\n--b--\n"
    content = f"{headers}\nMIME-Version: 1.0\nContent-Type: multipart/mixed; boundary=b\n\n{parts}"
    return json.dumps({**received, "content": content}).encode()


def description() -> Description:
    return Description(
        environment={
            "SES_REGION": "eu-west-1",
            "SES_ACCESS_KEY_ID": ACCESS_KEY,
            "SES_SECRET_ACCESS_KEY": SECRET_KEY,
            "SES_TOPIC_ARN": TOPIC,
        },
        secrets=[SECRET_KEY],
        message=mail(),
        request=Asked(
            "POST",
            "https://email.eu-west-1.amazonaws.com/v2/email/outbound-emails",
            {
                "Authorization": re.compile(rf"AWS4-HMAC-SHA256 Credential={ACCESS_KEY}/[0-9]+/eu-west-1/ses/.*"),
                "X-Amz-Date": re.compile(r"[0-9]{8}T[0-9]{6}Z"),
                "X-Amz-Content-Sha256": re.compile(r"[0-9a-f]{64}"),
                "Content-Type": "application/json",
            },
            {
                "FromEmailAddress": "shop@example.com",
                "Destination": {"ToAddresses": ["jane@example.com"]},
                "Content": [
                    "shop@example.com",
                    "jane@example.com",
                    "Greetings",
                    f"<{REFERENCE}@example.com>",
                    "Hello!\r\n",
                ],
                "EmailTags": [{"Name": "reference", "Value": REFERENCE}],
            },
            read=asked,
        ),
        accepted=httpx.Response(200, json={"MessageId": "0102018f"}),
        id="0102018f",
        media=mail(attachments=[PICTURE]),
        sign=sign,
        forge=forge,
        signed_by="RSA, by certificate (SNS)",
        verified_with=["SES_TOPIC_ARN"],
        spaced=frozenset({"SES_TOPIC_ARN"}),
        good_for=RETRIED_FOR + TOLERANCE,
        fetched=certificate(),
        receipt=lambda word: payload("ses", "delivery.json").replace(
            b'"eventType": "Delivery"', f'"eventType": "{word}"'.encode()
        ),
        words={"Delivery": MessageStatus.DELIVERED, "Open": MessageStatus.READ},
        inbound=payload("ses", "received.json"),
        inbound_media=with_file(),
    )
