"""Checks of the stored state: keys, the health of providers, the queue. They only count, over all tenants."""

from collections.abc import Iterator
from decimal import Decimal

from sqlalchemy import Connection, func, select, text

from app.config import Settings
from app.db.models import CALL_NEEDS_ATTENTION, KeptCallback
from app.doctor.connecting import is_behind_pooler
from app.doctor.findings import APP, DatabaseCheck, Finding, counted, duration, ok, problem, warning
from app.installation import CallbackVerdict
from app.services.delivery.claiming.order import QUEUE_AGE

_SHOWN = 5
_MANY_UNINDEXED = 50_000


def keys(settings: Settings, connection: Connection) -> Iterator[Finding]:
    """The API keys, named by their ids, as `keys list` shows them."""
    counts = text("""
        SELECT count(*) FILTER (WHERE expires_at IS NULL OR expires_at > now()) AS valid,
               count(*) FILTER (WHERE (expires_at IS NULL OR expires_at > now()) AND scopes ? 'admin') AS admin
        FROM api_keys WHERE revoked_at IS NULL
    """)
    valid, admin = connection.execute(counts).one()
    ending = text("""
        SELECT format('%s of tenant %s', id, tenant_id) AS name, expires_at <= now() AS is_over,
               extract(epoch FROM expires_at - now()) AS seconds
        FROM api_keys WHERE revoked_at IS NULL AND expires_at <= now() + interval '14 days' ORDER BY expires_at
    """)
    expiring = connection.execute(ending).all()
    make = f"`{APP} keys create --name ...`"
    if settings.is_production and not valid:
        yield problem("There is no valid API key: every request is refused.", f"Make one: {make}.")
    for name, is_over, seconds in expiring[:_SHOWN]:
        if is_over:
            mending = f"If it is still needed, make another with {make}; then `{APP} keys revoke TENANT ID`."
            yield warning(f"Key {name} has expired: its clients are refused.", mending)
        else:
            mending = f"Make another with {make}, hand it over, and then `{APP} keys revoke TENANT ID`."
            yield warning(f"Key {name} expires in {duration(float(seconds))}.", mending)
    if len(expiring) > _SHOWN:
        yield warning(f"{len(expiring) - _SHOWN} more expired or will within 14 days.", f"See `{APP} keys list`.")
    if not expiring and (valid or not settings.is_production):
        yield ok(f"{valid} valid, {admin} of them with the scope admin")


def providers(_: Settings, connection: Connection) -> Iterator[Finding]:
    """The providers in trouble. The reason of a pause quotes the vendor, and is not repeated here."""
    in_trouble = text("""
        SELECT provider_type, paused_at IS NOT NULL AS is_paused,
               extract(epoch FROM now() - paused_at) AS paused_for,
               coalesce(open_until > now(), false) AS is_open, failure_count,
               extract(epoch FROM throttled_until - now()) AS throttled_for, learned_rate,
               extract(epoch FROM now() - stopped_at) AS stopped_for,
               (SELECT count(*) FROM provider_pauses p WHERE p.provider_type = s.provider_type) AS pauses
        FROM provider_states s
        WHERE paused_at IS NOT NULL OR open_until > now() OR throttled_until > now() OR learned_rate IS NOT NULL
           OR stopped_at IS NOT NULL OR provider_type IN (SELECT provider_type FROM provider_pauses)
        ORDER BY provider_type
    """)
    troubled = connection.execute(in_trouble).all()
    for name, is_paused, paused_for, is_open, failures, throttled_for, learned_rate, stopped_for, pauses in troubled:
        yield from _paused_by_people(name, stopped_for, pauses)
        if is_paused:
            since = duration(float(paused_for))
            mending = f"GET /api/providers says why. Correct them, restart, and POST /api/providers/{name}/resume."
            yield problem(f"{name} refused our credentials {since} ago and is paused; its queue is kept.", mending)
        elif is_open:
            attempts = f"the last attempts in GET /api/messages?provider={name}."
            mending = f"It is tried again by itself. See the vendor's status page, and {attempts}"
            yield warning(f"{name} has failed {failures} times in a row and is not called for a while.", mending)
        elif (throttled_for or 0) > 0 or learned_rate is not None:
            rate = f"PROVIDER_RATES={name}:N to what the vendor allows."
            mending = f"It goes on by itself. If that comes often, set {rate}"
            if (throttled_for or 0) > 0:
                said = f"asked for a pause of which {duration(float(throttled_for))} are left"
            else:
                said = f"answers 429, and gets at most {learned_rate:.3g} calls a second"
            yield warning(f"{name} {said}.", mending)
    if not troubled:
        yield ok("none is paused, throttled or failing")


def _paused_by_people(name: str, stopped_for: Decimal | None, pauses: int) -> Iterator[Finding]:
    """The pauses of a provider by the operator, and by tenants for themselves."""
    resume = f"POST /api/providers/{name}/resume"
    if stopped_for is not None:
        since = duration(float(stopped_for))
        mending = f"GET /api/providers says why. {resume} ends that."
        yield warning(f"{name} was paused by the operator {since} ago; its queue is kept.", mending)
    if pauses:
        mending = f"Their keys see why in GET /api/providers, and end it with {resume}."
        yield warning(f"{counted(pauses, 'tenant')} paused {name} for messages of their own.", mending)


