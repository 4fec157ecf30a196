"""One vendor and its other end, as the contract has them in a test."""

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path

import httpx
import pytest

from app.providers.base import BaseProvider, Callback
from app.providers.packages import GROUP
from app.providers.toolbox import http_client as transport
from app.testing.description import Asked, Description, End, Outcome
from app.testing.vendor import Vendor

_ANSWERS: Mapping[Outcome, httpx.Response | Exception] = {
    Outcome.THROTTLED: httpx.Response(429, headers={"Retry-After": "7"}),
    Outcome.OUT_OF_ORDER: httpx.Response(503, headers={"Retry-After": "7"}),
    Outcome.BROKEN: httpx.Response(500),
    Outcome.CUT_OFF: httpx.Response(504, text="<html>"),
    Outcome.REFUSED: httpx.Response(400),
    Outcome.UNAUTHORISED: httpx.Response(401),
    Outcome.SENSELESS: httpx.Response(200, text="<html>"),
    Outcome.SILENT: httpx.ReadTimeout("silent"),
    Outcome.UNREACHABLE: httpx.ConnectError("refused"),
}


@dataclass(frozen=True, slots=True)
class Subject:
    """A vendor that has to keep the contract.

    `configured` makes its provider as a process does, and `payloads` is a folder of callbacks from its documents.
    """

    name: str
    configured: Callable[[], BaseProvider | None]
    described: Description
    payloads: Path | None = None

    @classmethod
    def installed(cls, name: str, described: Description, payloads: Path | None = None) -> "Subject":
        """The vendor of an installed package, by the name of its entry point."""
        found = [*entry_points(group=GROUP, name=name)]
        assert found, f"no installed package has an entry point {name} in the group {GROUP}"
        return cls(name, found[0].load(), described, payloads)


class _HttpEnd:
    """A vendor with an HTTP API."""

    environment: Mapping[str, str] = {}

    def __init__(self, answer: httpx.Response | Exception) -> None:
        self.vendor = Vendor(answer)

    def must_have_got(self, request: Asked) -> None:
        request.must_be(self.vendor.request)

    def got(self) -> bytes:
        return self.vendor.request.url.raw_path + b"\n" + self.vendor.request.content


class Kit:
    """One vendor, whose settings and other end a test has in hand."""

    def __init__(self, subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
        self.name = subject.name
        self.described = subject.described
        self.payloads = subject.payloads
        self.configured = subject.configured
        self._monkeypatch = monkeypatch

    @asynccontextmanager
    async def provider(self, outcome: Outcome = Outcome.ACCEPTED) -> AsyncIterator[tuple[BaseProvider, End]]:
        """It, as its variables configure it, before a vendor that does this."""
        async with AsyncExitStack() as stack:
            if self.described.end is not None:
                end = await stack.enter_async_context(self.described.end(outcome))
            else:
                end = self._http_end(_ANSWERS.get(outcome, self.described.accepted))
            provider = self.configure(end.environment)
            stack.push_async_callback(provider.close)
            yield provider, end

    def caller(self) -> BaseProvider:
        """It, to be called."""
        self._http_end(self.described.fetched or httpx.Response(500))
        return self.configure({})

    def configure(self, more: Mapping[str, str]) -> BaseProvider:
        for name, value in {**self.described.environment, **more}.items():
            self._monkeypatch.setenv(name, value)
        provider = self.configured()
        assert provider is not None, f"its environment does not configure {self.name}"
        return provider

    def _http_end(self, answer: httpx.Response | Exception) -> _HttpEnd:
        end = _HttpEnd(answer)
        self._monkeypatch.setattr(transport, "new_client", lambda *_: end.vendor.client)
        return end

    def sign(self, body: bytes) -> Callback:
        assert self.described.sign is not None
        return self.described.sign(body)

    def genuine(self) -> list[Callback]:
        """A call of each kind: a receipt, and a message that came in."""
        receipt = self.described.receipt and self.described.receipt(next(iter(self.described.words)))
        return [self.sign(body) for body in (receipt, self.described.inbound) if body is not None]

    def forged(self) -> list[Callback]:
        return [forged for callback in self.genuine() for forged in self.described.forged(callback)]

    def shows_no_secret(self, shown: str) -> None:
        assert not [secret for secret in self.described.secrets if secret in shown]
