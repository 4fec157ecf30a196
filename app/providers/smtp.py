"""Mail through any server that speaks SMTP (RFC 5321, RFC 6409).

There are no receipts: `sent` means that the server accepted the mail. Bounces go to the sender's address, and count
if its mail comes in here (`app.providers.mail.reports`).
"""

import asyncio
import re
import ssl
import time
from asyncio import AbstractEventLoop
from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal, cast

from aiosmtplib import (
    SMTP,
    SMTPAuthenticationError,
    SMTPConnectResponseError,
    SMTPException,
    SMTPHeloError,
    SMTPResponseException,
    SMTPServerDisconnected,
    SMTPStatus,
    SMTPTimeoutError,
)
from pydantic import Field, SecretStr

from app.consent import ReportedConsent
from app.providers import base
from app.providers.mail.events import consent_of_bounce
from app.providers.mail.outbound import Composer, Mail
from app.providers.toolbox.models import VendorSettings
from app.providers.toolbox.transport import CONNECT_SECONDS

#: Servers end idle sessions after minutes (RFC 5321, 4.5.3.2.7), some of them sooner.
IDLE_SECONDS = 20.0

_PORTS = {"starttls": 587, "tls": 465, "none": 25}
#: Replies about our account: log in first, mechanism too weak, wrong password, encrypt first.
_REFUSES_US = {530, 534, 535, 538}
_STARTS_WITH_A_DOT = re.compile(rb"^\.", re.MULTILINE)
_LONGEST_REASON = 200


class SmtpSettings(VendorSettings, env_prefix="SMTP_"):
    """The server, each setting as SMTP_ and its name."""

    host: str | None = None
    #: Unset: 587 for starttls, 465 for tls, 25 for none.
    port: int | None = Field(None, ge=1, le=65535)
    username: str | None = None
    password: SecretStr | None = None
    #: With `starttls` a server without TLS gets nothing, and no password either.
    security: Literal["starttls", "tls", "none"] = "starttls"
    #: For the session up to the last byte of a mail. The server's reply to it may take longer.
    timeout_seconds: float = Field(8, gt=0)


