"""Files of vendors: forged addresses get no credentials, and a redirect leads to nothing inside."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from app.providers.base import (
    BaseProvider,
    FetchedFile,
    FileUnavailable,
    PermanentFailure,
    ProviderFailure,
    TemporaryFailure,
)
from app.providers.toolbox.http_client import HttpProvider
from app.providers.toolbox.remote_files import RemoteFile, RemoteFiles
from app.testing.vendor import Vendor
from tests.cases import each_case
from tests.providers import test_mailgun, test_plivo, test_slack, test_telnyx, test_twilio, test_vonage, test_whatsapp

pytestmark = pytest.mark.anyio

VENDORS = ["mailgun", "plivo", "slack", "twilio", "vonage"]
PICTURE = httpx.Response(200, headers={"content-type": "image/jpeg"}, content=b"jpeg")


class PublicInternet(RemoteFiles):
    """Keeps what is asked without credentials, and answers it."""

    def __init__(self) -> None:
        super().__init__(timeout_seconds=1, most_bytes=1)
        self.asked: list[str] = []

    async def fetch_one(self, url: str, *, most_bytes: int) -> RemoteFile:
        self.asked.append(url)
        return RemoteFile("x", "image/png", b"png")


class NoNames(RemoteFiles):
    """The wall as it is, with names that lead to these addresses."""

    def __init__(self, *addresses: str) -> None:
        async def resolve(name: str) -> Sequence[str]:
            return addresses

        super().__init__(timeout_seconds=1, most_bytes=1, resolve=resolve)


@dataclass(frozen=True)
class Case:
    """A vendor: how it is made, an address of a file, the request for it, and what must not go elsewhere."""

    make: Callable[[Vendor], BaseProvider]
    reference: str
    host: str
    secret: str


@pytest.fixture(scope="module")
def pem() -> str:
    key = generate_private_key(65537, 2048)
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


@pytest.fixture
def cases(pem: str) -> dict[str, Case]:
    account = f"/2010-04-01/Accounts/{test_twilio.ACCOUNT}/Messages/MM1/Media/ME1"
    return {
        "twilio": Case(test_twilio.provider, f"https://api.twilio.com{account}", "api.twilio.com", "Basic "),
        "vonage": Case(
            lambda vendor: test_vonage.provider(vendor, private_key=pem),
            "https://api-us.nexmo.com/v3/media/1b456509-974c",
            "api-us.nexmo.com",
            "Bearer ",
        ),
        "slack": Case(
            test_slack.provider,
            "https://files.slack.com/files-pri/T061EG9R6-F2147483862/tedair.gif",
            "files.slack.com",
            test_slack.TOKEN,
        ),
        "plivo": Case(
            test_plivo.provider,
            f"https://api.plivo.com/v1/Account/{test_plivo.ACCOUNT}/Message/7c5b/Media/1a2b/",
            "api.plivo.com",
            "Basic ",
        ),
        "mailgun": Case(
            test_mailgun.provider,
            "https://storage-us-east4.api.mailgun.net/v3/domains/mg.example.com/messages/AwABB1_x=/attachments/0",
            "storage-us-east4.api.mailgun.net",
            "Basic ",
        ),
    }


async def fetched(provider: BaseProvider, reference: str, remote: RemoteFiles | None = None) -> FetchedFile:
    assert isinstance(provider, HttpProvider)
    provider.vendor_files.remote = remote or PublicInternet()
    return await provider.fetch_file(reference, most_bytes=1000)


@pytest.mark.parametrize("name", VENDORS)
async def test_a_file_is_fetched_with_our_credentials_from_the_vendor(cases: dict[str, Case], name: str) -> None:
    case, vendor = cases[name], Vendor(PICTURE)
    file = await fetched(case.make(vendor), case.reference)
    assert (file.content_type, file.content) == ("image/jpeg", b"jpeg")
    assert str(vendor.request.url) == case.reference
    assert case.secret in vendor.request.headers["authorization"]


async def outcome(fetching: Awaitable[FetchedFile]) -> ProviderFailure | None:
    """The failure of a fetch; None if it has succeeded."""
    try:
        await fetching
    except ProviderFailure as failure:
        return failure
    return None


def forged(reference: str, host: str) -> list[str]:
    """Addresses that a forged callback may name in place of a vendor's."""
    path = reference.partition(host)[2]
    alike = host.replace("i", "\u0131").replace("s", "\u0455")
    return [
        f"https://evil.example{path}",
        f"https://{host}.evil.example{path}",
        f"https://evil-{host}{path}",
        f"https://{host[1:]}{path}",
        f"https://{host.replace('.', '-', 1)}{path}",
        f"https://{host}@evil.example{path}",
        f"https://user:word@{host}{path}",
        f"https://evil.example@{host}{path}",
        f"https://evil.example\\@{host}{path}",
        f"https://{host}\\@evil.example{path}",
        f"https://evil.example\\.{host}{path}",
        f"https://evil.example#@{host}{path}",
        f"https://evil.example?@{host}{path}",
        f"https://evil.example/{host}{path}",
        f"https://evil.example%2f.{host}{path}",
        f"http://{host}{path}",
        f"ftp://{host}{path}",
        f"//{host}{path}",
        f"https:{host}{path}",
        f"https:///{host}{path}",
        f"https://{host}:8443{path}",
        f"https://{host}:80{path}",
        f"https://{host}:0{path}",
        f"https://{host}:99999{path}",
        f"https://{host}.{path}",
        f"https://{host}..{path}",
        f"https://{alike}{path}",
        f"https://xn--{host}{path}",
        f"https://127.0.0.1{path}",
        f"https://[::1]{path}",
        f"https://[::ffff:127.0.0.1]{path}",
        f"https://2130706433{path}",
        f"https://169.254.169.254{path}",
        f"https://{host}{path}/../../../../2010-04-01/Accounts.json",
        f"https://{host}/%2e%2e{path}",
        f"https://{host}/;{path}",
        f"https://{host}{path}?x=https://evil.example",
        f"https://{host}{path}#x\r\nHost: evil.example",
        f"https://{host}/{path}",
        f"https://{host}/",
        f"javascript:https://{host}{path}",
        f" evil.example {reference}",
        "",
    ]


