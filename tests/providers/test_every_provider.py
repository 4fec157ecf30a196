"""The promises of every provider, asked of each file that has a `configured()`.

A vendor is told by its description (tests/providers/kit), from which it is made as in a process: by its variables.
The promises themselves are tests of `app.testing`, which packages outside of this repository run too.
"""

import pkgutil
import re
from collections.abc import Awaitable, Callable
from importlib import import_module
from pathlib import Path

import httpx
import pytest

import app.providers
from app.config import Settings
from app.providers.base import BaseProvider, Receipt
from app.providers.toolbox.models import VendorSettings
from app.testing.contract import ProviderContract
from app.testing.kit import Kit, Subject
from app.testing.service import Service, StartService
from app.testing.vendor import items_in
from tests.providers.documented import ACME, documented_files, load_the_documented_vendor
from tests.providers.kit import description_of
from tests.providers.vendors import PAYLOADS
from tests.wire import rows_of

ROOT = Path(__file__).parents[2]
NAMES = [
    file.name
    for file in pkgutil.iter_modules(app.providers.__path__)
    if file.name != "registry" and hasattr(import_module(f"app.providers.{file.name}"), "configured")
]

Serve = Callable[[Settings], Awaitable[httpx.AsyncClient]]


class TestEveryProvider(ProviderContract):
    """The contract, for each vendor of this repository and for the one of the document."""

    @pytest.fixture(params=[*NAMES, ACME])
    def subject(self, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Subject:
        name = str(request.param)
        if name == ACME:
            load_the_documented_vendor(monkeypatch)
        configured = import_module(f"app.providers.{name}").configured
        return Subject(name, configured, description_of(name), PAYLOADS / name)

    @pytest.fixture
    def messaging_service(self, serve: Serve, settings: Settings, database_url: str) -> StartService:
        async def start(**values: object) -> Service:
            changed = settings.model_copy(update=values)
            return Service(await serve(changed), changed, lambda statement: rows_of(database_url, statement))

        return start

    def test_the_readme_says_what_it_does(self, kit: Kit) -> None:
        """Each cell is a promise that a test of the contract has looked at."""
        provider = kit.configure({})
        if provider.simulated or kit.name == ACME:
            pytest.skip("the table is about those that really send")
        described = kit.described
        calls = [kit.sign(described.receipt(next(iter(described.words))))] if described.receipt else []
        receipts = [item for call in calls for item in items_in(provider, call)]
        brings_our_reference = any(isinstance(each, Receipt) and each.idempotency_key for each in receipts)
        assert provider.receipts_carry_key == brings_our_reference
        can_be_asked = type(provider).look_up is not BaseProvider.look_up
        in_doubt = [
            *(["key"] if provider.honours_idempotency_key else []),
            *(["look-up"] if can_be_asked else []),
            *(["receipt"] if brings_our_reference else []),
        ]
        assert readme_rows()[kit.name] == [
            ", ".join(provider.channels),
            _both(described.message, described.media),
            _both(described.inbound, described.inbound_media),
            "yes" if receipts else "",
            ", ".join(in_doubt),
            described.signed_by or "",
        ]


def _both(text: object, media: object) -> str:
    return ", ".join(word for word, there in (("text", text), ("media", media)) if there)


def readme_rows() -> dict[str, list[str]]:
    """The cells of the table of providers, by name."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| \[\w+\]\(docs/providers\.md#(\w+)\) \|(.*)\|$", readme, re.MULTILINE)
    return {name: [cell.strip() for cell in cells.split("|")] for name, cells in rows}


def test_the_readme_has_a_row_for_each_and_no_other() -> None:
    assert sorted(readme_rows()) == sorted(set(NAMES) - {"simulator"})


def test_a_vendor_that_nobody_has_described_is_told_what_to_write() -> None:
    with pytest.raises(AssertionError, match=r"Write tests/providers/kit/nobody\.py with a function description\(\)"):
        description_of("nobody")


def test_the_document_names_every_setting_of_its_vendor(monkeypatch: pytest.MonkeyPatch) -> None:
    load_the_documented_vendor(monkeypatch)
    settings: type[VendorSettings] = import_module("app.providers.acme").AcmeSettings
    assert set(re.findall(r"^# ([A-Z_]+)=", documented_files()[".env.example"], re.MULTILINE)) == {
        f"ACME_{name}".upper() for name in settings.model_fields
    }
