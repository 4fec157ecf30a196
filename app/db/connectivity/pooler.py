"""Poolers between the service and PostgreSQL, such as PgBouncer in transaction mode.

A pooler refuses the parameters of a connection that it does not know, or ignores them. It may give each transaction
another server, so that a prepared statement is gone by the next one.
"""

import structlog

from app.config import Settings
from app.db.connectivity.connections import connect, is_pooled, refused_parameter
from app.db.engine import is_unavailable, serving_options
from app.errors import ConfigurationError

log = structlog.get_logger(__name__)


async def with_pooler_known(url: str, settings: Settings) -> Settings:
    """The settings with `database_prepared_statements` set: as given, and otherwise false behind a pooler.

    A database that is away is left to its first use. Raises `ConfigurationError` if a pooler refuses a parameter that
    the settings demand.
    """
    given = settings.database_prepared_statements
    if given is False or settings.database_url is None:  # the embedded server has none
        return settings
    try:
        connection = await connect(url, **serving_options(settings))
    except Exception as error:
        refused = refused_parameter(error)
        if refused is None and is_unavailable(error):
            return settings
        if refused is None:
            raise
        if given:
            raise ConfigurationError(refusal(refused, settings)) from None
        log.info("pooler_found", refuses=refused, prepared_statements=False)
        return _unprepared(settings)
    try:
        is_behind = given is None and await is_pooled(connection)
    finally:
        await connection.close()
    if is_behind:
        log.info("pooler_found", prepared_statements=False)
    return _unprepared(settings) if is_behind else settings


def refusal(parameter: str, settings: Settings) -> str:
    """The sentence for a parameter that a pooler refuses."""
    ours = {"plan_cache_mode", *serving_options(settings)["server_settings"]} - {"application_name", "timezone"}
    if parameter not in ours:
        return (
            f"The pooler refuses `{parameter}`: take it out of DATABASE_URL, or name it in ignore_startup_parameters."
        )
    named = ",".join(sorted(ours))
    return (
        f"The pooler refuses `{parameter}`: set ignore_startup_parameters={named} there, or leave "
        "DATABASE_PREPARED_STATEMENTS unset."
    )


def _unprepared(settings: Settings) -> Settings:
    return settings.model_copy(update={"database_prepared_statements": False})
