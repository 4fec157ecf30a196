"""Notifications of Amazon SNS over HTTPS: their signature, and the confirmation of a subscription.

https://docs.aws.amazon.com/sns/latest/dg/sns-verify-signature-of-message.html
"""

import base64
import re
from collections.abc import Collection
from datetime import datetime, timedelta
from typing import Literal

import httpx
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.hashes import SHA1, SHA256
from pydantic import Field, TypeAdapter

from app.providers.base import (
    Callback,
    CallbackRefused,
    CallbackUnverifiable,
    TemporaryFailure,
    UnknownOutcome,
    hint,
)
from app.providers.toolbox.http_client import exchange
from app.providers.toolbox.models import UtcTime, VendorId, VendorModel
from app.providers.toolbox.verification import TOLERANCE

#: A notification has the time of its publication, also in a retry. SNS retries for an hour.
RETRIED_FOR = timedelta(hours=1)

_HOST = r"https://sns\.[a-z0-9-]{1,32}\.amazonaws\.com(\.cn)?"
_CERTIFICATE_URL = re.compile(_HOST + r"/[A-Za-z0-9._-]{1,200}\.pem")
_SUBSCRIBE_URL = re.compile(_HOST + r"/\?[A-Za-z0-9&=%._~:+-]{1,2000}")
_TIME: TypeAdapter[datetime] = TypeAdapter(UtcTime)
#: Each region has a certificate of its own, which AWS changes about once a year.
_MOST_CERTIFICATES = 16


class Notification(VendorModel, strict=True):
    """The envelope of a notification."""

    type: Literal["Notification", "SubscriptionConfirmation", "UnsubscribeConfirmation"] = Field(alias="Type")
    message_id: VendorId = Field(alias="MessageId")
    topic_arn: str = Field(alias="TopicArn")
    message: str = Field(alias="Message", repr=False)
    timestamp: str = Field(alias="Timestamp")
    signature_version: Literal["1", "2"] = Field(alias="SignatureVersion")
    signature: str = Field(alias="Signature")
    certificate_url: str = Field(alias="SigningCertURL")
    subject: str | None = Field(None, alias="Subject")
    subscribe_url: str | None = Field(None, alias="SubscribeURL")
    token: str | None = Field(None, alias="Token", repr=False)

    @property
    def published_at(self) -> datetime:
        """Raises `ValueError`."""
        return _TIME.validate_python(self.timestamp)

    def signed(self) -> bytes:
        """The text that the signature covers."""
        values: dict[str, str | None] = {
            "Message": self.message,
            "MessageId": self.message_id,
            "Subject": self.subject if self.type == "Notification" else None,
            "SubscribeURL": None if self.type == "Notification" else self.subscribe_url,
            "Timestamp": self.timestamp,
            "Token": None if self.type == "Notification" else self.token,
            "TopicArn": self.topic_arn,
            "Type": self.type,
        }
        return "".join(f"{name}\n{value}\n" for name, value in values.items() if value is not None).encode()


class SnsTopics:
    """Verifies notifications of our topics. Certificates are fetched once."""

    def __init__(self, arns: Collection[str]) -> None:
        self._arns = arns
        self._certificates: dict[str, x509.Certificate] = {}

    async def verify(self, callback: Callback, client: httpx.AsyncClient) -> None:
        """Raises `CallbackRefused`, and `CallbackUnverifiable` where the certificate can't be fetched just now."""
        if not self._arns:
            raise CallbackUnverifiable("SES_TOPIC_ARN is not set: no notification can be ours.")
        try:
            notification = Notification.from_json(callback.body)
            age = callback.received_at - notification.published_at
            signature = base64.b64decode(notification.signature, validate=True)
            signed = notification.signed()
        except ValueError:
            raise CallbackRefused("It is not a notification of SNS.") from None
        if notification.topic_arn not in self._arns:
            raise CallbackRefused("It is about another topic.", seen=notification.topic_arn[-60:])
        if not -TOLERANCE <= age <= RETRIED_FOR + TOLERANCE:
            raise CallbackRefused(f"It was published {age.total_seconds():.0f} seconds ago.")
        certificate = await self._certificate(notification.certificate_url, client)
        if not certificate.not_valid_before_utc <= callback.received_at <= certificate.not_valid_after_utc:
            raise CallbackRefused("The certificate is not valid at this time.")
        key = certificate.public_key()
        if not isinstance(key, RSAPublicKey):
            raise CallbackRefused("The certificate's key is not one of RSA.")
        try:
            # Version 1 is SNS's default to this day.
            key.verify(signature, signed, PKCS1v15(), SHA1() if notification.signature_version == "1" else SHA256())  # noqa: S303
        except InvalidSignature:
            raise CallbackRefused("The signature is another one.", seen=hint(notification.signature)) from None

    async def _certificate(self, url: str, client: httpx.AsyncClient) -> x509.Certificate:
        if not _CERTIFICATE_URL.fullmatch(url):
            raise CallbackRefused("Its certificate lies at an address that is not one of SNS.")
        if url not in self._certificates:
            response = await _get(url, client)
            if response.is_client_error:
                raise CallbackRefused(
                    f"There is no certificate at the address that it names: {response.status_code}."
                )
            if not response.is_success:
                raise CallbackUnverifiable(f"The certificate of SNS can't be had just now: {response.status_code}.")
            try:
                certificate = x509.load_pem_x509_certificate(response.content)
            except ValueError:
                raise CallbackUnverifiable("The certificate of SNS can't be read.") from None
            if len(self._certificates) >= _MOST_CERTIFICATES:
                self._certificates.clear()
            self._certificates[url] = certificate
        return self._certificates[url]


async def confirm_subscription(notification: Notification, client: httpx.AsyncClient) -> None:
    """Confirm the subscription that a genuine `SubscriptionConfirmation` asks for.

    Raises `CallbackRefused` for an address that is not SNS's, `CallbackUnverifiable` where it gives no answer.
    """
    if not _SUBSCRIBE_URL.fullmatch(notification.subscribe_url or ""):
        raise CallbackRefused("The subscription is to be confirmed at an address that is not one of SNS.")
    response = await _get(notification.subscribe_url or "", client)
    if not response.is_success:
        raise CallbackUnverifiable(f"SNS did not confirm the subscription: {response.status_code}.")


async def _get(url: str, client: httpx.AsyncClient) -> httpx.Response:
    try:
        return await exchange(client, client.build_request("GET", url))
    except (TemporaryFailure, UnknownOutcome) as error:
        raise CallbackUnverifiable(f"SNS can't be reached: {error}") from error
