"""A mail server over SMTP, as the contract test sees it. It doesn't call back."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass

from app.testing.description import PICTURE, REFERENCE, Description, Outcome, mail
from tests.live import free_port
from tests.providers.test_smtp import Mailbox, Server

PASSWORD = "password-of-the-mailbox"  # noqa: S105 - of a server that lives for a test
_ANSWERS = {
    Outcome.OUT_OF_ORDER: {"RCPT": ["451 4.7.1 try again later"]},
    Outcome.REFUSED: {"RCPT": ["550 5.1.1 no such user"]},
    Outcome.UNAUTHORISED: {"MAIL": ["530 5.7.0 authentication required"]},
    Outcome.SILENT: {"DATA": ["hang up"]},
}


@dataclass(frozen=True)
class _SmtpEnd:
    """A server that takes mails, or not."""

    mailbox: Mailbox
    environment: Mapping[str, str]

    def must_have_got(self, request: Mapping[str, str]) -> None:
        [envelope] = self.mailbox.envelopes
        assert (envelope.mail_from, envelope.rcpt_tos) == (request["From"], [request["To"]])
        arrived = self.mailbox.mail()
        assert {name: arrived[name] for name in request if name != "text"} | {
            "text": arrived.get_content().strip()
        } == request

    def got(self) -> bytes:
        content = self.mailbox.envelopes[0].original_content
        assert content is not None
        return content


@asynccontextmanager
async def end(outcome: Outcome) -> AsyncIterator[_SmtpEnd]:
    mailbox = Mailbox()
    mailbox.answers = {command: list(answers) for command, answers in _ANSWERS.get(outcome, {}).items()}
    listener = await asyncio.get_running_loop().create_server(
        lambda: Server(mailbox, hostname="mx.test"), "127.0.0.1"
    )
    port = free_port() if outcome is Outcome.UNREACHABLE else listener.sockets[0].getsockname()[1]
    async with listener:
        yield _SmtpEnd(mailbox, {"SMTP_PORT": str(port)})
    await mailbox.gone.wait()


def description() -> Description:
    return Description(
        environment={"SMTP_HOST": "127.0.0.1", "SMTP_SECURITY": "none", "SMTP_PASSWORD": PASSWORD},
        secrets=[PASSWORD],
        message=mail(),
        request={
            "From": "shop@example.com",
            "To": "jane@example.com",
            "Subject": "Greetings",
            "Message-ID": f"<{REFERENCE}@example.com>",
            "text": "Hello!",
        },
        id=f"<{REFERENCE}@example.com>",
        media=mail(attachments=[PICTURE]),
        end=end,
        outcomes=frozenset(Outcome) - {Outcome.THROTTLED, Outcome.SENSELESS, Outcome.BROKEN, Outcome.CUT_OFF},
    )
