"""Sessions: they begin with a key, and end with it, by logout, or after their time."""

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable

import httpx
import pytest
from fastapi import FastAPI

from app.config import Settings
from app.http.access import NEEDS, _pattern
from app.http.browser.headers import Shown
from app.installation import KeyScope
from app.main import create_app
from app.services.tenancy.sessions import csrf_token
from tests.cases import each_case
from tests.conftest import client_of
from tests.factories import sms, until
from tests.logs import captured
from tests.streams import opened
from tests.tenancy import bearer, in_browser, make_key, make_session, make_tenant, production, revoke
from tests.wire import problem_of, rows_of

pytestmark = pytest.mark.anyio

Serve = Callable[[Settings], Awaitable[httpx.AsyncClient]]
BROWSER = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8", "Sec-Fetch-Dest": "document"}
OURS = {"Sec-Fetch-Site": "same-origin", "Origin": "http://messaging.test"}
FRAGMENT = {"HX-Request": "true"}
COOKIE = "messaging_session"


@pytest.fixture
async def guarded(serve: Serve, settings: Settings) -> httpx.AsyncClient:
    """A client of a service in production, without a key."""
    return await serve(production(settings))


async def log_in(client: httpx.AsyncClient, key: str, **fields: str) -> httpx.Response:
    return await client.post("/login", data={"key": key, **fields}, headers=BROWSER | OURS)


def cookie_of(answer: httpx.Response) -> str:
    """The session that an answer gives the browser."""
    name, value = answer.headers["set-cookie"].partition(";")[0].split("=")
    assert name.endswith(COOKIE)
    return str(value)


def needs_login(answer: httpx.Response) -> bool:
    return answer.status_code == 303 and answer.headers["location"].startswith("/login")


async def test_a_key_begins_a_session_that_opens_the_inbox(guarded: httpx.AsyncClient, database_url: str) -> None:
    key = make_key(database_url)
    answer = await log_in(guarded, f" {key}\n")
    assert (answer.status_code, answer.headers["location"]) == (303, "/inbox")
    written = answer.headers["set-cookie"]
    assert written.endswith("; Path=/; Max-Age=43200; HttpOnly; SameSite=Strict")
    page = await guarded.get("/inbox")  # the client keeps the cookie
    assert page.status_code == 200
    assert csrf_token(cookie_of(answer).encode()) in page.text
    assert "ratelimit" in page.headers
    assert (await guarded.head("/inbox")).status_code == 200
    [(prefix, hashed)] = rows_of(
        database_url, "SELECT k.prefix, encode(s.secret_hash, 'hex') FROM sessions s JOIN api_keys k ON k.id = key_id"
    )
    assert prefix == key.split("_")[2]
    assert hashed not in written
    assert rows_of(database_url, "SELECT kind, actor FROM audit_events") == [("session_begun", prefix)]


@each_case(
    ("public_url", "scheme", "is_secure"),
    [
        (None, "http", False),
        (None, "https", True),
        ("https://inbox.example", "http", True),
        ("http://inbox.example", "http", False),
    ],
)
async def test_a_cookie_is_secure_where_the_browser_comes_by_https(
    settings: Settings, database_url: str, public_url: str | None, scheme: str, is_secure: bool
) -> None:
    app = create_app(production(settings, public_url=public_url))
    browser = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url=f"{scheme}://messaging.test")
    async with app.router.lifespan_context(app), browser as client:
        answer = await client.post("/login", data={"key": make_key(database_url)})
        client.cookies.clear()
        written = answer.headers["set-cookie"]
        assert written.endswith("; Secure") == is_secure
        assert written.startswith("__Host-") == is_secure
        name = written.partition("=")[0]
        for sent, is_in in ((name, True), (COOKIE, not is_secure)):
            page = await client.get("/inbox", headers={"Cookie": f"{sent}={cookie_of(answer)}"})
            assert (page.status_code == 200) == is_in