@pytest.mark.parametrize("name", VENDORS)
async def test_a_forged_address_gets_no_credentials(cases: dict[str, Case], name: str) -> None:
    case = cases[name]
    found = forged(case.reference, case.host)
    assert len(found) > 30
    for reference in found:
        vendor, public = Vendor(PICTURE), PublicInternet()
        failure = await outcome(fetched(case.make(vendor), reference, public))
        assert failure is None or isinstance(failure, FileUnavailable), reference
        assert str(failure) in {"None", "It is not at the vendor."}, reference
        for request in vendor.requests:
            # Some spellings are the vendor's own file. Then the request is the genuine one, to the letter.
            url = request.url
            is_of_mailgun = name == "mailgun" and url.host.endswith(".api.mailgun.net")
            assert (url.scheme, url.port) == ("https", None), reference
            assert url.host == case.host or is_of_mailgun, reference
            assert url.raw_path.split(b"?")[0].decode() == case.reference.partition(case.host)[2], reference
        if name != "plivo":  # it keeps files at other hosts, too
            assert public.asked == [], reference


@each_case(
    "reference",
    ["https://media.telnyx.example/1.jpg", "https://api.telnyx.com/v2/messages", "http://10.0.0.1/", "", "x"],
)
async def test_telnyx_gets_no_credentials_for_any_file(reference: str) -> None:
    vendor, public = Vendor(PICTURE), PublicInternet()
    await fetched(test_telnyx.provider(vendor), reference, public)
    assert (vendor.requests, public.asked) == ([], [reference])


@each_case("status", [301, 302, 303, 307, 308])
async def test_a_redirect_is_followed_once_without_credentials(cases: dict[str, Case], status: int) -> None:
    vendor = Vendor(httpx.Response(status, headers={"location": "https://cdn.example/1.jpg?key=1"}))
    public = PublicInternet()
    file = await fetched(cases["twilio"].make(vendor), cases["twilio"].reference, public)
    assert (file.content, public.asked, len(vendor.requests)) == (b"png", ["https://cdn.example/1.jpg?key=1"], 1)


