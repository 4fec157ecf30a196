"""Checks of the settings and of this machine, without the database."""

import asyncio
import ipaddress
import shutil
from collections.abc import Awaitable, Iterator
from contextlib import suppress
from urllib.parse import urlsplit, urlunsplit

import httpx

from app.config import Settings
from app.doctor.findings import APP, Finding, LocalCheck, ok, problem, warning
from app.domain import Channel
from app.providers.base import BaseProvider, Callback, CallbackRefused, CallbackUnverifiable
from app.providers.registry import from_packages, provider_registry
from app.routing import channels_served, route_of
from app.signing_keys import signing_keys

_LITTLE_DISK = 10**9  # bytes; PostgreSQL alone keeps this much of its log (max_wal_size)
_NO_DISK = 10**8
_SHORTEST_KEY = 24  # bytes, says Standard Webhooks
_FETCH_SECONDS = 4


def profile(settings: Settings) -> Finding:
    """The profile: development asks for no key, so it must not be reachable from outside."""
    if settings.is_production:
        return ok("production")
    public = urlsplit(settings.public_url or "").hostname
    if public and not _is_local(public):
        said = "ENV is development, where requests need no key, and PUBLIC_URL says that the world reaches it."
        return problem(said, f"Set ENV=production, and make keys with `{APP} keys create`.")
    if not _is_local(settings.host):
        said = f"ENV is development, and HOST={settings.host} lets other machines in: they may do anything."
        container = "in a container see that its port is published on 127.0.0.1 only."
        return warning(said, f"Set HOST=127.0.0.1 or ENV=production; {container}")
    return ok("development, for this machine only")


def webhook_secret(settings: Settings) -> Finding:
    secrets = settings.webhook_secrets
    make = "Set WEBHOOK_SECRET to what `openssl rand -base64 32` prints, here and where the webhooks are signed."
    if not secrets:
        if settings.is_production:
            return problem("WEBHOOK_SECRET is not set, so anybody can forge inbound messages.", make)
        return ok("not set: in development webhooks need no signature")
    keys = [[key for key in signing_keys(secret) if isinstance(key, bytes)] for secret in secrets]
    if any(max(map(len, of_one)) < _SHORTEST_KEY for of_one in keys if of_one):
        return warning(f"WEBHOOK_SECRET is shorter than {_SHORTEST_KEY} bytes and might be guessed.", make)
    return ok("set" if len(secrets) == 1 else f"{len(secrets)} are valid: remove the old one when it is out of use")


_MEDIA_TYPES = ("application/json", "application/x-www-form-urlencoded", "multipart/form-data")
_SHOWN = ("authorization", "Bearer none")
#: A callback of each kind that may have a secret of its own. They carry an invalid one, and are refused.
_CALLBACKS = [
    Callback("GET", "https://messaging.example/", [_SHOWN], b""),
    *(Callback("POST", "https://messaging.example/", [_SHOWN, ("content-type", kind)], b"") for kind in _MEDIA_TYPES),
]


def callbacks(_: Settings) -> Iterator[Finding]:
    missing: dict[str, list[str]] = {}
    for name, provider in sorted(provider_registry.items()):
        with suppress(NotImplementedError):
            missing[name] = asyncio.run(_missing_secrets(provider))
    for name, reasons in missing.items():
        if reasons:
            page = next((each.package for each in from_packages if each.name == name), "docs/providers.md")
            mending = f"Set it as {page} says for {name}, and restart; if it makes none, leave it so."
            said = f"{' '.join(reasons)} So callbacks of {name} that need it get 503, until {name} gives up."
            yield warning(said, mending)
    if not any(missing.values()):
        yield ok(f"those of {', '.join(missing)} can be verified" if missing else "no provider makes any")


async def _missing_secrets(provider: BaseProvider) -> list[str]:
    """The provider's reasons for callbacks that it can't verify. `NotImplementedError` if it makes none."""
    missing: dict[str, None] = {}
    for callback in _CALLBACKS:
        try:
            judging = provider.verify(callback)
            if isinstance(judging, Awaitable):
                await judging
        except CallbackUnverifiable as error:
            missing[str(error)] = None
        except CallbackRefused:
            pass
    return list(missing)


def public_url(settings: Settings) -> Finding:
    if settings.public_url is None:
        if not settings.is_production:
            return ok("not set: no requests from outside are expected")
        mending = "Set PUBLIC_URL to what the world calls this service, such as https://messaging.example."
        if signing := sorted(name for name, provider in provider_registry.items() if provider.signs_address):
            said = f"PUBLIC_URL is not set, and {', '.join(signing)} signs the address that it calls: nothing starts."
            return problem(said, mending)
        said = "PUBLIC_URL is not set: links between pages are relative, and browsers may leave https."
        return warning(said, mending)
    parts = urlsplit(settings.public_url)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        return problem("PUBLIC_URL is not a web address.", "Write it as https://messaging.example.")
    if settings.is_production and parts.scheme != "https" and not _is_local(parts.hostname):
        mending = "Put a proxy with a certificate in front, and let PUBLIC_URL begin with https."
        return problem("PUBLIC_URL begins with http: keys and messages can be read on the way.", mending)
    return ok(urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="")))