async def test_without_a_session_a_page_leads_to_the_login_and_anything_else_is_401(
    guarded: httpx.AsyncClient, database_url: str
) -> None:
    page = await guarded.get("/inbox/c/7?view=open&a=b", headers=BROWSER)
    assert page.status_code == 303
    assert page.headers["location"] == "/login?next=%2Finbox%2Fc%2F7%3Fview%3Dopen%26a%3Db"
    fragment = await guarded.get("/inbox", headers=BROWSER | FRAGMENT)
    problem_of(fragment, 401)
    assert fragment.headers["hx-redirect"] == "/login"
    posted = await guarded.post("/inbox/preview", headers=OURS)
    problem_of(posted, 401)
    assert needs_login(await guarded.post("/logout", headers=BROWSER | OURS))
    for path in ("/inbox/events", f"/inbox/files/{'0' * 64}/a.png", "/inbox/messages/1/html"):
        problem_of(await guarded.get(path, headers={"Accept": "text/html"}), 401)
    problem_of(await guarded.get("/inbox", headers={"Accept": "application/json"}), 401)
    assert needs_login(await guarded.get("/inbox", headers=bearer(make_key(database_url))))


@each_case(
    "make",
    [
        lambda url, cookie: cookie[:-1] + ("A" if cookie[-1] != "A" else "B"),
        lambda url, cookie: cookie.replace("mss_1_", f"mss_{make_tenant(url)}_"),
        lambda url, cookie: cookie.replace("mss_1_", "mss_999999999999999999_"),
        lambda url, cookie: re.sub(r"^mss_1_\d+", "mss_1_99999", cookie),
        lambda url, cookie: cookie + "x",
        lambda url, cookie: make_key(url),
        lambda url, cookie: f"{cookie}; {COOKIE}={cookie}",
        lambda url, cookie: "",
    ],
    ids=["secret", "tenant", "no tenant", "session", "longer", "a key", "twice", "empty"],
)
async def test_a_changed_cookie_opens_nothing(
    guarded: httpx.AsyncClient, database_url: str, make: Callable[[str, str], str]
) -> None:
    cookie = make_session(database_url, make_key(database_url))
    shown = {"Cookie": f"{COOKIE}={make(database_url, cookie)}"}
    assert needs_login(await guarded.get("/inbox", headers=BROWSER | shown))
    assert (await guarded.get("/inbox", headers=BROWSER | in_browser(cookie))).status_code == 200


async def test_the_session_of_one_tenant_is_no_session_of_another(
    guarded: httpx.AsyncClient, database_url: str
) -> None:
    acme = make_tenant(database_url)
    theirs, ours = (make_session(database_url, make_key(database_url, tenant)) for tenant in (acme, 1))
    # Both have a session; neither opens the other's by its number.
    mixed = f"mss_1_{theirs.split('_', 3)[2]}_{ours.split('_', 3)[3]}"
    assert needs_login(await guarded.get("/inbox", headers=BROWSER | {"Cookie": f"{COOKIE}={mixed}"}))


async def test_a_session_ends_after_its_time(guarded: httpx.AsyncClient, database_url: str) -> None:
    key = make_key(database_url)
    over = make_session(database_url, key, seconds=-1)
    answer = await guarded.get("/inbox", headers=BROWSER | in_browser(over))
    assert needs_login(answer)
    assert "Max-Age=0" in answer.headers["set-cookie"]
    # An open page asks for more than one thing, and each is refused. In development no cookie would let it in.
    for headers in ({"HX-Request": "true"}, {"Accept": "text/event-stream"}):
        part = await guarded.get("/inbox/list", headers=headers | in_browser(over))
        assert part.status_code == 401
        assert "set-cookie" not in part.headers
    passing = make_session(database_url, key, seconds=1)
    headers = BROWSER | in_browser(passing)
    assert (await guarded.get("/inbox", headers=headers)).status_code == 200

    async def is_over() -> bool:
        return needs_login(await guarded.get("/inbox", headers=headers))

    await until(is_over, bool, seconds=5)


async def test_old_rows_go_when_the_next_session_begins(guarded: httpx.AsyncClient, database_url: str) -> None:
    key = make_key(database_url)
    make_session(database_url, key, seconds=-90_000)
    make_session(database_url, key, seconds=-1)
    await log_in(guarded, key)
    assert rows_of(database_url, "SELECT count(*) FROM sessions") == [(2,)]


@pytest.fixture
async def pair(settings: Settings) -> AsyncIterator[list[FastAPI]]:
    """Two processes of a service in production."""
    apps = [create_app(production(settings)) for _ in range(2)]
    async with apps[0].router.lifespan_context(apps[0]), apps[1].router.lifespan_context(apps[1]):
        yield apps