@each_case(
    "location",
    [
        "https://127.0.0.1/x",
        "https://localhost/x",
        "http://cdn.example/x",
        "https://cdn.example:8443/x",
        "https://user@cdn.example/x",
        "file:///etc/passwd",
        "/2010-04-01/Accounts.json",
        "//cdn.example/x",
        "",
    ],
)
async def test_a_redirect_leads_to_nothing_inside(cases: dict[str, Case], location: str) -> None:
    vendor = Vendor(httpx.Response(302, headers={"location": location}))
    with pytest.raises(FileUnavailable):
        await fetched(cases["twilio"].make(vendor), cases["twilio"].reference, NoNames("10.0.0.1"))
    assert len(vendor.requests) == 1


@each_case(
    ("answer", "failure"),
    [
        (httpx.Response(401), PermanentFailure),
        (httpx.Response(404), PermanentFailure),
        (httpx.Response(429), PermanentFailure),
        (httpx.Response(500), TemporaryFailure),
        (httpx.Response(410), FileUnavailable),
        (httpx.Response(200, content=b"x" * 1001), FileUnavailable),
        (httpx.ReadTimeout("silent"), TemporaryFailure),
        (httpx.ConnectError("refused"), TemporaryFailure),
    ],
)
async def test_an_answer_tells_whether_to_ask_again(
    cases: dict[str, Case], answer: httpx.Response | Exception, failure: type[Exception]
) -> None:
    with pytest.raises(ProviderFailure) as raised:
        await fetched(cases["twilio"].make(Vendor(answer)), cases["twilio"].reference)
    assert type(raised.value) is failure


LOOKASIDE = "https://lookaside.fbsbx.com/whatsapp_business/attachments/?mid=1&ext=2&hash=3"


async def test_whatsapp_names_the_address_of_an_id() -> None:
    vendor = Vendor(httpx.Response(200, json={"url": LOOKASIDE, "id": "1003383421387256"}), PICTURE)
    assert (await fetched(test_whatsapp.provider(vendor), "1003383421387256")).content == b"jpeg"
    asked, file = vendor.requests
    assert str(asked.url).endswith("/1003383421387256")
    assert str(file.url) == LOOKASIDE
    assert asked.headers["authorization"] == file.headers["authorization"]


@each_case(
    "id", ["me", "1/messages", "../v1/me", "1?fields=token", "1#", "1%2f2", "https://evil.example/1", "", "\uff11"]
)
async def test_an_id_of_whatsapp_is_a_number(id: str) -> None:
    vendor = Vendor(PICTURE)
    with pytest.raises(FileUnavailable, match="not at the vendor"):
        await fetched(test_whatsapp.provider(vendor), id)
    assert vendor.requests == []


async def test_whatsapp_gets_no_token_to_another_host() -> None:
    path = LOOKASIDE.partition("lookaside.fbsbx.com")[2]
    for url in forged(LOOKASIDE, "lookaside.fbsbx.com"):
        vendor = Vendor(httpx.Response(200, json={"url": url}), PICTURE)
        public = PublicInternet()
        await outcome(fetched(test_whatsapp.provider(vendor), "1", public))
        assert public.asked == [], url
        for request in vendor.requests[1:]:
            assert (request.url.scheme, request.url.host, request.url.port) == ("https", "lookaside.fbsbx.com", None)
            assert request.url.raw_path.decode().startswith(path), url


async def test_slack_finds_a_file_by_its_id(cases: dict[str, Case]) -> None:
    told = httpx.Response(200, json={"ok": True, "file": {"url_private": cases["slack"].reference}})
    vendor = Vendor(told, PICTURE)
    assert (await fetched(test_slack.provider(vendor), "F2147483862")).content == b"jpeg"
    assert [request.url.host for request in vendor.requests] == ["slack.com", "files.slack.com"]


@each_case(
    "answer",
    [
        httpx.Response(302, headers={"location": "https://acme.slack.com/?redir=x"}),
        httpx.Response(200, headers={"content-type": "text/html; charset=utf-8"}, content=b"<html>Sign in"),
    ],
)
async def test_the_page_where_people_log_in_is_no_file(cases: dict[str, Case], answer: httpx.Response) -> None:
    with pytest.raises(ProviderFailure):
        await fetched(test_slack.provider(Vendor(answer)), cases["slack"].reference)