def queue(_: Settings, connection: Connection) -> Finding:
    overdue, age = connection.execute(QUEUE_AGE).one()
    # A worker listens for due messages. Behind a pooler that can't be seen, but its renewed leases can.
    listening = text("""
        SELECT greatest(
            (SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND query LIKE 'LISTEN %'),
            (SELECT count(*) FROM (
                SELECT 1 FROM messages WHERE status = 'sending' AND due_at > now() LIMIT 1) leased))
    """)
    workers = connection.execute(listening).scalar_one()
    at_work = counted(workers, "worker is", "workers are") + " connected" if workers else "no worker is connected"
    is_hidden = not workers and is_behind_pooler(connection)
    if is_hidden:
        at_work = "behind a pooler workers can't be seen"
    if not overdue:
        waiting = f"the oldest due message waits for {duration(float(age))}" if age else "nothing is due"
        return ok(f"{waiting}; {at_work}")
    said = f"{counted(overdue, 'message')} should have left, the oldest {duration(float(age))} ago, and {at_work}."
    if not workers and not is_hidden:
        return problem(said, f"Start `{APP} worker`, or the service with WORKER_ENABLED=true.")
    paused = "If a provider above is paused or asked for a pause, they wait for it."
    more = f"Otherwise start more workers (`{APP} worker`), or raise PROVIDER_CONCURRENCY or PROVIDER_RATES."
    return warning(said, f"{paused} {more}")


def outcomes(_: Settings, connection: Connection) -> Iterator[Finding]:
    ended = text("""
        SELECT count(*) FILTER (WHERE status = 'failed') AS failed,
               count(*) FILTER (WHERE status = 'unknown' AND due_at IS NULL) AS in_doubt
        FROM messages WHERE status IN ('failed', 'unknown') AND created_at > now() - interval '1 day'
    """)
    failed, in_doubt = connection.execute(ended).one()
    if in_doubt:
        listing = "GET /api/messages?status=unknown lists them. A receipt settles one"
        mending = f"{listing}; POST /api/messages/ID/retry sends it again, perhaps for the second time."
        yield warning(f"{counted(in_doubt, 'message')} of the last day may or may not have gone out.", mending)
    if failed:
        listing = "GET /api/messages?status=failed lists them with their reasons"
        mending = f"{listing}; POST /api/messages/ID/retry tries again."
        yield warning(f"{counted(failed, 'message')} of the last day failed.", mending)
    if not failed and not in_doubt:
        yield ok("nothing of the last day failed or is in doubt")


def receipts(_: Settings, connection: Connection) -> Iterator[Finding]:
    unmatched = text("""
        SELECT provider_type, count(*) FROM provider_events
        WHERE message_id IS NULL AND received_at < now() - interval '1 hour' GROUP BY 1 ORDER BY 1
    """)
    parked = connection.execute(unmatched).all()
    for name, count in parked:
        said = f"{counted(count, 'receipt')} of {name}, an hour old or more, name messages that we don't have."
        shared = f"whether another system sends with the account of {name}"
        yield warning(said, f"See in the vendor's console {shared}, and let each have a webhook address of its own.")
    if not parked:
        yield ok("every one has found its message")


def calls(_: Settings, connection: Connection) -> Iterator[Finding]:
    """The callbacks that could not be read or stored. They are kept for WEBHOOK_DAYS."""
    unread = (
        select(KeptCallback.provider_type, func.count())
        .where(CALL_NEEDS_ATTENTION, KeptCallback.verdict == CallbackVerdict.NOT_UNDERSTOOD.value)
        .group_by(KeptCallback.provider_type)
        .order_by(KeptCallback.provider_type)
    )
    not_understood = connection.execute(unread).all()
    for name, count in not_understood:
        said = f"{counted(count, 'callback')} of {name} could not be read, or only in part: a message may be missing."
        listing = f"`{APP} webhooks list --verdict not_understood --provider {name}` says why."
        yield warning(said, f"{listing} Once mended, `{APP} webhooks replay` processes them again.")
    if not not_understood:
        yield ok("every one that is kept has been understood")


def search(_: Settings, connection: Connection) -> Finding:
    """The messages and contacts that a search does not find yet. They have no time, so they are counted."""
    waiting = connection.execute(
        text("SELECT count(*) FROM (SELECT 1 FROM search_queue LIMIT :most) waiting"), {"most": _MANY_UNINDEXED + 1}
    ).scalar_one()
    if waiting > _MANY_UNINDEXED:
        said = f"More than {_MANY_UNINDEXED} messages and contacts are not found by a search yet."
        return warning(said, f"Workers index them while they have time: start one more (`{APP} worker`), or wait.")
    return ok(
        f"{counted(waiting, 'message or contact', 'messages and contacts')} wait to be indexed"
        if waiting
        else "every message is indexed"
    )


CHECKS: list[DatabaseCheck] = [keys, providers, queue, outcomes, receipts, calls, search]
