"""The script: repeatable behaviours of recipients, reactions to requests, and receipts."""

import random
import subprocess
import sys
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

import pytest
from pydantic import ValidationError

from app.domain import MessageStatus
from app.providers.base import InboundMessage, Receipt
from app.providers.simulated.behaviours import MAGIC_NUMBERS, Behaviour, SimulatorSettings
from app.providers.simulated.script import Arrival, CarrierAnswer, Reaction, Script
from tests.cases import each_case
from tests.providers import outbound, simulator_settings

NOW = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC)
ROOT = Path(__file__).parents[3]
MIXED = "ok:0.5 failing:0.2 reset-after:0.2 undelivered:0.1"


def arrivals(behaviour: Behaviour, *, key: str = "key", **values: object) -> list[Arrival]:
    script = Script(simulator_settings(receipt_delay_seconds=1, **values))
    return script.arrivals(behaviour, outbound(key=key, subject="Hi"), "sim-1", NOW)


def receipts(found: list[Arrival]) -> list[tuple[float | None, MessageStatus | None]]:
    return [(one.after, one.item.status) for one in found if isinstance(one.item, Receipt)]


@each_case("behaviour", Behaviour)
def test_every_behaviour_has_a_magic_number_and_magic_addresses(behaviour: Behaviour) -> None:
    script = Script(simulator_settings(mix="refusing:1"))
    [digits] = [digits for digits, named in MAGIC_NUMBERS.items() if named is behaviour]
    for to in (
        f"+1500555{digits}00",
        f"+1500555{digits}99",
        f"{behaviour}@simulator.test",
        f"{behaviour.replace('_', '-')}@Simulator.Test",
        f"{behaviour}+anyone@simulator.test",
    ):
        assert script.behaviour(to, "key") is behaviour


@each_case(
    "to",
    [
        "+15005559900",
        "+150055500000",
        "+25005550000",
        "+18045551234",
        "nobody@simulator.test",
        "ok@simulator.test.org",
    ],
)
def test_other_recipients_are_drawn_from_the_mix(to: str) -> None:
    assert Script(simulator_settings(mix="refusing:1")).behaviour(to, "key") is Behaviour.REFUSING


def test_every_magic_recipient_stands_in_the_documentation() -> None:
    table = (ROOT / "docs" / "simulator.md").read_text(encoding="utf-8")
    for digits, behaviour in MAGIC_NUMBERS.items():
        assert f"| `{digits}xx` | `{behaviour.replace('_', '-')}` |" in table


def test_every_setting_stands_in_the_documentation() -> None:
    page = (ROOT / "docs" / "simulator.md").read_text(encoding="utf-8")
    for name in SimulatorSettings.model_fields.keys() - {"environment"}:
        assert f"`SIMULATOR_{name.upper()}`" in page


def test_the_same_seed_draws_the_same_behaviours_in_any_order() -> None:
    keys = [f"1-{number}" for number in range(500)]
    first = Script(simulator_settings(seed=7, mix=MIXED))
    drawn = {key: first.behaviour("+18045551234", key) for key in keys}
    again = Script(simulator_settings(seed=7, mix=MIXED))
    shuffled = random.sample(keys, len(keys))
    assert {key: again.behaviour("+18045551234", key) for key in shuffled} == drawn
    other = Script(simulator_settings(seed=8, mix=MIXED))
    assert {key: other.behaviour("+18045551234", key) for key in keys} != drawn


def test_the_same_seed_draws_the_same_behaviours_in_another_process() -> None:
    code = f"""
from app.providers.simulated.script import Script
from app.providers.simulated.behaviours import SimulatorSettings
script = Script(SimulatorSettings(_env_file=None, seed=7, mix={MIXED!r}))
print(" ".join(script.behaviour("+18045551234", f"1-{{number}}") for number in range(50)), script.malformed("1-1"))
"""
    there = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    script = Script(simulator_settings(seed=7, mix=MIXED))
    here = " ".join(script.behaviour("+18045551234", f"1-{number}") for number in range(50))
    assert there.stdout.strip() == f"{here} {script.malformed('1-1')!r}"


