"""Checks of the settings and of this machine. None of them asks the database."""

import asyncio
import ipaddress
import shutil
from collections.abc import Awaitable, Iterator
from contextlib import suppress
from urllib.parse import urlsplit

import httpx

from app.config import Settings
from app.doctor.findings import Finding, ok, problem, warning
from app.domain import Channel
from app.providers.base import BaseProvider, Callback, CallbackRefused, CallbackUnverifiable
from app.providers.registry import provider_registry
from app.routing import channels_served, route_of

_GIGABYTE = 10**9
_LITTLE_DISK = _GIGABYTE  # bytes; PostgreSQL alone keeps as much of its log (max_wal_size)
_NO_DISK = _GIGABYTE // 10
_SHORTEST_KEY = 24  # bytes, says Standard Webhooks
_FETCH_SECONDS = 4


def profile(settings: Settings) -> Iterator[Finding]:
    """Who may do what: development asks nobody for a key."""
    if settings.is_production:
        yield ok("production")
        return
    public = urlsplit(settings.public_url or "").hostname
    if public and not _is_local(public):
        yield problem(
            "ENV is development, where nobody needs a key, and PUBLIC_URL says that the world reaches it.",
            "Set ENV=production, and make keys with `python -m app keys create`.",
        )
    elif not _is_local(settings.host):
        yield warning(
            f"ENV is development, and HOST={settings.host} lets other machines in: they may do anything.",
            "Set HOST=127.0.0.1 or ENV=production; in a container see that its port is published on 127.0.0.1 only.",
        )
    else:
        yield ok("development, for this machine only")


def webhook_secret(settings: Settings) -> Iterator[Finding]:
    keys = settings.webhook_keys()
    make = "Set WEBHOOK_SECRET to what `openssl rand -base64 32` prints, here and where the webhooks are signed."
    if not keys:
        if settings.is_production:
            yield problem("WEBHOOK_SECRET is not set, so anybody can invent messages that came in.", make)
        else:
            yield ok("not set: in development webhooks need no signature")
    elif min(map(len, keys)) < _SHORTEST_KEY:
        yield warning(f"WEBHOOK_SECRET is shorter than {_SHORTEST_KEY} bytes and might be guessed.", make)
    else:
        yield ok("set" if len(keys) == 1 else f"{len(keys)} are valid: take the old one out once nobody uses it")


#: One of each kind that a vendor may have a secret of its own for. They show what is none, and are refused.
_SHOWN = ("authorization", "Bearer none")
_CALLS = [
    Callback("GET", "https://messaging.example/", [_SHOWN], b""),
    *(
        Callback("POST", "https://messaging.example/", [_SHOWN, ("content-type", media_type)], b"")
        for media_type in ("application/json", "application/x-www-form-urlencoded", "multipart/form-data")
    ),
]


def callbacks(_: Settings) -> Iterator[Finding]:
    """Whether there is a secret for all that the configured providers may call with."""
    missing: dict[str, list[str]] = {}
    for name, provider in sorted(provider_registry.items()):
        with suppress(NotImplementedError):
            missing[name] = asyncio.run(_missing_secrets(provider))
    for name, said in missing.items():
        if said:
            yield warning(
                f"{' '.join(said)} So calls of {name} that need it are answered 503, until {name} gives them up.",
                f"Set it as docs/providers.md says for {name}, and restart; if {name} is not to call, leave it so.",
            )
    if not any(missing.values()):
        yield ok(f"those of {', '.join(missing)} can be verified" if missing else "no provider makes any")


async def _missing_secrets(provider: BaseProvider) -> list[str]:
    """What a provider says to calls that it can't judge. Raises `NotImplementedError` where it doesn't call."""
    missing: dict[str, None] = {}
    for call in _CALLS:
        try:
            judging = provider.verify(call)
            if isinstance(judging, Awaitable):
                await judging
        except CallbackUnverifiable as error:
            missing[str(error)] = None
        except CallbackRefused:
            pass
    return list(missing)


def public_url(settings: Settings) -> Iterator[Finding]:
    if settings.public_url is None:
        signing = sorted(name for name, provider in provider_registry.items() if provider.signs_address)
        if settings.is_production and signing:
            yield problem(
                f"PUBLIC_URL is not set, and {', '.join(signing)} signs the address that it calls: nothing starts.",
                "Set PUBLIC_URL to what the world calls this service, such as https://messaging.example.",
            )
        elif settings.is_production:
            yield warning(
                "PUBLIC_URL is not set: links between pages are relative, and browsers aren't told to stay on https.",
                "Set PUBLIC_URL to what the world calls this service, such as https://messaging.example.",
            )
        else:
            yield ok("not set: nobody outside is expected")
        return
    parts = urlsplit(settings.public_url)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        yield problem("PUBLIC_URL is no web address.", "Write it as https://messaging.example.")
    elif settings.is_production and parts.scheme != "https" and not _is_local(parts.hostname):
        yield problem(
            "PUBLIC_URL begins with http: keys and messages travel readable for everybody on the way.",
            "Put a proxy with a certificate in front, and let PUBLIC_URL begin with https.",
        )
    else:
        yield ok(f"{parts.scheme}://{parts.hostname}")