class SmtpProvider(base.BaseProvider):
    """A client of one SMTP server. Sessions are reused; `close` ends them."""

    channels: ClassVar = {"email": "email"}
    takes_mail_fields: ClassVar = True
    sends_files: ClassVar = True

    def __init__(
        self,
        settings: SmtpSettings | None = None,
        composer: Composer | None = None,
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        self._settings = settings or SmtpSettings()
        self._composer = composer or Composer()
        self._ssl_context = ssl_context
        self._idle: list[tuple[float, AbstractEventLoop, SMTP]] = []

    def refusals(self, payload: base.OutboundMessage) -> Mapping[str, str]:
        return self._composer.refusals(payload)

    async def send(self, payload: base.OutboundMessage) -> base.ProviderResult:
        """As promised by `BaseProvider`. The provider's id of a mail is its Message-ID, which is ours."""
        mail = await self._composer.mail(payload)
        content = _STARTS_WITH_A_DOT.sub(b"..", await mail.encoded())
        session: SMTP | None = None
        try:
            try:
                async with asyncio.timeout(self._settings.timeout_seconds):
                    session = await self._session()
                    left_out = await _begin(session, mail)
                    await _write(session, content)
            except (TimeoutError, OSError, SMTPException) as error:
                raise _failure(error) from error
            await _finish(session)
        except BaseException:
            if session is not None:
                session.close()  # its state is unknown
            raise
        self._idle.append((time.monotonic(), asyncio.get_running_loop(), session))
        return base.ProviderResult(mail.message_id, left_out)

    async def close(self) -> None:
        loop = asyncio.get_running_loop()
        sessions, self._idle = [session for _, its, session in self._idle if its is loop], []
        for session in sessions:
            session.close()

    async def _session(self) -> SMTP:
        """A session that is ready for a mail: the last one used, if it still answers, or a new one."""
        loop, now = asyncio.get_running_loop(), time.monotonic()
        while self._idle:
            since, its_loop, session = self._idle.pop()
            if its_loop is not loop:
                continue
            try:
                if now - since < IDLE_SECONDS and session.is_connected:
                    await session.rset(timeout=CONNECT_SECONDS)
                    return session
            except (OSError, SMTPException):
                pass  # it was too old; a new one shows any other trouble
            session.close()
        return await self._new_session()

    async def _new_session(self) -> SMTP:
        settings = self._settings
        if self._ssl_context is None and settings.security != "none":
            self._ssl_context = await asyncio.to_thread(ssl.create_default_context)
        session = SMTP(
            hostname=settings.host,
            port=settings.port or _PORTS[settings.security],
            username=settings.username,
            password=settings.password.get_secret_value() if settings.password else None,
            use_tls=settings.security == "tls",
            start_tls=settings.security == "starttls",
            tls_context=self._ssl_context,
            timeout=settings.timeout_seconds,
        )
        await session.connect()
        if session.is_ehlo_or_helo_needed:
            await session.ehlo()
        return session


def configured() -> SmtpProvider | None:
    """The provider, if SMTP_HOST names a server."""
    settings = SmtpSettings()
    return SmtpProvider(settings) if settings.host else None


async def _begin(session: SMTP, mail: Mail) -> list[str]:
    """Send the commands up to the server's `354`, after which the mail may follow.

    Returns the recipients of copies whom the server refuses for good: the mail goes to the others.
    """
    options: list[str] = []
    if mail.needs_smtputf8:
        if not session.supports_extension("smtputf8"):
            raise base.PermanentFailure("The mail server can't take an address outside of ASCII (SMTPUTF8).")
        options = ["SMTPUTF8", "BODY=8BITMIME"]
    # Not by the library's `mail` and `rcpt`, which read an address differently on each version of Python.
    await _command(session, f"MAIL FROM:<{mail.sender}>", *options)
    try:
        await _command(session, f"RCPT TO:<{mail.recipient}>")
    except SMTPResponseException as error:
        consent = consent_of_bounce(_told(error), None)
        if error.code < 500 or consent is not ReportedConsent.HARD_BOUNCE:
            raise
        raise base.RecipientRefused(_told(error), consent) from error
    left_out = [each.address for each in (*mail.cc, *mail.bcc) if not await _takes(session, each.address)]
    await _command(session, "DATA", expected=(SMTPStatus.start_input,))
    return left_out


async def _takes(session: SMTP, copy: str) -> bool:
    """False if the server refuses the recipient of a copy for good. Raises any other refusal."""
    try:
        await _command(session, f"RCPT TO:<{copy}>")
    except SMTPResponseException as error:
        if not 500 <= error.code < 600 or error.code in _REFUSES_US:
            raise
        return False
    return True


async def _command(
    session: SMTP,
    *words: str,
    expected: Sequence[int] = (SMTPStatus.completed, SMTPStatus.will_forward),
) -> None:
    """Send a command. Raises `SMTPResponseException` for any other reply than the expected ones."""
    response = await session.execute_command(*(word.encode() for word in words))
    if response.code not in expected:
        raise SMTPResponseException(response.code, response.message)


async def _write(session: SMTP, content: bytes) -> None:
    """Write the mail without its end: until then the server has no mail to deliver.

    The library's own `data` writes both at once, so that the outcome of a lost connection would be unknown.
    """
    protocol = session.protocol
    if protocol is None or protocol.transport is None:
        raise SMTPServerDisconnected("Connection lost")
    cast(asyncio.WriteTransport, protocol.transport).set_write_buffer_limits(high=0)
    protocol.write(content)
    await protocol._drain_helper()  # what asyncio's own streams call


async def _finish(session: SMTP) -> None:
    """Send the dot that hands the mail over, and read the server's reply."""
    protocol = session.protocol
    try:
        if protocol is None:
            raise SMTPServerDisconnected("Connection lost")
        protocol.write(b".\r\n")
    except SMTPServerDisconnected as error:  # so the mail never left
        raise _failure(error) from error
    try:
        response = await protocol.read_response()
    except (OSError, SMTPException) as error:
        raise base.UnknownOutcome(f"The mail was handed over, and no answer came: {_told(error)}") from error
    if 200 <= response.code < 300:
        return
    refusal = SMTPResponseException(response.code, response.message)
    if response.code < 400:  # a reply that answers nothing, to a mail that was handed over
        raise base.UnknownOutcome(f"The mail was handed over, and the answer is of no use: {_told(refusal)}")
    raise _failure(refusal)


def _failure(error: Exception) -> base.ProviderFailure:
    """The failure that an error before the end of the mail means."""
    text = _told(error)
    if isinstance(error, SMTPResponseException) and 400 <= error.code < 600:
        if error.code in _REFUSES_US:
            return base.CredentialsRefused(text)
        if error.code < 500:
            return base.TemporaryFailure(text)
        refuses_us = isinstance(error, SMTPAuthenticationError | SMTPConnectResponseError | SMTPHeloError)
        return base.CredentialsRefused(text) if refuses_us else base.PermanentFailure(text)
    if isinstance(error, OSError | TimeoutError | SMTPTimeoutError | SMTPServerDisconnected):
        return base.TemporaryFailure(f"The mail server can't be reached, or broke off: {text}")
    return base.TemporaryFailure(text)


def _told(error: Exception) -> str:
    if isinstance(error, SMTPResponseException):
        words = " ".join(error.message.encode("ascii", "replace").decode("ascii").split())
        return f"{error.code} {words}"[:_LONGEST_REASON]
    return f"{type(error).__name__} {error}".strip()[:_LONGEST_REASON]
