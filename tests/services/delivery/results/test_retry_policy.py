"""The decisions that follow an attempt, all of them pure."""

from typing import Literal

import pytest

from app.config import Settings
from app.domain import AttemptOutcome, MessageStatus
from app.providers.base import (
    BaseProvider,
    CredentialsRefused,
    NotBegun,
    OutboundMessage,
    PermanentFailure,
    ProviderFailure,
    ProviderResult,
    TemporaryFailure,
    UnknownOutcome,
)
from app.services.delivery.results.retry_policy import (
    DEATHS_BEFORE_GIVING_UP,
    Attempt,
    Decision,
    after_failure,
    backoff,
    can_be_asked,
    in_doubt,
)
from tests.cases import each_case
from tests.conftest import make_settings

Policy = Literal["wait", "retry", "fail"]
POLICIES: list[Policy] = ["wait", "retry", "fail"]


class Plain(BaseProvider):
    def send(self, payload: OutboundMessage) -> ProviderResult:
        raise NotImplementedError


class HonoursKeys(Plain):
    honours_idempotency_key = True


class TellsByReceipt(Plain):
    receipts_carry_key = True


class Askable(Plain):
    async def look_up(self, payload: OutboundMessage) -> ProviderResult | None:
        return None


#: Providers that are safe to ask again under any settings.
SAFE = [HonoursKeys(), Askable()]
#: None, where the provider has been taken out of the registry since.
UNSAFE = [Plain(), None]


def settings_with(**values: object) -> Settings:
    return make_settings(retry_base_seconds=2, retry_max_seconds=60, retry_after_max_seconds=600, **values)


def decided(error: Exception, *, attempt: int = 1, limit: int = 8, **values: object) -> Decision:
    return after_failure(error, Attempt(attempt, limit), Plain(), settings_with(**values))


def doubted(
    provider: BaseProvider | None, policy: Policy, *, attempt: int = 1, deaths: int = 0, **values: object
) -> Decision:
    settings = settings_with(in_doubt_after_timeout=policy, **values)
    return in_doubt("No answer.", Attempt(attempt, 8, worker_deaths=deaths), provider, settings)


def test_a_temporary_failure_is_queued_again_after_a_pause() -> None:
    decision = decided(TemporaryFailure("busy"))
    assert (decision.outcome, decision.status, decision.reason) == (
        AttemptOutcome.TEMPORARY,
        MessageStatus.QUEUED,
        "busy",
    )
    assert decision.retry_in is not None
    assert 1 <= decision.retry_in <= 2


def test_a_permanent_failure_ends_it_with_the_provider_s_words() -> None:
    assert decided(PermanentFailure("no such number")) == Decision(
        AttemptOutcome.PERMANENT, MessageStatus.FAILED, "no such number"
    )


@each_case("attempt", [1, 8, 100])
def test_refused_credentials_cost_the_message_nothing_even_at_its_last_attempt(attempt: int) -> None:
    decision = decided(CredentialsRefused("401"), attempt=attempt)
    assert decision == Decision(AttemptOutcome.TEMPORARY, MessageStatus.QUEUED, "401", retry_in=0, limit=9)


@each_case("attempt", [1, 8, 100])
def test_being_throttled_costs_the_message_nothing_even_at_its_last_attempt(attempt: int) -> None:
    decision = decided(TemporaryFailure("429", throttled=True, retry_after=600), attempt=attempt)
    assert decision == Decision(AttemptOutcome.TEMPORARY, MessageStatus.QUEUED, "429", retry_in=600, limit=9)


def test_not_having_been_handed_over_costs_the_message_nothing_even_at_its_last_attempt() -> None:
    decision = decided(NotBegun("no thread"), attempt=8)
    assert (decision.status, decision.reason, decision.limit) == (MessageStatus.QUEUED, "no thread", 9)


def test_any_other_temporary_failure_counts() -> None:
    assert decided(TemporaryFailure("503", retry_after=5)).limit is None


@each_case("error", [KeyError("to"), ValueError("secret"), ProviderFailure("something")])
def test_anything_else_that_is_raised_counts_as_temporary(error: Exception) -> None:
    decision = decided(error)
    assert (decision.outcome, decision.status) == (AttemptOutcome.TEMPORARY, MessageStatus.QUEUED)


def test_a_bug_is_named_by_its_kind_and_not_by_its_text() -> None:
    assert decided(ValueError("+18045551234")).reason == "ValueError in the provider."


