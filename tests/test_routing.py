"""The provider that serves a channel: `ROUTES` first, then the vendors that are there, then the simulated carrier."""

from collections.abc import Mapping

import pytest

from app.config import Settings
from app.errors import ConfigurationError
from app.providers.base import BaseProvider, OutboundMessage, ProviderResult
from app.providers.registry import provider_registry
from app.providers.simulator import SimulatorProvider
from app.routing import channels_of, channels_served, kind_of_addresses, route_of
from app.wiring import must_have_providers
from tests.conftest import make_settings
from tests.tenancy import CONSENT_SECRET, WEBHOOK_SECRET

PRODUCTION = {
    "env": "production",
    "database_url": "postgresql://somebody@127.0.0.1:1/nothing",
    "webhook_secret": WEBHOOK_SECRET,
    "consent_secret": CONSENT_SECRET,
}


class Vendor(BaseProvider):
    def __init__(self, channels: Mapping[str, str]) -> None:
        self.channels = channels  # type: ignore[misc]

    async def send(self, payload: OutboundMessage) -> ProviderResult:
        return ProviderResult()


@pytest.fixture
def vendors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(provider_registry, "zephyr", Vendor({"sms": "phone", "whatsapp": "phone"}))
    monkeypatch.setitem(provider_registry, "acme", Vendor({"sms": "phone", "chat": "chat"}))
    monkeypatch.setitem(provider_registry, "fax", Vendor({}))


def routes(settings: Settings, *channels: str) -> list[list[str]]:
    return [route_of(settings, channel) for channel in channels]


def test_without_vendors_the_simulated_carriers_serve_what_they_are_named_after() -> None:
    assert routes(make_settings(), "sms", "email", "whatsapp") == [["sms"], ["email"], []]
    assert routes(make_settings(simulated_carriers=False), "sms", "email") == [[], []]


@pytest.mark.usefixtures("vendors")
def test_a_channel_without_a_route_is_served_by_the_vendors_that_carry_it_by_name() -> None:
    assert routes(make_settings(), "sms", "whatsapp", "chat", "email") == [
        ["acme", "zephyr"],
        ["zephyr"],
        ["acme"],
        ["email"],
    ]


@pytest.mark.usefixtures("vendors")
def test_a_route_wins_over_what_is_configured() -> None:
    settings = make_settings(routes="sms:zephyr fax:zephyr chat:sms")
    assert routes(settings, "sms", "fax", "chat") == [["zephyr"], ["zephyr"], ["sms"]]


@pytest.mark.usefixtures("vendors")
def test_a_provider_that_names_no_channels_serves_the_one_of_its_name() -> None:
    settings = make_settings()
    assert routes(settings, "fax", "acme") == [["fax"], []]
    assert channels_served(settings) == {"sms", "email", "whatsapp", "chat", "fax"}


def test_the_carrier_simulator_is_no_vendor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(provider_registry, "simulator", SimulatorProvider())
    assert route_of(make_settings(), "sms") == ["sms"]


@pytest.mark.usefixtures("vendors")
def test_each_provider_names_the_channels_whose_route_it_stands_in() -> None:
    settings = make_settings(routes="sms:acme,elsewhere")
    assert [channels_of(settings, name) for name in ("acme", "zephyr", "fax", "sms", "elsewhere")] == [
        ["chat", "sms"],
        ["whatsapp"],
        ["fax"],
        [],
        ["sms"],
    ]


@pytest.mark.usefixtures("vendors")
def test_the_addresses_of_a_channel_are_as_its_provider_says() -> None:
    settings = make_settings(routes="chat:elsewhere,acme")
    kinds = [kind_of_addresses(settings, channel) for channel in ("whatsapp", "chat", "email", "fax", "nowhere")]
    assert kinds == ["phone", "chat", "email", None, None]


def test_production_starts_with_a_vendor_that_is_configured(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = make_settings(**PRODUCTION)
    with pytest.raises(ConfigurationError, match="simulated"):
        must_have_providers(settings)
    monkeypatch.setitem(provider_registry, "acme", Vendor({"chat": "chat"}))
    must_have_providers(settings)
    with pytest.raises(ConfigurationError, match="simulated"):
        must_have_providers(make_settings(**PRODUCTION, routes="sms:sms"))
