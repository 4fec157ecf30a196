"""Where webhooks may go: nothing inside is reached, unless the operator allows it."""

import pytest

from app.errors import InvalidRequest
from app.services.webhooks.urls import must_be_usable
from tests.cases import each_case
from tests.conftest import make_settings
from tests.tenancy import CONSENT_SECRET, WEBHOOK_SECRET

_PRODUCTION = make_settings(
    env="production",
    database_url="postgresql://user@host/name",
    webhook_secret=WEBHOOK_SECRET,
    consent_secret=CONSENT_SECRET,
)
_DEVELOPMENT = make_settings()

_ANYWHERE_USABLE = [
    "https://shop.example/hook",
    "http://shop.example:8080/hook?token=1",
    "https://shop.example",
    "HTTPS://SHOP.EXAMPLE/",
    "https://bücher.example/hook",
    "https://receiver_1.internal/hook",  # a name is looked up at each send
    "https://93.184.215.14/hook",
    "https://[2606:2800:21f:cb07:6820:80da:af6b:8b2c]:8443/hook",
]
_LOOPBACK = [
    "http://127.0.0.1:3000/hook",
    "http://localhost:3000/hook",
    "http://hook.localhost/",
    "http://2130706433/",
    "http://0x7f.1/",
    "http://0177.0.0.1/",
    "http://127.1/",
    "http://[::1]:3000/",
]
_NOWHERE_USABLE = [
    "",
    "javascript:alert(1)",
    "ftp://shop.example/",
    "file:///etc/passwd",
    "//shop.example/",
    "https:///hook",
    "shop.example/hook",
    "https://user:password@shop.example/",
    "https://user@shop.example/",
    "https://shop.example@127.0.0.1/",
    "https://shop.example\\@127.0.0.1/",
    "https://shop.example/hook#part",
    "https://shop.example:0/",
    "https://shop.example:99999/",
    "https://shop.example:25/",
    "https://shop.example:587/",
    "https://shop..example/",
    "https://[::1/",
    "http://0/",
    "http://10.1.2.3/",
    "http://192.168.1.1/",
    "http://172.16.0.1/",
    "http://169.254.169.254/latest/meta-data",
    "http://100.64.0.1/",
    "http://224.0.0.1/",
    "http://[fe80::1]/",
    "http://[fd00::1]/",
    "http://[::ffff:127.0.0.1]/",
    "http://[::ffff:10.0.0.1]/",
    "http://[64:ff9b::7f00:1]/",
    "http://[2002:7f00:1::]/",
    "http://167838211/",  # 10.1.2.3
    "http://0xa010203/",
]


@each_case("url", _ANYWHERE_USABLE)
def test_a_public_address_is_usable(url: str) -> None:
    must_be_usable(url, _PRODUCTION)
    must_be_usable(url, _DEVELOPMENT)


@each_case("url", _LOOPBACK)
def test_this_machine_is_usable_in_development_only(url: str) -> None:
    must_be_usable(url, _DEVELOPMENT)
    with pytest.raises(InvalidRequest) as refused:
        must_be_usable(url, _PRODUCTION)
    assert "WEBHOOK_ALLOWED_NETWORKS" in refused.value.errors[0].message


@each_case("url", _NOWHERE_USABLE)
def test_nothing_else_is_usable(url: str) -> None:
    for settings in (_PRODUCTION, _DEVELOPMENT):
        with pytest.raises(InvalidRequest) as refused:
            must_be_usable(url, settings)
        assert [error.location for error in refused.value.errors] == ["body.url"]


@each_case(
    ("url", "is_usable"),
    [
        ("http://10.1.2.3/", True),
        ("http://167838211/", True),
        ("http://[fd00::1]/", True),
        ("http://10.2.0.1/", False),
        ("http://127.0.0.1/", False),
        ("http://[::ffff:10.1.2.3]/", False),
    ],
)
def test_networks_that_are_allowed_are_usable(url: str, is_usable: bool) -> None:
    settings = _PRODUCTION.model_copy(
        update={
            "webhook_allowed_networks": make_settings(
                webhook_allowed_networks="10.1.0.0/16 fd00::/8"
            ).webhook_allowed_networks
        }
    )
    if is_usable:
        must_be_usable(url, settings)
    else:
        with pytest.raises(InvalidRequest):
            must_be_usable(url, settings)