@pytest.mark.parametrize("error", [UnknownOutcome("cut off"), TimeoutError()])
def test_a_lost_answer_is_in_doubt_as_the_settings_for_timeouts_say(error: Exception) -> None:
    waiting = decided(error, in_doubt_after_timeout="wait", in_doubt_after_crash="fail")
    assert (waiting.status, waiting.retry_in) == (MessageStatus.UNKNOWN, None)
    assert decided(error, in_doubt_after_timeout="retry", in_doubt_after_crash="fail").retry_in is not None
    failing = decided(error, in_doubt_after_timeout="fail", in_doubt_after_crash="wait")
    assert failing.status is MessageStatus.FAILED


def test_a_timeout_says_how_long_was_waited() -> None:
    assert decided(TimeoutError(), provider_timeout_seconds=2.5).reason == "No answer within 2.5 seconds."


@each_case("policy", POLICIES)
@each_case("provider", SAFE, ids=lambda provider: type(provider).__name__)
def test_where_asking_again_is_safe_it_is_done_whatever_the_policy(provider: BaseProvider, policy: Policy) -> None:
    decision = doubted(provider, policy)
    assert (decision.outcome, decision.status) == (AttemptOutcome.UNKNOWN, MessageStatus.UNKNOWN)
    assert decision.retry_in is not None


@each_case(
    ("policy", "expected"),
    [
        ("wait", Decision(AttemptOutcome.UNKNOWN, MessageStatus.UNKNOWN, "No answer.")),
        ("fail", Decision(AttemptOutcome.UNKNOWN, MessageStatus.FAILED, "It may have gone out. No answer.")),
    ],
)
@each_case("provider", UNSAFE, ids=lambda provider: type(provider).__name__)
def test_where_it_is_not_safe_the_policy_decides(
    provider: BaseProvider | None, policy: Policy, expected: Decision
) -> None:
    assert doubted(provider, policy) == expected


@pytest.mark.parametrize("provider", UNSAFE, ids=lambda provider: type(provider).__name__)
def test_who_prefers_a_double_to_a_loss_gets_another_try(provider: BaseProvider | None) -> None:
    decision = doubted(provider, "retry")
    assert (decision.outcome, decision.status) == (AttemptOutcome.UNKNOWN, MessageStatus.UNKNOWN)
    assert decision.retry_in is not None


def test_a_receipt_that_would_tell_is_given_time_to_come_before_the_next_try() -> None:
    assert doubted(TellsByReceipt(), "retry", in_doubt_receipt_seconds=45).retry_in == 45
    later = doubted(TellsByReceipt(), "retry", in_doubt_receipt_seconds=1, attempt=4)
    assert later.retry_in is not None
    assert later.retry_in >= 8  # a longer pause stays as it is
    for provider in (Plain(), *SAFE):
        decision = doubted(provider, "retry", in_doubt_receipt_seconds=45)
        assert decision.retry_in is not None
        assert decision.retry_in <= 2


def test_where_asking_again_is_safe_no_receipt_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(HonoursKeys, "receipts_carry_key", True)
    decision = doubted(HonoursKeys(), "retry", in_doubt_receipt_seconds=45)
    assert decision.retry_in is not None
    assert decision.retry_in <= 2


@each_case("policy", POLICIES)
@each_case("provider", UNSAFE, ids=lambda provider: type(provider).__name__)
def test_a_message_that_has_outlived_three_workers_is_given_up(provider: BaseProvider | None, policy: Policy) -> None:
    decision = doubted(provider, policy, deaths=DEATHS_BEFORE_GIVING_UP)
    assert (decision.outcome, decision.status) == (AttemptOutcome.UNKNOWN, MessageStatus.FAILED)
    assert decision.reason == "Given up after 3 workers died with it in hand. It may have gone out."
    assert decision.retry_in is None


@pytest.mark.parametrize("provider", SAFE, ids=lambda provider: type(provider).__name__)
def test_where_asking_again_is_safe_nobody_is_given_up_for_who_died_with_it(provider: BaseProvider) -> None:
    """Most of what a worker has in hand when it dies has nothing to do with its death."""
    decision = doubted(provider, "wait", deaths=DEATHS_BEFORE_GIVING_UP)
    assert (decision.status, decision.retry_in is None) == (MessageStatus.UNKNOWN, False)


@each_case("deaths", range(DEATHS_BEFORE_GIVING_UP))
def test_fewer_deaths_are_the_workers_fault(deaths: int) -> None:
    assert doubted(HonoursKeys(), "wait", deaths=deaths).status is MessageStatus.UNKNOWN


@pytest.mark.parametrize(("attempt", "status"), [(2, MessageStatus.QUEUED), (3, MessageStatus.FAILED)])
def test_the_last_attempt_is_the_one_that_the_limit_names(attempt: int, status: MessageStatus) -> None:
    decision = decided(TemporaryFailure("busy"), attempt=attempt, limit=3)
    assert decision.status is status
    if status is MessageStatus.FAILED:
        assert decision.reason == "Given up after 3 attempts. The last: busy"
        assert decision.retry_in is None


