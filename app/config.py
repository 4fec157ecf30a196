"""Settings: read from the environment and `.env` here, and nowhere else."""

import re
from functools import cached_property
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from app.database_urls import hosts_of, parameters_of
from app.keywords import ExtraWords, extra_words
from app.secret_files import SecretsInFiles
from app.signing_keys import Key, is_random, secrets_of, signing_keys

#: Units by destination: a country (ISO 3166, two letters; 001 is none), `email`, or `*` for each that is not named.
Destination = Annotated[str, Field(pattern=r"^([A-Z]{2}|001|email|\*)$")]
#: Clients that read JSON numbers as floating point still read these exactly.
DailyCap = Annotated[int, Field(ge=0, le=10**15)]
DailyCaps = dict[Destination, DailyCap]

#: The slowest rate, so that waiting times stay a countable number of seconds.
SLOWEST_RATE = 0.001


def _none_or_countable(rate: float) -> float:
    if 0 < rate < SLOWEST_RATE:
        raise ValueError(f"0, which is no limit, or {SLOWEST_RATE} a second at least")
    return rate


#: Requests a second and at once.
RequestRate = Annotated[
    float,
    Field(
        ge=0, le=1e9, allow_inf_nan=False, json_schema_extra={"anyOf": [{"maximum": 0}, {"minimum": SLOWEST_RATE}]}
    ),
    AfterValidator(_none_or_countable),
]
RequestBurst = Annotated[int, Field(ge=1, le=10**9)]

_THIS_MACHINE = ("127.0.0.1", "localhost", "::1")
_ORIGIN = re.compile(r"https?://[a-z0-9.-]+(:[0-9]{1,5})?|https?://\[[0-9a-f:]+\](:[0-9]{1,5})?")
_CHANNEL = re.compile(r"[a-z][a-z0-9_-]{0,62}")  # as the database takes them