def online(settings: Settings) -> Finding:
    """Only on request, because it resolves and fetches PUBLIC_URL."""
    if settings.public_url is None:
        return warning("There is no PUBLIC_URL to fetch.", "Set PUBLIC_URL.")
    try:
        answer = httpx.get(f"{settings.public_url.rstrip('/')}/healthz", timeout=_FETCH_SECONDS)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        mending = "See that its name resolves, that the proxy runs, and that its certificate is valid."
        return problem(f"PUBLIC_URL can't be fetched from here: {type(error).__name__}.", mending)
    if answer.status_code == httpx.codes.OK and answer.text.replace(" ", "") == '{"status":"ok"}':
        return ok("PUBLIC_URL leads to this service")
    mending = f"Start the service, and have the proxy pass requests on to port {settings.port}, with their paths."
    return problem(f"PUBLIC_URL/healthz is answered {answer.status_code}, and not by this service.", mending)


def routes(settings: Settings) -> Iterator[Finding]:
    """The providers of every channel: they exist, and really send."""
    served = [channel for channel in sorted(channels_served(settings)) if route_of(settings, channel)]
    for channel in dict.fromkeys([*Channel, *settings.routes, *served]):
        route = route_of(settings, channel)
        unknown = [name for name in route if name not in provider_registry]
        simulated = [name for name in route if name in provider_registry and provider_registry[name].simulated]
        if not route:
            mending = f"Name one in ROUTES, as {channel}:NAME; if {channel} is not needed, leave it so."
            yield warning(f"{channel} has no provider: messages on it are refused.", mending)
        elif unknown:
            mending = f"If there is an app/providers/{unknown[0]}.py, set what it asks for; otherwise correct ROUTES."
            registered = f"Registered are {', '.join(sorted(provider_registry))}."
            yield problem(f"{channel} goes to {', '.join(unknown)}, which is not there.", f"{mending} {registered}")
        elif simulated and settings.is_production:
            say = warning if settings.simulates else problem
            mending = f"Name a provider that sends in ROUTES, as {channel}:NAME, and take SIMULATED_CARRIERS away."
            said = f"{channel} goes to {', '.join(simulated)}, which is simulated: its messages reach nobody."
            yield say(said, mending)
        else:
            yield ok(f"{channel} goes to {', then '.join(route)}" + (" (simulated)" if simulated else ""))


def provider_packages(_: Settings) -> Iterator[Finding]:
    """The providers of installed packages, and the package of each."""
    for each in from_packages:
        if each.fault is not None:
            yield problem(each.fault, "Correct or uninstall that package: nothing starts with it.")
        elif each.provider is None:
            yield ok(f"{each.name} comes from {each.package}, and is not used: its settings are missing")
        else:
            yield ok(f"{each.name} comes from {each.package}")
    if not from_packages:
        yield ok("no provider comes from a package of its own")


def log_format(settings: Settings) -> Finding:
    if settings.is_production and settings.log_format == "console":
        said = "LOG_FORMAT is console, which log collectors can't read."
        return warning(said, "Take LOG_FORMAT away, or set json.")
    if settings.is_production and settings.log_level == "debug":
        said = "LOG_LEVEL is debug: the texts of exceptions are logged, which may quote messages."
        return warning(said, "Set LOG_LEVEL=info.")
    return ok(settings.log_format or ("json" if settings.is_production else "console"))


def api_reference(settings: Settings) -> Finding:
    if settings.is_production and settings.serves_docs:
        mending = "Take DOCS_ENABLED away, unless that is intended."
        return warning("DOCS_ENABLED shows the API reference to everyone.", mending)
    return ok("served at /docs" if settings.serves_docs else "not served")


def disk(settings: Settings) -> Finding:
    """The free space of the embedded server; the disk of another server can't be seen from here."""
    if settings.database_url is not None:
        return ok("to be watched on the database's own machine: DATABASE_URL is set")
    directory = settings.data_dir.resolve()
    free = shutil.disk_usage(next(each for each in (directory, *directory.parents) if each.exists())).free
    left = f"{free / 10**9:.1f} GB are free where DATA_DIR is"
    mending = "Make room, or move DATA_DIR to a larger disk while the service is stopped."
    if free < _NO_DISK:
        return problem(f"{left}: PostgreSQL is about to stop.", mending)
    if free < _LITTLE_DISK:
        return warning(f"{left}.", mending)
    return ok(left)


def _is_local(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


CHECKS: list[LocalCheck] = [
    profile,
    webhook_secret,
    provider_packages,
    callbacks,
    public_url,
    routes,
    log_format,
    api_reference,
    disk,
]