def test_the_mix_is_kept_to() -> None:
    script = Script(simulator_settings(mix=MIXED))
    drawn = Counter(script.behaviour("+18045551234", f"1-{number}") for number in range(5000))
    assert drawn[Behaviour.OK] == pytest.approx(2500, rel=0.1)
    assert drawn[Behaviour.UNDELIVERED] == pytest.approx(500, rel=0.2)


@each_case("mix", ["", "ok", "ok:0", "ok:-1", "ok:nan", "ok:inf", "nonsense:1", "ok:1,failing:1"])
def test_a_mix_that_can_t_be_read_is_refused(mix: str) -> None:
    with pytest.raises(ValidationError):
        simulator_settings(mix=mix)


def test_settings_are_read_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIMULATOR_MIX", "ok:0.9 reset-before:0.1")
    monkeypatch.setenv("SIMULATOR_SEED", "42")
    monkeypatch.setenv("SIMULATOR_ENVIRONMENT", "development")
    monkeypatch.setenv("ENV", "production")
    settings = SimulatorSettings(_env_file=None)
    assert settings.mix == {Behaviour.OK: 0.9, Behaviour.RESET_BEFORE: 0.1}
    assert settings.seed == 42
    assert settings.in_production


def test_in_production_everyone_is_ok_and_nothing_comes_back() -> None:
    script = Script(simulator_settings(ENV="production", mix="refusing:1"))
    assert script.behaviour("+15005550400", "key") is Behaviour.OK
    assert script.behaviour("refusing@simulator.test", "key") is Behaviour.OK
    assert script.behaviour("+18045551234", "key") is Behaviour.OK
    assert script.arrivals(Behaviour.STOP_REPLY, outbound(), "sim-1", NOW) == []


@pytest.mark.parametrize(
    ("behaviour", "accepts", "answer", "times"),
    [
        (Behaviour.THROTTLED, False, CarrierAnswer.THROTTLED, 3),
        (Behaviour.FAILING, False, CarrierAnswer.ERROR, 3),
        (Behaviour.UNAUTHORISED, False, CarrierAnswer.UNAUTHORISED, 2),
        (Behaviour.RESET_BEFORE, False, CarrierAnswer.CUT, 2),
        (Behaviour.RESET_AFTER, True, CarrierAnswer.CUT, 2),
        (Behaviour.SILENT, True, CarrierAnswer.SILENCE, 2),
        (Behaviour.MALFORMED, True, CarrierAnswer.MALFORMED, 2),
        (Behaviour.HUGE, True, CarrierAnswer.HUGE, 2),
        (Behaviour.REDIRECT, False, CarrierAnswer.REDIRECT, 2),
        (Behaviour.FAILING_AFTER, True, CarrierAnswer.ERROR, 2),
    ],
)
def test_what_goes_wrong_does_so_a_set_number_of_times(
    behaviour: Behaviour, accepts: bool, answer: CarrierAnswer, times: int
) -> None:
    script = Script(simulator_settings(failures_before_ok=3, breaks_before_ok=2))
    told = [script.reaction(behaviour, earlier) for earlier in range(times + 2)]
    assert told == [Reaction(accepts, answer)] * times + [Reaction(True, CarrierAnswer.ID)] * 2


def test_a_refusal_is_for_ever() -> None:
    script = Script(simulator_settings())
    assert {script.reaction(Behaviour.REFUSING, earlier) for earlier in (0, 1, 100)} == {
        Reaction(False, CarrierAnswer.REFUSED)
    }


def test_a_slow_answer_is_slow_once() -> None:
    script = Script(simulator_settings(slow_seconds=30))
    assert script.reaction(Behaviour.SLOW, 0) == Reaction(True, CarrierAnswer.ID, delay=30)
    assert script.reaction(Behaviour.SLOW, 1) == Reaction(True, CarrierAnswer.ID)


