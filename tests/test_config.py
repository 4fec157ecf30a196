"""Settings: all documented, all checked, and none that a mistake slips through."""

import re
from pathlib import Path

import pytest
from pydantic import ValidationError

from app.config import Settings
from app.database_urls import database_name, libpq_url
from tests.cases import each_case
from tests.conftest import make_settings

ROOT = Path(__file__).parent.parent


def test_the_example_names_every_setting_with_its_default(tmp_path: Path) -> None:
    example = ROOT / ".env.example"
    named = re.findall(r"^([A-Z_]+)=", example.read_text(), re.MULTILINE)
    assert sorted(named) == sorted(name.upper() for name in Settings.model_fields)
    assert Settings(_env_file=example) == Settings(_env_file=None)


def test_the_page_of_settings_names_every_setting() -> None:
    page = (ROOT / "docs" / "settings.md").read_text(encoding="utf-8")
    assert [name for name in Settings.model_fields if f"`{name.upper()}`" not in page] == []


@each_case(
    ("name", "value"),
    [
        ("env", "staging"),
        ("port", 70000),
        ("database_url", "mysql://user@host/name"),
        ("database_url", "nonsense"),
        ("default_region", "usa"),
        ("routes", "sms"),
        ("routes", "sms:twilio,,"),
        ("routes", "SMS:twilio"),
        ("lease_seconds", 0),
        ("provider_rates", "twilio"),
        ("provider_rates", "twilio:0"),
        ("rate_limit_per_second", "inf"),
        ("rate_limit_per_second", "nan"),
        ("rate_limit_per_second", 1e-308),
        ("rate_limit_burst", 10**10),
    ],
)
def test_a_wrong_value_is_refused(name: str, value: object) -> None:
    with pytest.raises(ValidationError, match=name):
        make_settings(**{name: value})


@each_case(
    ("written", "read"),
    [
        ("postgresql://u:p@host:1/name", "postgresql://u:p@host:1/name"),
        ("postgres://u@host/name", "postgresql://u@host/name"),
        ("postgresql+asyncpg://host/name", "postgresql://host/name"),
        ("postgresql://u:p/a?ss%40@host/name", "postgresql://u:p%2Fa%3Fss%40@host/name"),
        ("postgresql://u@a:1,b:2/name?options=-c%20x%3D1", "postgresql://u@a:1,b:2/name?options=-c%20x%3D1"),
    ],
)
def test_a_url_is_read_as_libpq_reads_it(written: str, read: str) -> None:
    assert libpq_url(written) == read


@each_case(
    ("url", "named"),
    [
        ("postgresql://u@host:1/name?sslmode=disable", "host:1/name"),
        ("postgresql://u@host/name", "host:None/name"),
        ("postgresql://u@a:1,b:2/name?target_session_attrs=read-write", "a:1,b:2/name"),
        ("postgresql:///name?host=a,b&port=1,2", "a:1,b:2/name"),
        ("postgresql://u@a,b:2/name", "a:None,b:2/name"),
    ],
)
def test_a_database_is_named_by_its_hosts(url: str, named: str) -> None:
    assert database_name(url) == named


@each_case(
    ("url", "said"),
    [
        ("postgresql://u:hunter2@host/name?nonsense=1", "libpq has no parameter nonsense"),
        ("postgresql://u:hunter2@a,b,c/name?port=1,2", "name one port, or one for each host"),
        ("postgresql://u:hunter2@host:hunter2/name?%", "write it as postgresql://"),
    ],
)
def test_a_url_that_libpq_does_not_read_is_refused_with_the_reason(url: str, said: str) -> None:
    with pytest.raises(ValidationError, match=said) as refused:
        make_settings(database_url=url)
    assert "hunter2" not in str(refused.value.errors(include_input=False))


def test_the_port_of_the_numbers_is_not_that_of_the_api() -> None:
    with pytest.raises(ValidationError, match="METRICS_PORT has to differ from PORT"):
        make_settings(port=9090, metrics_port=9090)


def test_a_refused_database_url_is_not_repeated() -> None:
    with pytest.raises(ValidationError) as refused:
        make_settings(database_url="mysql://user:hunter2@host/name")
    assert "hunter2" not in str(refused.value.errors(include_input=False))
    assert "hunter2" not in repr(make_settings(database_url="postgresql://user:hunter2@host/name"))


def test_a_route_names_the_providers_of_a_channel() -> None:
    settings = make_settings(routes="sms:twilio,telnyx email:sendgrid")
    assert settings.routes == {"sms": ["twilio", "telnyx"], "email": ["sendgrid"]}


def test_a_rate_is_given_per_provider() -> None:
    assert make_settings(provider_rates="twilio:10 sendgrid:0.5").provider_rates == {"twilio": 10, "sendgrid": 0.5}


@each_case("scheme", ["postgres", "postgresql", "postgresql+psycopg2", "postgresql+asyncpg"])
def test_every_spelling_of_a_database_url_is_read_by_both_drivers(scheme: str) -> None:
    url = f"{scheme}://user:p%40ss@host:5433/name?sslmode=require"
    assert libpq_url(make_settings(database_url=url).database_url.get_secret_value()) == (  # type: ignore[union-attr]
        "postgresql://user:p%40ss@host:5433/name?sslmode=require"
    )


def test_a_provider_may_have_a_concurrency_of_its_own() -> None:
    settings = make_settings(provider_concurrencies="acme:1", provider_concurrency=20)
    assert (settings.concurrency_of("acme"), settings.concurrency_of("twilio")) == (1, 20)
