"""One vendor in the hands of the contract test: made by its variables, with the other end of its wire."""

import pkgutil
import re
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from importlib import import_module
from pathlib import Path
from types import ModuleType

import httpx
import pytest

import app.providers
from app.providers.base import BaseProvider, Callback
from app.providers.toolbox import http_client as transport
from tests.providers.kit import Asked, End, Outcome, description_of
from tests.providers.vendors import Vendor

ROOT = Path(__file__).parents[2]
NAMES = [
    file.name
    for file in pkgutil.iter_modules(app.providers.__path__)
    if file.name != "registry" and hasattr(import_module(f"app.providers.{file.name}"), "configured")
]
#: The vendor of docs/adding-a-provider.md, whose files stand in there.
ACME = "acme"
_DOCUMENT = (ROOT / "docs" / "adding-a-provider.md").read_text(encoding="utf-8")
_FILES = re.compile(r"^```(?:python|sh)\n# (\S+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
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

    def __init__(self, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
        self.name = name
        if name == ACME:
            load_the_documented_vendor(monkeypatch)
        self.described = description_of(name)
        self.module = import_module(f"app.providers.{name}")
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
        provider: BaseProvider | None = self.module.configured()
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


def load_the_documented_vendor(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its modules, as if they were there, for one test."""
    for path, source in _FILES.findall(_DOCUMENT):
        if path.endswith(".py"):
            module = ModuleType(path.removesuffix(".py").replace("/", "."))
            monkeypatch.setitem(sys.modules, module.__name__, module)
            exec(compile(source, f"docs/adding-a-provider.md: {path}", "exec"), vars(module))  # noqa: S102 - our own


def example_settings() -> str:
    """The lines of the document for `.env.example`."""
    files: dict[str, str] = dict(_FILES.findall(_DOCUMENT))
    return files[".env.example"]