def test_what_arrives_after_each_behaviour() -> None:
    queued, sent = MessageStatus.QUEUED, MessageStatus.SENT
    delivered, undelivered = MessageStatus.DELIVERED, MessageStatus.UNDELIVERED
    assert receipts(arrivals(Behaviour.OK)) == [(1, sent), (2, delivered)]
    assert receipts(arrivals(Behaviour.SILENT)) == [(1, sent), (2, delivered)]
    assert receipts(arrivals(Behaviour.SLOW, slow_seconds=30)) == [(31, sent), (32, delivered)]
    assert receipts(arrivals(Behaviour.LOST_RECEIPT)) == []
    assert receipts(arrivals(Behaviour.LOST)) == []
    assert receipts(arrivals(Behaviour.UNDELIVERED)) == [(1, sent), (2, undelivered)]
    assert receipts(arrivals(Behaviour.CORRECTED)) == [(1, sent), (2, undelivered), (3, delivered)]
    assert receipts(arrivals(Behaviour.BOUNCED)) == [(1, sent), (2, delivered), (3, undelivered)]
    assert receipts(arrivals(Behaviour.RECEIPT_FIRST)) == [(None, sent), (None, delivered)]
    late = receipts(arrivals(Behaviour.LATE_RECEIPT, late_receipt_seconds=60))
    assert late == [(61, sent), (62, delivered)]
    assert receipts(arrivals(Behaviour.DUPLICATE_RECEIPTS)) == [(1, sent)] * 3 + [(2, delivered)] * 3
    shuffled = receipts(arrivals(Behaviour.SHUFFLED_RECEIPTS))
    assert [after for after, _ in shuffled] == [1, 2, 3]
    assert {status for _, status in shuffled} == {queued, sent, delivered}


def test_shuffled_receipts_come_in_every_order_but_the_right_one() -> None:
    orders = {
        tuple(status for _, status in receipts(arrivals(Behaviour.SHUFFLED_RECEIPTS, key=f"key-{number}")))
        for number in range(200)
    }
    assert len(orders) == 5
    assert (MessageStatus.QUEUED, MessageStatus.SENT, MessageStatus.DELIVERED) not in orders
    assert arrivals(Behaviour.SHUFFLED_RECEIPTS) == arrivals(Behaviour.SHUFFLED_RECEIPTS)


def test_receipts_have_a_time_and_name_their_message() -> None:
    [first, second] = [one.item for one in arrivals(Behaviour.LATE_RECEIPT, late_receipt_seconds=60)]
    assert isinstance(first, Receipt)
    assert isinstance(second, Receipt)
    assert (first.provider_message_id, first.idempotency_key) == ("sim-1", "key")
    assert first.event_id != second.event_id
    assert first.occurred_at == NOW.replace(second=1)  # only the receipt is late
    assert first.raw == {"status": "sent"}


def test_copies_of_a_receipt_are_one_event() -> None:
    copies = [one.item for one in arrivals(Behaviour.DUPLICATE_RECEIPTS)]
    assert len({copy.event_id for copy in copies if isinstance(copy, Receipt)}) == 2


def _is_receipt(arrival: Arrival) -> bool:
    return isinstance(arrival.item, Receipt)


def test_a_recipient_replies_stop() -> None:
    [stop] = [one.item for one in arrivals(Behaviour.STOP_REPLY) if not _is_receipt(one)]
    assert isinstance(stop, InboundMessage)
    assert (stop.body, stop.from_address, stop.to_address) == ("STOP", "+18045551234", "+12016661234")
    assert (stop.channel, stop.type, stop.subject) == ("sms", "sms", "Re: Hi")


def test_a_burst_is_as_many_messages_at_one_time() -> None:
    burst = [one for one in arrivals(Behaviour.INBOUND_BURST, inbound_burst_size=20) if not _is_receipt(one)]
    assert {one.after for one in burst} == {3}
    assert len({one.item.provider_message_id for one in burst}) == 20


def test_receipts_can_be_switched_off_and_answers_still_come() -> None:
    assert arrivals(Behaviour.OK, receipts=False) == []
    assert [_is_receipt(one) for one in arrivals(Behaviour.STOP_REPLY, receipts=False)] == [False]


def test_a_lost_message_is_cut_off_however_often_it_is_sent() -> None:
    script = Script(simulator_settings())
    assert {script.reaction(Behaviour.LOST, earlier) for earlier in range(9)} == {Reaction(True, CarrierAnswer.CUT)}
