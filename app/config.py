"""Settings: read from the environment and `.env` here, and nowhere else."""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError


class Settings(BaseSettings):
    """What can be set. `.env.example` names every one with its default."""

    model_config = SettingsConfigDict(
        env_file=".env", extra="ignore", env_ignore_empty=True, hide_input_in_errors=True
    )

    env: Literal["development", "production"] = "development"
    host: str = "127.0.0.1"
    port: int = Field(8080, ge=0, le=65535)
    web_concurrency: int = Field(1, ge=1, le=64)
    public_url: str | None = None
    log_format: Literal["console", "json"] | None = None
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    max_body_bytes: int = Field(1_000_000, ge=1_000)
    shutdown_grace_seconds: int = Field(20, ge=1)

    database_url: SecretStr | None = None
    data_dir: Path = Path(".data")
    pg_bindir: Path | None = None
    #: Each group commit keeps a connection of its own, and the worker needs another.
    database_pool_size: int = Field(10, ge=5)
    database_pool_overflow: int = Field(5, ge=0)
    database_pool_timeout_seconds: float = Field(3, gt=0)
    database_pool_recycle_seconds: int = Field(1800, gt=0)
    database_statement_timeout_seconds: float = Field(4, gt=0)
    database_prepared_statements: bool = True

    #: Which providers serve a channel, in order: `sms:twilio,telnyx email:sendgrid`.
    routes: Annotated[dict[str, list[str]], NoDecode] = {}

    default_region: str = Field("US", pattern=r"^[A-Z]{2}$")

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
    #: The most that a provider is handed in a second; texts count by their segments: `twilio:10 sendgrid:50`.
    provider_rates: Annotated[dict[str, Annotated[float, Field(gt=0)]], NoDecode] = {}
    breaker_failures: int = Field(10, ge=1)
    breaker_seconds: float = Field(30, gt=0)
    in_doubt_after_crash: Literal["wait", "retry", "fail"] = "retry"
    in_doubt_after_timeout: Literal["wait", "retry", "fail"] = "wait"
    max_attempts: int = Field(8, ge=1)
    retry_base_seconds: float = Field(1.0, gt=0)
    retry_max_seconds: float = Field(900.0, gt=0)
    retry_after_max_seconds: float = Field(3600.0, gt=0)
    idempotency_hours: float = Field(24, gt=0)

    @field_validator("database_url")
    @classmethod
    def _must_name_postgresql(cls, url: SecretStr | None) -> SecretStr | None:
        if url is None:
            return None
        try:
            parsed = make_url(url.get_secret_value())
        except ArgumentError:
            raise ValueError("write it as postgresql://user:password@host:port/name") from None
        if parsed.get_backend_name() not in {"postgresql", "postgres"}:
            raise ValueError("only PostgreSQL is supported: postgresql://user:password@host:port/name")
        return url

    @field_validator("routes", mode="before")
    @classmethod
    def _channel_and_providers(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        routes = {}
        for part in value.split():
            channel, _, providers = part.partition(":")
            routes[channel] = providers.split(",")
            if not channel or not all(routes[channel]):
                raise ValueError("write it as channel:provider,provider for each channel, spaces between them")
        return routes

    @field_validator("provider_rates", mode="before")
    @classmethod
    def _provider_and_rate(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        return dict(part.rpartition(":")[::2] for part in value.split())

    @model_validator(mode="after")
    def _production_has_what_it_needs(self) -> Self:
        if self.is_production and self.database_url is None:
            raise ValueError("DATABASE_URL is needed in production: postgresql://user:password@host:port/name")
        return self

    def route(self, channel: str) -> list[str]:
        """The providers that serve a channel, in order; without a route, the one of the channel's own name."""
        return self.routes.get(channel, [channel])

    def channels_of(self, provider: str) -> list[str]:
        """The channels that a provider serves, at whatever place of their routes."""
        routed = [channel for channel, providers in self.routes.items() if provider in providers]
        return routed or ([] if provider in self.routes else [provider])

    @property
    def is_production(self) -> bool:
        return self.env == "production"