async def ended(app: FastAPI, cookie: str, ending: Callable[[], Awaitable[object]], *, seconds: float) -> None:
    """Open a stream, let `ending` happen, and wait for the stream to end within a time, which has to be so long."""
    async with opened(app, "/inbox/events?after=now", headers=in_browser(cookie)) as stream:
        assert await stream.block() is not None
        assert stream.status == 200
        await ending()
        async with asyncio.timeout(seconds):
            while await stream.block() is not None:
                pass


@pytest.mark.slow
@pytest.mark.parametrize("by", ["revocation", "logout elsewhere", "expiry"])
async def test_the_end_of_a_session_ends_its_stream_within_five_seconds(
    pair: list[FastAPI], database_url: str, by: str
) -> None:
    key = make_key(database_url)
    cookie = make_session(database_url, key, seconds=2 if by == "expiry" else 60)
    async with client_of(pair[0]) as here, client_of(pair[1]) as elsewhere:

        async def end() -> None:
            if by == "revocation":
                revoke(database_url, key)
            elif by == "logout elsewhere":
                assert (await elsewhere.post("/logout", headers=in_browser(cookie))).status_code == 303

        await ended(pair[0], cookie, end, seconds=7 if by == "expiry" else 5)

        async def is_over() -> list[bool]:
            answers = [await one.get("/inbox", headers=BROWSER | in_browser(cookie)) for one in (here, elsewhere)]
            return [needs_login(answer) for answer in answers]

        await until(is_over, all, seconds=5)


async def test_a_logout_ends_the_session_and_its_stream_here_at_once(settings: Settings, database_url: str) -> None:
    app = create_app(production(settings))
    cookie = make_session(database_url, make_key(database_url))
    other = make_session(database_url, make_key(database_url))
    async with app.router.lifespan_context(app), client_of(app) as client:

        async def log_out() -> None:
            form = {"csrf": csrf_token(cookie.encode())}
            headers = {"Cookie": f"{COOKIE}={cookie}"} | OURS
            answer = await client.post("/logout", data=form, headers=headers)
            assert (answer.status_code, answer.headers["location"]) == (303, "/login")
            assert "Max-Age=0" in answer.headers["set-cookie"]

        await ended(app, cookie, log_out, seconds=60)
        assert needs_login(await client.get("/inbox", headers=BROWSER | in_browser(cookie)))
        assert (await client.get("/inbox", headers=BROWSER | in_browser(other))).status_code == 200
    kinds = rows_of(database_url, "SELECT kind FROM audit_events ORDER BY id")
    assert ("session_ended",) in kinds


async def test_a_cookie_is_no_key_of_the_api(guarded: httpx.AsyncClient, database_url: str) -> None:
    cookie = make_session(database_url, make_key(database_url))
    for path in ("/api/conversations", "/api/events/stream", f"/api/files/{'0' * 64}/a"):
        problem_of(await guarded.get(path, headers=in_browser(cookie)), 401)
    problem_of(await guarded.post("/api/messages/sms", json=sms(), headers=in_browser(cookie)), 401)
    problem_of(await guarded.get("/api/conversations", headers=bearer(cookie)), 401)


async def test_wrong_keys_at_the_login_count_like_those_of_the_api(
    serve: Serve, settings: Settings, database_url: str
) -> None:
    client = await serve(production(settings, auth_failures_per_minute=3))
    good = make_key(database_url)
    for wrong in ("", "msk_1_short", good[:-1] + ("A" if good[-1] != "A" else "B")):
        answer = await log_in(client, wrong)
        assert answer.status_code == 401
        assert "This key is not valid." in answer.text
        assert wrong not in answer.text or not wrong
        assert "set-cookie" not in answer.headers
    for path in ("/login", "/api/conversations"):
        data = {"key": good} if path == "/login" else None
        locked = await client.request(
            "POST" if data else "GET", path, data=data, headers={} if data else bearer(good)
        )
        assert locked.status_code == 429
        assert int(locked.headers["retry-after"]) > 0
    cookie = make_session(database_url, good)
    assert (await client.get("/inbox", headers=in_browser(cookie))).status_code == 429