class Settings(SecretsInFiles, BaseSettings):
    """All settings. `.env.example` lists them with their defaults."""

    model_config = SettingsConfigDict(
        env_file=".env", extra="ignore", env_ignore_empty=True, hide_input_in_errors=True
    )

    env: Literal["development", "production"] = "development"
    #: A directory of files that are named as the secrets which they hold: `WEBHOOK_SECRET`, or in lower case.
    secrets_dir: Path | None = None
    host: str = "127.0.0.1"
    port: int = Field(8080, ge=0, le=65535)
    web_concurrency: int = Field(1, ge=1, le=64)
    #: The address at which numbers are read without a key; without METRICS_PORT, only the port of the API has them.
    metrics_host: str = "127.0.0.1"
    metrics_port: int | None = Field(None, ge=1, le=65535)
    #: The port at METRICS_HOST for the numbers and the health of a worker.
    worker_port: int | None = Field(None, ge=1, le=65535)
    #: The collector that gets traces and metrics (OpenTelemetry); unset, none does.
    otel_exporter_otlp_endpoint: str | None = None
    public_url: str | None = None
    log_format: Literal["console", "json"] | None = None
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    access_log: bool = False
    #: The secret that signs the generic webhooks (Standard Webhooks): base64, with `whsec_` or without, or the public
    #: key of a sender, with `whpk_`. During a change, the old and the new one, separated by a comma.
    webhook_secret: SecretStr | None = None
    #: Serves the API reference; unset, only in development.
    docs_enabled: bool | None = None
    #: Lets the simulated carriers, which send nothing, take messages; unset, only in development.
    simulated_carriers: bool | None = None
    #: The origins whose pages may read answers, exactly: `https://app.example http://localhost:3000`.
    cors_origins: Annotated[list[str], NoDecode] = []
    header_timeout_seconds: float = Field(10, gt=0)
    request_timeout_seconds: float = Field(30, gt=0)
    keep_alive_seconds: int = Field(5, ge=1)
    #: Limits of the head of a request: the address with its query, the number of headers, and the total length of
    #: their names and values.
    max_url_length: int = Field(8_192, ge=256, le=65_536)
    max_headers: int = Field(100, ge=10, le=1_000)
    max_header_bytes: int = Field(65_536, ge=1_000, le=1_000_000)
    max_body_bytes: int = Field(1_000_000, ge=1_000)
    #: Limits of outbound messages. Texts: ten segments or a little more, as providers accept. Subjects: the longest
    #: line of a mail (RFC 5322).
    max_text_length: int = Field(1_600, ge=1, le=100_000)
    max_subject_length: int = Field(998, ge=1, le=998)
    max_attachments: int = Field(10, ge=0, le=100)
    #: Requests in flight in a process. Further ones are rejected at once.
    max_requests_in_flight: int = Field(500, ge=1)
    #: Streams and long polls of the event log that are open in a process. They do not count as in flight.
    max_event_readers: int = Field(2000, ge=1)
    #: The pause after which a silent stream of events gets a comment, so that proxies keep it open.
    event_heartbeat_seconds: float = Field(15, gt=0)
    #: Serving goes on for so long after SIGTERM, while `/readyz` answers 503.
    drain_seconds: float = Field(0, ge=0, le=600)
    shutdown_grace_seconds: int = Field(20, ge=1)

    database_url: SecretStr | None = None
    data_dir: Path = Path(".data")
    pg_bindir: Path | None = None
    #: A directory for files of messages that all processes share; unset, they are stored in the database.
    files_dir: Path | None = None
    #: Bytes of a file that is uploaded, or fetched from a vendor.
    file_max_bytes: int = Field(25_000_000, ge=1_000, le=100_000_000)
    #: For fetching a file from a vendor.
    file_fetch_seconds: float = Field(60, gt=0, le=3600)
    #: Hours for which a vendor can fetch an uploaded file, at least.
    file_address_hours: int = Field(24, ge=1, le=8760)
    #: Each group commit occupies a connection, and the worker needs another.
    database_pool_size: int = Field(10, ge=6)
    database_pool_overflow: int = Field(5, ge=0)
    database_pool_timeout_seconds: float = Field(3, gt=0)
    database_pool_recycle_seconds: int = Field(1800, gt=0)
    database_statement_timeout_seconds: float = Field(3, gt=0)
    database_lock_timeout_seconds: float = Field(1, gt=0)
    #: Prepares statements; unset, not behind a pooler.
    database_prepared_statements: bool | None = None
    #: For notifications, past a pooler; unset, DATABASE_URL, and polling if that leads to a pooler.
    database_listen_url: SecretStr | None = None
    #: A replica for lists and searches.
    database_read_url: SecretStr | None = None
    #: The lag up to which a replica is read.
    database_read_lag_seconds: float = Field(5, gt=0, le=3600)

    #: The providers of each channel, in order: `sms:twilio,telnyx email:sendgrid`; see `routing.route_of`.
    routes: Annotated[dict[str, list[str]], NoDecode] = {}

    default_region: str = Field("US", pattern=r"^[A-Z]{2}$")
    #: Vendors' addresses that mail is forwarded to, each with the address that people write to:
    #: `hash@inbound.postmarkapp.com=support@shop.example`.
    mail_forwarded_addresses: Annotated[dict[str, str], NoDecode] = {}

    #: Requests of all keys of a tenant, per second and in a burst; 0 is no limit.
    rate_limit_per_second: RequestRate = 1000
    rate_limit_burst: RequestBurst = 2000
    #: Units that a tenant may send in a day (UTC) to a country or to `email`; `*` stands for each that is not named.
    daily_caps: Annotated[DailyCaps, NoDecode] = {}
    #: Wrong keys accepted from an address in a minute before it gets 429; 0 is no limit.
    auth_failures_per_minute: int = Field(20, ge=0)

    accept_batch_size: int = Field(400, ge=1, le=2000)
    accept_queue_limit: int = Field(5000, ge=1)
    prefer_wait_seconds: int = Field(30, ge=0)

    worker_enabled: bool = True
    worker_batch_size: int = Field(200, ge=1, le=1000)
    worker_concurrency: int = Field(400, ge=1)
    worker_poll_seconds: float = Field(1.0, gt=0)
    lease_seconds: int = Field(30, ge=1)
    provider_timeout_seconds: float = Field(10, gt=0)
    provider_concurrency: int = Field(100, ge=1)
    #: Providers with another limit than `provider_concurrency`: `twilio:10`.
    provider_concurrencies: Annotated[dict[str, Annotated[int, Field(ge=1)]], NoDecode] = {}
    #: Units a second of all workers together; texts count by their segments: `twilio:10 sendgrid:50`.
    provider_rates: Annotated[dict[str, Annotated[float, Field(gt=0)]], NoDecode] = {}
    breaker_failures: int = Field(10, ge=1)
    breaker_seconds: float = Field(30, gt=0)
    in_doubt_after_crash: Literal["wait", "retry", "fail"] = "retry"
    in_doubt_after_timeout: Literal["wait", "retry", "fail"] = "wait"
    #: The wait for a receipt before a message in doubt is sent again.
    in_doubt_receipt_seconds: float = Field(20, ge=0)
    max_attempts: int = Field(8, ge=1)
    retry_base_seconds: float = Field(1.0, gt=0)
    retry_max_seconds: float = Field(900.0, gt=0)
    retry_after_max_seconds: float = Field(3600.0, gt=0)
    idempotency_hours: float = Field(24, gt=0)
    #: Answers of a conversation within a minute after which its sends pause; 0 pauses none.
    loop_answers: int = Field(20, ge=0, le=10**6)
    loop_pause_seconds: float = Field(3600, gt=0, le=366 * 24 * 3600)
    #: The secret that hashes the addresses of erased people whose refusals keep holding, and seals unsubscribe links.
    #: During a change, the new and the old one, separated by a comma.
    consent_secret: SecretStr | None = None
    #: Texts that answer STOP and HELP; unset, nothing does.
    stop_reply: str | None = Field(None, max_length=480)
    help_reply: str | None = Field(None, max_length=480)
    #: More keywords: `STOP=NIE WIEDER|GENUG;HELP=ASSIST`.
    consent_words: str = ""
    #: Days for which messages are kept; unset, for ever. A tenant may have its own.
    retention_days: int | None = Field(None, ge=1, le=36500)
    parked_days: int = Field(7, ge=1, le=36500)
    audit_days: int = Field(365, ge=1, le=36500)
    #: Days for which the event log is kept.
    event_days: int = Field(30, ge=1, le=36500)
    #: Days for which callbacks are kept as they came.
    webhook_days: int = Field(7, ge=1, le=36500)
    #: Also keeps callbacks that are refused or can't be verified, up to this number.
    quarantine_refused: bool = False
    quarantine_most: int = Field(1000, ge=1, le=100_000)

    #: Webhook endpoints of each tenant.
    max_webhook_endpoints: int = Field(1000, ge=0, le=100_000)
    #: Networks, besides the public internet, that webhooks may go to: `10.1.0.0/16 fd00::/8`.
    webhook_allowed_networks: Annotated[list[IPv4Network | IPv6Network], NoDecode] = []
    webhook_timeout_seconds: float = Field(15, gt=0, le=60)
    #: Requests at once: to an endpoint, and of a process to all of them.
    webhook_concurrency: int = Field(10, ge=1, le=100)
    webhook_requests: int = Field(400, ge=2, le=10_000)
    #: Days for which attempts to send webhooks are kept.
    webhook_attempt_days: int = Field(3, ge=1, le=36500)

    @field_validator("database_url", "database_listen_url", "database_read_url")
    @classmethod
    def _must_name_postgresql(cls, url: SecretStr | None) -> SecretStr | None:
        if url is None:
            return None
        hosts_of(parameters_of(url.get_secret_value()))
        return url

    @field_validator("cors_origins", mode="before")
    @classmethod
    def _exact_origins(cls, value: object) -> object:
        origins = value.split() if isinstance(value, str) else value
        if isinstance(origins, list) and not all(_ORIGIN.fullmatch(str(origin)) for origin in origins):
            raise ValueError("name each origin as a browser does: https://app.example, without a path and never *")
        return origins

    @field_validator("routes", mode="before")
    @classmethod
    def _channel_and_providers(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        routes = {}
        for part in value.split():
            channel, _, providers = part.partition(":")
            routes[channel] = providers.split(",")
            if not _CHANNEL.fullmatch(channel) or not all(routes[channel]):
                raise ValueError("write it as channel:provider,provider for each channel, spaces between them")
        return routes

    @field_validator("mail_forwarded_addresses", mode="before")
    @classmethod
    def _two_addresses(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        pairs = [part.split("=") for part in value.split()]
        if not all(len(pair) == 2 and all(address.count("@") == 1 for address in pair) for pair in pairs):
            raise ValueError("write it as vendors-address=own-address, spaces between two such pairs")
        return dict(pairs)

    @field_validator("provider_rates", "provider_concurrencies", "daily_caps", mode="before")
    @classmethod
    def _name_and_number(cls, value: object) -> object:
        return dict(part.rpartition(":")[::2] for part in value.split()) if isinstance(value, str) else value

    @field_validator("webhook_allowed_networks", mode="before")
    @classmethod
    def _networks(cls, value: object) -> object:
        return value.replace(",", " ").split() if isinstance(value, str) else value

    @field_validator("webhook_secret")
    @classmethod
    def _can_be_read(cls, secret: SecretStr | None) -> SecretStr | None:
        if secret is not None:
            if not (secrets := secrets_of(secret.get_secret_value())):
                raise ValueError("a secret can't be empty; `openssl rand -base64 32` makes a good one")
            for each in secrets:
                signing_keys(each)
        return secret

    @field_validator("consent_secret")
    @classmethod
    def _is_a_secret(cls, secret: SecretStr | None) -> SecretStr | None:
        if secret is not None and not secrets_of(secret.get_secret_value()):
            raise ValueError("a secret can't be empty; `openssl rand -base64 32` makes a good one")
        return secret

    @field_validator("consent_words")
    @classmethod
    def _are_keywords(cls, words: str) -> str:
        extra_words(words)
        return words

    @model_validator(mode="after")
    def _ports_differ(self) -> Self:
        if self.metrics_port == self.port:
            raise ValueError("METRICS_PORT has to differ from PORT: numbers are read there without a key")
        return self

    @model_validator(mode="after")
    def _production_has_what_it_needs(self) -> Self:
        if not self.is_production:
            return self
        missing = []
        if self.database_url is None:
            missing.append("DATABASE_URL is needed in production: postgresql://user:password@host:port/name.")
        if self.webhook_secret is None:
            missing.append("WEBHOOK_SECRET is needed in production: `openssl rand -base64 32` makes a good one.")
        elif not all(map(is_random, self.webhook_secrets)):
            missing.append(
                "WEBHOOK_SECRET has to be 24 random characters or more, no words from an example: "
                "`openssl rand -base64 32` makes a good one."
            )
        if self.consent_secret is None:
            missing.append("CONSENT_SECRET is needed in production: `openssl rand -base64 32` makes a good one.")
        elif not all(map(is_random, self.consent_secrets)):
            missing.append("CONSENT_SECRET has to be 24 random characters or more, no words from an example.")
        if missing:
            raise ValueError(" ".join(missing))
        return self

    def webhook_keys(self) -> list[Key]:
        """The keys that may sign the generic webhooks; empty if no signature is required."""
        return [key for secret in self.webhook_secrets for key in signing_keys(secret)]

    @property
    def webhook_secrets(self) -> list[str]:
        """The secrets that are valid: two during a change."""
        return secrets_of(self.webhook_secret.get_secret_value()) if self.webhook_secret else []

    @property
    def consent_secrets(self) -> list[str]:
        """The secrets that hash addresses and seal links, the newest first."""
        return secrets_of(self.consent_secret.get_secret_value()) if self.consent_secret else ["of development"]

    @cached_property
    def extra_keywords(self) -> ExtraWords:
        return extra_words(self.consent_words)

    @property
    def prepares_statements(self) -> bool:
        """True unless a pooler is in the way (`db.connectivity.pooler.with_pooler_known`)."""
        return self.database_prepared_statements is not False

    @property
    def serves_docs(self) -> bool:
        return not self.is_production if self.docs_enabled is None else self.docs_enabled

    @property
    def logs_json(self) -> bool:
        return (self.log_format or ("json" if self.is_production else "console")) == "json"

    @property
    def simulates(self) -> bool:
        """True if the simulated carriers may take messages."""
        return not self.is_production if self.simulated_carriers is None else self.simulated_carriers

    def concurrency_of(self, provider: str) -> int:
        """The limit of concurrent requests of each worker to a provider."""
        return self.provider_concurrencies.get(provider, self.provider_concurrency)

    def callback_url(self, provider: str) -> str | None:
        """The URL for a provider's callbacks; None without PUBLIC_URL."""
        return f"{self.public_url.rstrip('/')}/api/webhooks/{provider}" if self.public_url else None

    @property
    def unsubscribe_url(self) -> str | None:
        """The address of the pages of unsubscribe links, up to their tokens; None without a usable PUBLIC_URL.

        One is usable with https and without a password (RFC 8058). In development http on this machine will do.
        """
        public = urlsplit(self.public_url or "")
        is_local = public.scheme == "http" and public.hostname in _THIS_MACHINE and not self.is_production
        url = f"{public.scheme}://{public.netloc}{public.path.rstrip('/')}/u/"
        is_usable = public.hostname and "@" not in public.netloc and (public.scheme == "https" or is_local)
        return url if is_usable and url.isascii() else None

    @property
    def is_production(self) -> bool:
        return self.env == "production"