@each_case("error", [TemporaryFailure("busy"), TemporaryFailure("429", throttled=True), CredentialsRefused("401")])
def test_what_may_have_gone_out_stays_in_doubt_when_it_is_turned_away(error: Exception) -> None:
    decision = after_failure(error, Attempt(2, 8, may_have_left=True), HonoursKeys(), settings_with())
    assert (decision.outcome, decision.status) == (AttemptOutcome.TEMPORARY, MessageStatus.UNKNOWN)


def test_who_gives_up_does_not_forget_that_an_earlier_attempt_is_in_doubt() -> None:
    attempt = Attempt(8, 8, may_have_left=True)
    decision = after_failure(TemporaryFailure("busy"), attempt, HonoursKeys(), settings_with())
    assert decision.reason == "Given up after 8 attempts; it may have gone out. The last: busy"


@each_case("provider", [*UNSAFE, *SAFE], ids=lambda provider: type(provider).__name__)
def test_a_refusal_says_that_it_may_have_gone_out_before_unless_it_speaks_of_that_too(
    provider: BaseProvider | None,
) -> None:
    refused = PermanentFailure("no such number")
    decision = after_failure(refused, Attempt(2, 8, may_have_left=True), provider, settings_with())
    doubt = "" if provider in SAFE else "It may have gone out before. "
    assert decision == Decision(AttemptOutcome.PERMANENT, MessageStatus.FAILED, f"{doubt}no such number")


def test_attempts_that_are_used_up_in_doubt_say_that_it_may_have_gone_out() -> None:
    decision = doubted(HonoursKeys(), "wait", attempt=8)
    assert (decision.outcome, decision.status) == (AttemptOutcome.UNKNOWN, MessageStatus.FAILED)
    assert decision.reason == "Given up after 8 attempts; it may have gone out. The last: No answer."


def test_waiting_for_a_receipt_has_no_limit_of_attempts() -> None:
    assert doubted(Plain(), "wait", attempt=8).status is MessageStatus.UNKNOWN


@each_case(("asked", "granted"), [(30, 30), (600, 600), (601, 600), (10**9, 600)])
def test_the_time_that_a_provider_names_is_kept_within_bounds(asked: float, granted: float) -> None:
    assert decided(TemporaryFailure("busy", retry_after=asked)).retry_in == granted


@each_case("asked", [0.5, 0, -5, -(10**9)])
def test_no_time_that_a_provider_names_brings_a_message_back_sooner_than_none(asked: float) -> None:
    for attempt, longest in ((1, 2), (3, 8)):
        pause = decided(TemporaryFailure("busy", retry_after=asked), attempt=attempt).retry_in
        assert pause is not None
        assert longest / 2 <= pause <= longest


def test_each_pause_is_twice_the_one_before_up_to_the_cap() -> None:
    settings = settings_with()
    for attempt, longest in enumerate([2, 4, 8, 16, 32, 60, 60, 60], start=1):
        pauses = [backoff(attempt, settings) for _ in range(200)]
        assert longest / 2 <= min(pauses) < max(pauses) <= longest


def test_pauses_are_spread_so_that_messages_do_not_come_back_together() -> None:
    settings = settings_with()
    pauses = [backoff(1, settings) for _ in range(2000)]
    quarters = [sum(1 + step / 4 <= pause < 1 + (step + 1) / 4 for pause in pauses) for step in range(4)]
    assert min(quarters) > 350  # of 500; by chance one time in a billion


def test_a_pause_after_very_many_attempts_is_still_a_number() -> None:
    assert 30 <= backoff(10**6, settings_with()) <= 60


def test_an_attempt_that_was_cut_off_is_in_doubt_as_the_settings_for_crashes_say() -> None:
    settings = settings_with(in_doubt_after_timeout="wait", in_doubt_after_crash="fail")
    assert in_doubt("Stopped.", Attempt(1, cut_off=True), Plain(), settings).status is MessageStatus.FAILED


def test_a_message_without_a_limit_of_its_own_has_that_of_the_settings() -> None:
    settings = settings_with(max_attempts=2)
    assert after_failure(TemporaryFailure("busy"), Attempt(1), Plain(), settings).status is MessageStatus.QUEUED
    assert after_failure(TemporaryFailure("busy"), Attempt(2), Plain(), settings).status is MessageStatus.FAILED


def test_who_can_be_asked_is_who_has_said_how() -> None:
    assert can_be_asked(Askable())
    assert not can_be_asked(Plain())