async def test_made_up_cookies_count_too_and_sessions_that_are_over_do_not(
    serve: Serve, settings: Settings, database_url: str
) -> None:
    client = await serve(production(settings, auth_failures_per_minute=3))
    key = make_key(database_url)
    over = make_session(database_url, key, seconds=-1)
    for _ in range(6):
        assert needs_login(await client.get("/inbox", headers=BROWSER | in_browser(over)))
    known = make_session(database_url, key)
    assert (await client.get("/inbox", headers=in_browser(known))).status_code == 200
    for number in range(3):
        made_up = in_browser(f"mss_1_{number + 70}_{'x' * 43}")
        assert needs_login(await client.get("/inbox", headers=BROWSER | made_up))
    problem_of(await client.get("/inbox", headers=in_browser(f"mss_1_7_{'x' * 43}")), 429)
    assert (await client.get("/inbox", headers=in_browser(known))).status_code == 200


async def test_a_key_without_read_is_told_so(guarded: httpx.AsyncClient, database_url: str) -> None:
    answer = await log_in(guarded, make_key(database_url, scopes=(KeyScope.SEND,)))
    assert answer.status_code == 403
    assert "lacks the scope read" in answer.text


@each_case(
    ("next", "place"),
    [
        ("/inbox", "/inbox"),
        ("/inbox/c/7?view=open&cursor=a#message-9", "/inbox/c/7?view=open&cursor=a#message-9"),
        ("/inbox?view=mine", "/inbox?view=mine"),
        ("", "/inbox"),
        ("https://evil.example/inbox", "/inbox"),
        ("//evil.example/inbox", "/inbox"),
        ("/\\evil.example", "/inbox"),
        ("/inbox\\@evil.example", "/inbox"),
        ("/inbox.evil.example", "/inbox"),
        ("/inbox@evil.example", "/inbox"),
        ("/inboxes", "/inbox"),
        ("/logout", "/inbox"),
        ("/api/conversations", "/inbox"),
        ("javascript:alert(1)", "/inbox"),
        ("/inbox/\r\nSet-Cookie: a=b", "/inbox"),
        ("/inbox/\x00", "/inbox"),
        ("/inbox/ü", "/inbox"),
        ("/inbox/" + "a" * 3000, "/inbox"),
        ('/inbox?"><script>', '/inbox?"><script>'),
    ],
)
async def test_a_login_leads_to_an_address_of_the_inbox_alone(
    guarded: httpx.AsyncClient, database_url: str, next: str, place: str
) -> None:
    answer = await log_in(guarded, make_key(database_url), next=next)
    assert answer.status_code == 303
    assert httpx.URL("http://messaging.test").join(answer.headers["location"]).host == "messaging.test"
    guarded.cookies.clear()
    form = await guarded.get("/login", params={"next": next})
    assert "<script" not in form.text
    if place == next and "<" not in next:
        assert answer.headers["location"] == place
        assert f'value="{place.replace("&", "&amp;")}"' in form.text
    elif place == "/inbox":
        assert answer.headers["location"] == "/inbox"
        assert 'value="/inbox"' in form.text


SITES: list[tuple[dict[str, str], bool]] = [
    ({"Origin": "http://messaging.test"}, True),
    ({"Sec-Fetch-Site": "same-origin", "Origin": "https://behind-a-proxy.example"}, True),
    ({}, False),
    ({"Origin": "null"}, False),
    ({"Origin": "https://evil.example"}, False),
    ({"Origin": "http://messaging.test:8080"}, False),
    ({"Origin": "http://localhost:3000"}, False),
    ({"Sec-Fetch-Site": "cross-site", "Origin": "http://messaging.test"}, False),
    ({"Sec-Fetch-Site": "same-site", "Origin": "http://messaging.test"}, False),
    ({"Sec-Fetch-Site": "none"}, False),
]


@each_case(("site", "is_ours"), SITES)
async def test_a_change_comes_from_a_page_of_ours(
    serve: Serve, settings: Settings, database_url: str, site: dict[str, str], is_ours: bool
) -> None:
    client = await serve(production(settings, cors_origins=["http://localhost:3000"]))
    cookie = make_session(database_url, make_key(database_url))
    shown = {"Cookie": f"{COOKIE}={cookie}", "X-CSRF-Token": csrf_token(cookie.encode())}
    answer = await client.post("/logout", headers=shown | site)
    if is_ours:
        assert answer.status_code == 303
    else:
        assert problem_of(answer, 403)["title"] == "Cross-site request"
    if site:
        key = make_key(database_url)
        answer = await client.post("/login", data={"key": key}, headers=site)
        assert answer.status_code == (303 if is_ours else 403)


