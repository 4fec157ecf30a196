"""Mail over SMTP, to a real server in the process: what arrives, and what each kind of refusal becomes."""

import asyncio
import email
import email.policy
import logging
import re
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import pytest
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session
from pydantic import SecretStr

from app.providers.base import (
    CredentialsRefused,
    OutboundMessage,
    PermanentFailure,
    ProviderFailure,
    RecipientRefused,
    TemporaryFailure,
    UnknownOutcome,
)
from app.providers.mail.fields import MailFields
from app.providers.mail.outbound import Composer, MailSettings
from app.providers.smtp import SmtpProvider, SmtpSettings, configured
from tests.cases import each_case
from tests.live import free_port
from tests.providers import outbound
from tests.providers.certificates import write_certificate
from tests.providers.mails import UNSUBSCRIBE

pytestmark = pytest.mark.anyio

#: The test's server quotes mails in its own debug log, which other tests may have left on.
logging.getLogger("mail.log").setLevel(logging.WARNING)

_PASSWORD = "correct horse"  # noqa: S105 - of a server that lives for a test


class Mailbox:
    """The mails that a server took, and the answers that it gives instead of yes, by command and in order."""

    def __init__(self) -> None:
        self.envelopes: list[Envelope] = []
        self.sessions: set[int] = set()
        self.answers: dict[str, list[str]] = {}
        self.connections: set[SMTP] = set()
        self.gone = asyncio.Event()
        self.gone.set()

    async def handle_MAIL(
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        self.sessions.add(id(session))
        envelope.mail_from = address
        envelope.mail_options.extend(options)
        return self._answer("MAIL")

    async def handle_RCPT(
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        answer = self._answer("RCPT")
        if answer.startswith("2"):
            envelope.rcpt_tos.append(address)
        return answer

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        answer = self._answer("DATA")
        if answer == "hang up":
            self.envelopes.append(envelope)
            assert server.transport is not None
            server.transport.close()
        if answer.startswith("2"):
            self.envelopes.append(envelope)
        return answer

    def mail(self, number: int = -1) -> EmailMessage:
        content = self.envelopes[number].original_content
        assert content is not None
        parsed = email.message_from_bytes(content, policy=email.policy.default)
        assert isinstance(parsed, EmailMessage)
        return parsed

    def _answer(self, command: str) -> str:
        waiting = self.answers.get(command)
        return waiting.pop(0) if waiting else "250 OK"


class Server(SMTP):
    """Tells when a connection is gone: a test that ends before would leave it open for the next."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.event_handler.connections.add(self)
        self.event_handler.gone.clear()
        super().connection_made(transport)

    def connection_lost(self, error: Exception | None) -> None:
        super().connection_lost(error)
        self.event_handler.connections.discard(self)
        if not self.event_handler.connections:
            self.event_handler.gone.set()


Serve = Callable[..., Awaitable[int]]


@pytest.fixture(params=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, bool]]:
    """Both loops, whose connections are made by different hands; the service runs on uvloop where there is one."""
    if request.param == "uvloop":
        pytest.importorskip("uvloop")
    return "asyncio", {"use_uvloop": request.param == "uvloop"}


@pytest.fixture
async def mailbox() -> Mailbox:
    return Mailbox()


@pytest.fixture
async def serve(mailbox: Mailbox) -> AsyncIterator[Serve]:
    """Starts a server, and tells its port. `wrapped` is TLS from the first byte on."""
    async with AsyncExitStack() as stack:

        async def start(*, wrapped: ssl.SSLContext | None = None, **options: Any) -> int:
            def server() -> SMTP:
                return Server(mailbox, **{"enable_SMTPUTF8": True, "hostname": "mx.test", **options})

            listener = await asyncio.get_running_loop().create_server(server, "127.0.0.1", 0, ssl=wrapped)
            await stack.enter_async_context(listener)
            port: int = listener.sockets[0].getsockname()[1]
            return port

        yield start
        await mailbox.gone.wait()


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_certificate(tmp_path_factory.mktemp("certificate"), "127.0.0.1")


@pytest.fixture
def tls(certificate: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    return context


@pytest.fixture
def trusting(certificate: Path) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(certificate))


def settings(port: int, security: str = "none", **values: Any) -> SmtpSettings:
    facts = {"host": "127.0.0.1", "port": port, "security": security, **values}
    return SmtpSettings(_env_file=None, **facts)


@asynccontextmanager
async def provider(
    port: int, security: str = "none", trusting: ssl.SSLContext | None = None, **values: Any
) -> AsyncIterator[SmtpProvider]:
    provider = SmtpProvider(settings(port, security, **values), Composer(MailSettings(_env_file=None)), trusting)
    yield provider
    await provider.close()


def mail(to: str = "jane@example.com", **values: Any) -> OutboundMessage:
    return outbound(to, **{"from_address": "shop@example.com", "subject": "Greetings", **values})


async def test_a_mail_arrives_as_it_was_written(serve: Serve, mailbox: Mailbox) -> None:
    message = mail(
        body="<h1>Grüße</h1><p>.dots\n.at the start</p>",
        subject="Grüße, und noch ein langer Betreff, der nicht in eine Zeile passt, weil er so lang ist",
        thread=["<first@example.com>", "<second@example.com>"],
        headers=UNSUBSCRIBE,
        key="1-17-1700000000000000",
    )
    async with provider(await serve()) as smtp:
        result = await smtp.send(message)
    assert result.provider_message_id == "<1-17-1700000000000000@example.com>"
    [envelope] = mailbox.envelopes
    assert (envelope.mail_from, envelope.rcpt_tos) == ("shop@example.com", ["jane@example.com"])
    arrived = mailbox.mail()
    assert arrived["message-id"] == result.provider_message_id
    assert (arrived["from"], arrived["to"], arrived["subject"]) == (
        "shop@example.com",
        "jane@example.com",
        message.subject,
    )
    assert arrived["in-reply-to"] == "<second@example.com>"
    assert arrived["references"] == "<first@example.com> <second@example.com>"
    assert {name: arrived[name] for name in UNSUBSCRIBE} == UNSUBSCRIBE
    plain, html = arrived.get_body(("plain",)), arrived.get_body(("html",))
    assert plain is not None
    assert html is not None
    assert plain.get_content().split() == ["Grüße", ".dots", ".at", "the", "start"]
    assert html.get_content().splitlines() == message.body.splitlines()


async def test_a_line_that_begins_with_a_dot_ends_no_mail(serve: Serve, mailbox: Mailbox) -> None:
    body = "one\n.\n..\n.\r\nMAIL FROM:<evil@example.com>\r\n\rbare\n.\r\n"
    async with provider(await serve()) as smtp:
        await smtp.send(mail(body=body))
        await smtp.send(mail(body="next"))
    assert len(mailbox.envelopes) == 2
    assert mailbox.mail(0).get_content().splitlines() == body.splitlines()


async def test_one_session_carries_mail_after_mail(serve: Serve, mailbox: Mailbox) -> None:
    async with provider(await serve()) as smtp:
        for _ in range(3):
            await smtp.send(mail())
    assert len(mailbox.envelopes) == 3
    assert len(mailbox.sessions) == 1


async def test_a_session_that_the_server_has_ended_is_replaced(serve: Serve, mailbox: Mailbox) -> None:
    async with provider(await serve(timeout=1)) as smtp:
        await smtp.send(mail())
        await mailbox.gone.wait()
        await smtp.send(mail())
    assert len(mailbox.envelopes) == 2


async def test_it_logs_in_behind_starttls(
    serve: Serve, mailbox: Mailbox, tls: ssl.SSLContext, trusting: ssl.SSLContext
) -> None:
    seen: list[tuple[bool, bytes, bytes]] = []

    def authenticator(server: SMTP, session: Session, envelope: Envelope, mechanism: str, login: Any) -> AuthResult:
        assert isinstance(login, LoginPassword)
        seen.append((session.ssl is not None, login.login, login.password))
        return AuthResult(success=login.password == _PASSWORD.encode(), handled=False)

    port = await serve(tls_context=tls, require_starttls=True, authenticator=authenticator, auth_required=True)
    async with provider(port, "starttls", trusting, username="shop", password=SecretStr(_PASSWORD)) as smtp:
        await smtp.send(mail())
        assert _PASSWORD not in repr(smtp._settings)
    assert seen == [(True, b"shop", _PASSWORD.encode())]
    assert len(mailbox.envelopes) == 1
    async with provider(port, "starttls", trusting, username="shop", password=SecretStr("wrong")) as smtp:
        with pytest.raises(CredentialsRefused, match="535"):
            await smtp.send(mail())
    async with provider(port, "starttls", trusting) as smtp:
        with pytest.raises(CredentialsRefused, match="530"):
            await smtp.send(mail())


async def test_tls_from_the_first_byte_on(
    serve: Serve, mailbox: Mailbox, tls: ssl.SSLContext, trusting: ssl.SSLContext
) -> None:
    async with provider(await serve(wrapped=tls), "tls", trusting) as smtp:
        await smtp.send(mail())
    assert len(mailbox.envelopes) == 1


async def test_a_server_without_tls_is_sent_nothing(serve: Serve, mailbox: Mailbox) -> None:
    async with provider(await serve(), "starttls", username="shop", password=SecretStr(_PASSWORD)) as smtp:
        with pytest.raises(TemporaryFailure, match="STARTTLS"):
            await smtp.send(mail())
    assert not mailbox.sessions


@each_case("security", ["starttls", "tls"])
async def test_a_certificate_that_nobody_vouches_for_is_not_trusted(
    serve: Serve, mailbox: Mailbox, tls: ssl.SSLContext, security: str
) -> None:
    port = await (serve(wrapped=tls) if security == "tls" else serve(tls_context=tls))
    async with provider(port, security) as smtp:
        with pytest.raises(TemporaryFailure, match="CERTIFICATE_VERIFY_FAILED"):
            await smtp.send(mail())
    assert not mailbox.sessions


async def test_a_greylisted_mail_is_accepted_the_next_time(serve: Serve, mailbox: Mailbox) -> None:
    mailbox.answers["RCPT"] = ["451 4.7.1 Greylisted, come back"]
    message = mail()
    async with provider(await serve()) as smtp:
        with pytest.raises(TemporaryFailure, match="Greylisted, come back"):
            await smtp.send(message)
        result = await smtp.send(message)
    assert mailbox.mail()["message-id"] == result.provider_message_id
    assert len(mailbox.envelopes) == 1


@each_case("command", ["MAIL", "RCPT", "DATA"])
@each_case(
    ("answer", "failure"),
    [
        ("452 4.3.1 The disk is full", TemporaryFailure),
        ("421 4.7.0 Too many of you", TemporaryFailure),
        ("550 5.7.1 Relaying denied", PermanentFailure),
        ("552 5.2.2 Mailbox full", PermanentFailure),
        ("554 5.7.1 Spam", PermanentFailure),
        ("530 5.7.0 Log in first", CredentialsRefused),
    ],
)
async def test_a_refusal_means_what_its_code_says(
    serve: Serve, mailbox: Mailbox, command: str, answer: str, failure: type[ProviderFailure]
) -> None:
    mailbox.answers[command] = [answer]
    async with provider(await serve()) as smtp:
        with pytest.raises(failure, match=re.escape(answer)) as raised:
            await smtp.send(mail())
        assert raised.type is failure
    assert not mailbox.envelopes


@each_case("answer", ["550 5.1.1 Nobody here", "550 No such user"])
@each_case(("command", "failure"), [("MAIL", PermanentFailure), ("RCPT", RecipientRefused)])
async def test_an_address_that_does_not_exist_is_told_for_the_recipient_alone(
    serve: Serve, mailbox: Mailbox, command: str, answer: str, failure: type[ProviderFailure]
) -> None:
    mailbox.answers[command] = [answer]
    async with provider(await serve()) as smtp:
        with pytest.raises(PermanentFailure, match=answer) as raised:
            await smtp.send(mail())
    assert raised.type is failure


async def test_no_answer_after_the_last_dot_is_in_doubt(serve: Serve, mailbox: Mailbox) -> None:
    mailbox.answers["DATA"] = ["hang up"]
    async with provider(await serve()) as smtp:
        with pytest.raises(UnknownOutcome, match="handed over"):
            await smtp.send(mail())
        assert len(mailbox.envelopes) == 1
        await smtp.send(mail())


async def test_an_answer_of_no_use_after_the_last_dot_is_in_doubt(serve: Serve, mailbox: Mailbox) -> None:
    mailbox.answers["DATA"] = ["354 Go on"]
    async with provider(await serve()) as smtp:
        with pytest.raises(UnknownOutcome, match="handed over"):
            await smtp.send(mail())


@each_case(
    ("script", "after"),
    [
        ([], 0),
        ([b"220 mx.test\r\n"], 0),
        ([b"220 mx.test\r\n", b"250 mx.test\r\n"], 0),
        ([b"220 mx.test\r\n", b"250 mx.test\r\n", b"250 OK\r\n", b"250 OK\r\n"], 0),
        ([b"220 mx.test\r\n", b"250 mx.test\r\n", b"250 OK\r\n", b"250 OK\r\n", b"354 go on\r\n"], 100_000),
    ],
)
async def test_a_connection_that_breaks_before_the_end_of_the_mail_has_sent_nothing(
    script: list[bytes], after: int
) -> None:
    """The last case is reset while the mail is on its way: the server has read some of it, and not the dot."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for line in script:
            writer.write(line)
            if line[:3] not in {b"354"}:
                await reader.readline()
        if after:
            await reader.readexactly(after)
        writer.transport.abort()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server, provider(server.sockets[0].getsockname()[1]) as smtp:
        with pytest.raises(TemporaryFailure, match="broke off"):
            await smtp.send(mail(body="All work and no play. " * (500_000 if after else 1)))


async def test_a_server_that_says_nothing_is_given_up_in_time() -> None:
    gone = asyncio.Event()

    async def silence(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.transport.abort()
        gone.set()

    server = await asyncio.start_server(silence, "127.0.0.1", 0)
    async with server, provider(server.sockets[0].getsockname()[1], timeout_seconds=0.1) as smtp:
        with pytest.raises(TemporaryFailure):
            await smtp.send(mail())
        await gone.wait()


async def test_a_server_that_is_away_has_not_got_the_mail() -> None:
    async with provider(free_port()) as smtp:
        with pytest.raises(TemporaryFailure, match="can't be reached"):
            await smtp.send(mail())


async def test_an_address_outside_of_ascii_goes_by_smtputf8(serve: Serve, mailbox: Mailbox) -> None:
    async with provider(await serve()) as smtp:
        await smtp.send(mail("jörg@bücher.example", subject="Grüße"))
    [envelope] = mailbox.envelopes
    assert envelope.rcpt_tos == ["jörg@xn--bcher-kva.example"]
    assert {"SMTPUTF8", "BODY=8BITMIME"} <= set(envelope.mail_options)
    assert mailbox.mail()["to"] == "jörg@xn--bcher-kva.example"


async def test_local_parts_are_quoted_in_the_envelope_and_in_the_header(serve: Serve, mailbox: Mailbox) -> None:
    async with provider(await serve()) as smtp:
        for to in ("taro..yama@docomo.example", '"jane roe"@example.org', "plain@example.org"):
            await smtp.send(mail(to, from_address='"our shop"@example.com'))
    # The test's server has read the quotes: it refuses this address without them.
    read = ["taro..yama@docomo.example", '"jane roe"@example.org', "plain@example.org"]
    assert [envelope.rcpt_tos for envelope in mailbox.envelopes] == [[to] for to in read]
    assert {envelope.mail_from for envelope in mailbox.envelopes} == {'"our shop"@example.com'}
    quoted = ['"taro..yama"@docomo.example', *read[1:]]
    for envelope, to in zip(mailbox.envelopes, quoted, strict=True):
        assert f"\r\nTo: {to}\r\n".encode() in (envelope.original_content or b"")


async def test_an_address_that_the_server_can_not_take_is_refused_for_good(serve: Serve, mailbox: Mailbox) -> None:
    async with provider(await serve(enable_SMTPUTF8=False)) as smtp:
        with pytest.raises(PermanentFailure, match="SMTPUTF8"):
            await smtp.send(mail("jörg@example.com"))
        await smtp.send(mail("info@bücher.example"))
    assert mailbox.envelopes[0].rcpt_tos == ["info@xn--bcher-kva.example"]


def test_it_is_there_where_a_server_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SMTP_HOST", raising=False)
    assert configured() is None
    monkeypatch.setenv("SMTP_HOST", "mail.example.com")
    assert isinstance(configured(), SmtpProvider)


COPIES = MailFields(from_name="Jané", cc=["cc@example.org"], bcc=["hidden@example.org", "other@example.org"])


async def test_blind_copies_are_in_the_envelope_alone(serve: Serve, mailbox: Mailbox) -> None:
    async with provider(await serve()) as smtp:
        result = await smtp.send(mail(mail=COPIES))
    assert list(result.left_out) == []
    [envelope] = mailbox.envelopes
    assert envelope.rcpt_tos == ["jane@example.com", "cc@example.org", "hidden@example.org", "other@example.org"]
    arrived = mailbox.mail()
    assert (arrived["to"], arrived["cc"], arrived["bcc"]) == ("jane@example.com", "cc@example.org", None)
    assert b"hidden" not in (envelope.original_content or b"")


async def test_a_copy_that_the_server_refuses_does_not_keep_the_mail_from_the_others(
    serve: Serve, mailbox: Mailbox
) -> None:
    mailbox.answers["RCPT"] = ["250 OK", "250 OK", "550 5.1.1 no such user", "250 OK"]
    async with provider(await serve()) as smtp:
        result = await smtp.send(mail(mail=COPIES))
    assert list(result.left_out) == ["hidden@example.org"]
    assert mailbox.envelopes[0].rcpt_tos == ["jane@example.com", "cc@example.org", "other@example.org"]


async def test_a_copy_that_has_to_wait_makes_the_mail_wait(serve: Serve, mailbox: Mailbox) -> None:
    mailbox.answers["RCPT"] = ["250 OK", "451 4.3.0 later"]
    async with provider(await serve()) as smtp:
        with pytest.raises(TemporaryFailure):
            await smtp.send(mail(mail=COPIES))
    assert mailbox.envelopes == []
