"""Every metric of the service.

No label has a value that clients or tenants choose: routes are templates, and channels and providers are those of the
installation.
"""

from app.metrics.values import Counter, Gauge, Histogram

#: Seconds of answers: a fine scale up to a second, since the service answers in milliseconds.
_ANSWERS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5)
#: Seconds of calls to other systems.
_CALLS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)

REQUESTS = Counter(
    "messaging_requests",
    "Requests by route, method and class of the status.",
    ("route", "method", "status"),
)
REQUESTS_SHED = Counter("messaging_requests_shed", "Requests that were refused at once, for overload.")
REQUEST_SECONDS = Histogram(
    "messaging_request_duration_seconds",
    "Time to an answer, by route, without the time for a slow body and for what a request waits for as it asked to.",
    ("route",),
    bounds=_ANSWERS,
)
ACCEPT_SECONDS = Histogram(
    "messaging_accept_duration_seconds",
    "Time from the request to the answer of a send that was stored, on any channel.",
    bounds=_ANSWERS,
)
BATCH_SIZE = Histogram(
    "messaging_batch_size",
    "Items that a group commit wrote in one transaction.",
    ("batch",),
    bounds=(1, 2, 5, 10, 25, 50, 100, 200, 400),
)
BATCH_SECONDS = Histogram(
    "messaging_batch_duration_seconds", "Time of such a transaction.", ("batch",), bounds=_ANSWERS
)
ATTEMPTS = Counter(
    "messaging_attempts",
    "Attempts to hand a message to a provider: accepted, temporary, permanent, unknown, throttled or not_begun.",
    ("provider", "outcome"),
)
ATTEMPT_SECONDS = Histogram(
    "messaging_attempt_duration_seconds", "Time of such an attempt that was begun.", ("provider",), bounds=_CALLS
)
RECEIPTS = Counter(
    "messaging_receipts", "Receipts by the status that they report, repeats too.", ("provider", "status")
)
CALLBACKS = Counter(
    "messaging_callbacks", "Callbacks of providers: taken, not_understood or refused.", ("provider", "verdict")
)
WEBHOOKS = Counter(
    "messaging_webhook_requests",
    "Requests to webhook endpoints: delivered, refused (no 2xx) or unreachable.",
    ("result",),
)
WEBHOOK_SECONDS = Histogram("messaging_webhook_duration_seconds", "Time of such a request.", bounds=_CALLS)

QUEUE_DUE = Gauge(
    "messaging_queue_due_messages",
    "Messages that are due and not claimed; no more than 100,000 of all channels are counted.",
    ("channel",),
    is_shared=True,
)
QUEUE_AGE = Gauge(
    "messaging_queue_oldest_due_seconds", "Age of the message that is due longest.", ("channel",), is_shared=True
)
PROVIDER_STATE = Gauge(
    "messaging_provider_state",
    "1 if the provider is open (its breaker), half_open, throttled, or paused; else 0.",
    ("provider", "state"),
    is_shared=True,
)
EVENT_READERS = Gauge("messaging_event_readers", "Streams and long polls of the event log that are open.")
CONNECTIONS = Gauge(
    "messaging_database_connections",
    "Connections to the database that are in_use or idle, of the pool and of the reads.",
    ("pool", "state"),
)
CONNECTIONS_MOST = Gauge("messaging_database_connections_limit", "Connections that a pool may have.", ("pool",))
CONNECTIONS_WAITING = Gauge("messaging_database_waiting", "Tasks that wait for a connection.", ("pool",))
DATABASE_UP = Gauge(
    "messaging_database_up", "1 if the database answered when the figures were last written.", is_shared=True
)
PROCESSES = Gauge("messaging_processes", "Processes behind this address.")
MEMORY = Gauge("messaging_process_memory_bytes", "Resident memory of the processes.")
CPU_SECONDS = Counter("messaging_process_cpu_seconds", "Processor time of the processes.")

COUNTERS = (REQUESTS, REQUESTS_SHED, ATTEMPTS, RECEIPTS, CALLBACKS, WEBHOOKS, CPU_SECONDS)
HISTOGRAMS = (REQUEST_SECONDS, ACCEPT_SECONDS, BATCH_SIZE, BATCH_SECONDS, ATTEMPT_SECONDS, WEBHOOK_SECONDS)
GAUGES = (
    QUEUE_DUE,
    QUEUE_AGE,
    PROVIDER_STATE,
    EVENT_READERS,
    CONNECTIONS,
    CONNECTIONS_MOST,
    CONNECTIONS_WAITING,
    DATABASE_UP,
    PROCESSES,
    MEMORY,
)