async def test_a_change_shows_the_token_of_its_session(guarded: httpx.AsyncClient, database_url: str) -> None:
    key = make_key(database_url)
    cookie, others = make_session(database_url, key), make_session(database_url, key)
    good, wrong = (csrf_token(each.encode()) for each in (cookie, others))
    shown = {"Cookie": f"{COOKIE}={cookie}"} | OURS
    form = {"Content-Type": "application/x-www-form-urlencoded; charset=utf-8"}
    refused: list[tuple[dict[str, str], bytes]] = [
        ({}, b""),
        ({"X-CSRF-Token": ""}, b""),
        ({"X-CSRF-Token": wrong}, f"csrf={good}".encode()),
        ({"X-CSRF-Token": good[:-1]}, b""),
        (form, b""),
        (form, f"csrf={wrong}".encode()),
        (form, f"csrf={good}&csrf={wrong}".encode()),
        (form, b"a&" * 5000 + f"csrf={good}".encode()),
        (form, b"csrf=%ff\xff\x00"),
        ({"Content-Type": "text/plain"}, f"csrf={good}".encode()),
        ({"Content-Type": "application/json"}, f'{{"csrf":"{good}"}}'.encode()),
    ]
    for headers, body in refused:
        answer = await guarded.post("/logout", headers=shown | headers, content=body)
        assert problem_of(answer, 403)["title"] == "Form refused"
        answer = await guarded.post("/inbox/c/1/state", headers=shown | headers, content=body)
        assert answer.status_code in {403, 404}
    assert (await guarded.get("/inbox", headers=shown)).status_code == 200
    answer = await guarded.post("/logout", headers=shown | form, content=f"csrf={good}".encode())
    assert answer.status_code == 303


async def test_a_key_that_only_reads_changes_nothing(
    serve: Serve, settings: Settings, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(NEEDS, "/inbox/c/{conversation_id}/state", {"POST": KeyScope.SEND})
    monkeypatch.setattr("app.http.access._PATTERNS", [(_pattern(path), needs) for path, needs in NEEDS.items()])
    client = await serve(production(settings))
    reader = make_session(database_url, make_key(database_url, scopes=(KeyScope.READ,)))
    assert (await client.get("/inbox", headers=in_browser(reader))).status_code == 200
    answer = await client.post("/inbox/c/1/state", headers=in_browser(reader))
    assert problem_of(answer, 403)["title"] == "Scope missing"
    page = await client.post("/inbox/c/1/state", headers=in_browser(reader) | BROWSER)
    assert page.status_code == 403
    assert "lacks the scope `send`" in page.text
    assert page.headers["content-type"].startswith("text/html")


async def test_in_development_no_login_is_needed_and_the_page_says_so(client: httpx.AsyncClient) -> None:
    assert (await client.get("/inbox", headers=BROWSER)).status_code == 200
    assert "everything is open without a login" in (await client.get("/login")).text
    problem_of(await client.post("/logout"), 403)
    token = re.findall(r'name="csrf" value="(\w+)"', (await client.get("/inbox")).text)[0]
    assert (await client.post("/logout", headers={"X-CSRF-Token": token})).status_code == 303
    elsewhere = {"X-CSRF-Token": token, "Origin": "https://evil.example"}
    assert problem_of(await client.post("/logout", headers=elsewhere), 403)["title"] == "Cross-site request"
    made_up = {"Cookie": f"{COOKIE}=mss_1_7_{'x' * 43}"}
    assert needs_login(await client.get("/inbox", headers=BROWSER | made_up))


async def test_an_error_is_a_page_also_where_the_framework_answers(client: httpx.AsyncClient) -> None:
    for method, path, status in (("GET", "/inbox/nope", 404), ("PUT", "/inbox", 403), ("PUT", "/login", 405)):
        page = await client.request(method, path, headers=BROWSER)
        assert page.status_code == status
        assert page.headers["content-type"] == "text/html; charset=utf-8"
        assert "Back to the inbox" in page.text
        problem_of(await client.request(method, path), status)
        problem_of(await client.request(method, path, headers=BROWSER | FRAGMENT), status)


async def test_a_link_of_another_site_can_go_on(guarded: httpx.AsyncClient) -> None:
    page = await guarded.get("/login?next=/inbox/c/7", headers=BROWSER | {"Sec-Fetch-Site": "cross-site"})
    assert '<a href="/inbox/c/7">Go on' in page.text
    assert "Go on" not in (await guarded.get("/login", headers=BROWSER | {"Sec-Fetch-Site": "none"})).text


async def test_no_secret_of_a_session_is_logged(settings: Settings, database_url: str) -> None:
    app = create_app(production(settings, access_log=True))
    written = captured()
    async with app.router.lifespan_context(app), client_of(app) as client:
        key = make_key(database_url)
        cookie = cookie_of(await log_in(client, key))
        await client.get("/inbox")
        await client.get(f"/inbox/{cookie}")
    assert "/inbox" in written.getvalue()
    assert cookie.split("_", 3)[3] not in written.getvalue()
    assert key not in written.getvalue()


@each_case(("docs", "status"), [(True, 307), (False, 404)])
async def test_the_address_of_the_service_is_the_inbox_for_a_browser(
    serve: Serve, settings: Settings, docs: bool, status: int
) -> None:
    client = await serve(production(settings, docs_enabled=docs))
    for method in ("GET", "HEAD"):
        answer = await client.request(method, "/", headers=BROWSER)
        assert (answer.status_code, answer.headers["location"]) == (303, "/inbox")
        assert (await client.request(method, "/")).status_code == status
        program = {"Accept": "application/json"}
        assert (await client.request(method, "/", headers=program)).status_code == status
    if status == 404:
        assert problem_of(await client.get("/"), 404)["title"] == "Not found"


PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; frame-src 'self'; "
    "worker-src 'self'; manifest-src 'self'; font-src 'self'; form-action 'self'; base-uri 'none'; "
    "frame-ancestors 'none'"
)