def online(settings: Settings) -> Iterator[Finding]:
    """Only on request: it resolves and fetches PUBLIC_URL."""
    if settings.public_url is None:
        yield warning("There is no PUBLIC_URL to fetch.", "Set PUBLIC_URL.")
        return
    try:
        answer = httpx.get(f"{settings.public_url.rstrip('/')}/healthz", timeout=_FETCH_SECONDS)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        yield problem(
            f"PUBLIC_URL can't be fetched from here: {type(error).__name__}.",
            "See that its name resolves, that the proxy runs, and that its certificate is valid.",
        )
        return
    if answer.status_code == httpx.codes.OK and answer.text.replace(" ", "") == '{"status":"ok"}':
        yield ok("PUBLIC_URL leads to this service")
    else:
        yield problem(
            f"PUBLIC_URL/healthz is answered {answer.status_code}, and not by this service.",
            f"Start the service, and have the proxy pass requests on to port {settings.port}, with their paths.",
        )


def routes(settings: Settings) -> Iterator[Finding]:
    """Whether every channel has somebody who takes its messages, and really sends them."""
    served = [channel for channel in sorted(channels_served(settings)) if route_of(settings, channel)]
    for channel in dict.fromkeys([*Channel, *settings.routes, *served]):
        route = route_of(settings, channel)
        unknown = [name for name in route if name not in provider_registry]
        simulated = [name for name in route if name in provider_registry and provider_registry[name].simulated]
        if not route:
            yield warning(
                f"{channel} has no provider: sends on it are refused.",
                f"Name one in ROUTES, as {channel}:NAME; if nobody needs {channel}, leave it so.",
            )
        elif unknown:
            yield problem(
                f"{channel} goes to {', '.join(unknown)}, which is not there.",
                f"If there is an app/providers/{unknown[0]}.py, set what it asks for; otherwise correct ROUTES. "
                f"Registered are {', '.join(sorted(provider_registry))}.",
            )
        elif simulated and settings.is_production:
            say = warning if settings.simulates else problem
            yield say(
                f"{channel} goes to {', '.join(simulated)}, which is simulated: its messages reach nobody.",
                f"Name a provider that sends in ROUTES, as {channel}:NAME, and take SIMULATED_CARRIERS away.",
            )
        else:
            yield ok(f"{channel} goes to {', then '.join(route)}" + (" (simulated)" if simulated else ""))


def log_format(settings: Settings) -> Iterator[Finding]:
    if settings.is_production and settings.log_format == "console":
        yield warning("LOG_FORMAT is console, which log collectors can't read.", "Take LOG_FORMAT away, or set json.")
    elif settings.is_production and settings.log_level == "debug":
        yield warning(
            "LOG_LEVEL is debug: the texts of exceptions are logged, which may quote what somebody sent.",
            "Set LOG_LEVEL=info.",
        )
    else:
        yield ok(settings.log_format or ("json" if settings.is_production else "console"))


def api_reference(settings: Settings) -> Iterator[Finding]:
    if settings.is_production and settings.serves_docs:
        yield warning(
            "DOCS_ENABLED shows the API reference to everybody.", "Take DOCS_ENABLED away, unless that is intended."
        )
    else:
        yield ok("served at /docs" if settings.serves_docs else "not served")


def disk(settings: Settings) -> Iterator[Finding]:
    """The space that the embedded server has left; another server's disk can't be seen from here."""
    if settings.database_url is not None:
        yield ok("the database's own machine has to watch it: DATABASE_URL is set")
        return
    directory = settings.data_dir.resolve()
    while not directory.exists():
        directory = directory.parent
    free = shutil.disk_usage(directory).free
    left = f"{free / _GIGABYTE:.1f} GB are free where DATA_DIR is"
    mending = "Make room, or move DATA_DIR to a larger disk while the service is stopped."
    if free < _NO_DISK:
        yield problem(f"{left}: PostgreSQL is about to stop.", mending)
    elif free < _LITTLE_DISK:
        yield warning(f"{left}.", mending)
    else:
        yield ok(left)


def _is_local(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")