@each_case(
    ("method", "path", "shown", "status", "kind"),
    [
        ("GET", "/login", False, 200, Shown.PAGE),
        ("HEAD", "/login", False, 200, Shown.PAGE),
        ("POST", "/login", False, 401, Shown.PAGE),
        ("PUT", "/login", True, 401, Shown.PAGE),
        ("GET", "/login.css", False, 200, Shown.STATIC),
        ("GET", "/inbox", True, 200, Shown.PAGE),
        ("GET", "/inbox/", True, 200, Shown.PAGE),
        ("HEAD", "/inbox", True, 200, Shown.PAGE),
        ("GET", "/inbox", False, 303, Shown.PAGE),
        ("GET", "/inbox/nope", True, 404, Shown.PAGE),
        ("DELETE", "/inbox", True, 405, Shown.PAGE),
        ("POST", "/logout", False, 303, Shown.PAGE),
        ("GET", f"/inbox/files/{'0' * 64}/a.png", True, 404, Shown.FILE),
        ("GET", f"/inbox/files/{'0' * 64}/a.png", False, 401, Shown.FILE),
        ("GET", "/inbox/messages/1/html", True, 404, Shown.MAIL),
        ("GET", "/inbox/messages/1/html", False, 401, Shown.MAIL),
    ],
)
async def test_each_page_and_error_has_its_headers(
    guarded: httpx.AsyncClient, database_url: str, method: str, path: str, shown: bool, status: int, kind: Shown
) -> None:
    session = in_browser(make_session(database_url, make_key(database_url))) if shown else {}
    answer = await guarded.request(method, path, headers=BROWSER | session)
    assert answer.status_code == status
    headers = answer.headers
    assert headers.get_list("x-content-type-options") == ["nosniff"]
    assert headers.get_list("referrer-policy") == ["same-origin" if kind is Shown.PAGE else "no-referrer"]
    assert headers.get_list("cross-origin-resource-policy") == ["same-origin"]
    assert headers.get_list("cache-control") == ["no-cache" if kind is Shown.STATIC else "no-store"]
    is_alone = kind in {Shown.PAGE, Shown.STATIC}
    assert headers.get_list("cross-origin-opener-policy") == ["same-origin" if is_alone else "unsafe-none"]
    [policy] = headers.get_list("content-security-policy")
    if is_alone:
        assert policy == PAGE_POLICY
    else:
        assert policy.startswith("default-src 'none'; ")
        assert "sandbox" in policy
        assert "script" not in policy
    assert "unsafe" not in policy or kind is Shown.MAIL
    if method != "HEAD" and status in {404, 405} and kind is Shown.PAGE:
        assert headers["content-type"].startswith("text/html")
        assert "Back to the inbox" in answer.text
