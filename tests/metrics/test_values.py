"""Counters, histograms and gauges, and their text for Prometheus."""

from prometheus_client.parser import text_string_to_metric_families

from app.metrics.catalogue import COUNTERS, GAUGES, HISTOGRAMS, QUEUE_DUE, RECEIPTS, WEBHOOK_SECONDS
from app.metrics.exposition import exposition
from app.metrics.snapshot import Snapshot
from app.metrics.values import Counter, Gauge, Histogram


def test_a_number_counts_in_the_first_bucket_that_holds_it() -> None:
    histogram = Histogram("seconds", "Time.", bounds=(1, 2))
    for number in (0.5, 1, 1.5, 2, 3):
        histogram.observe((), number)
    assert histogram.values == {(): [2, 2, 1, 8]}


def test_gauges_of_several_readers_are_added_and_shared_ones_are_not() -> None:
    open_, shared = Gauge("open", "Open."), Gauge("due", "Due.", is_shared=True)
    for gauge in (open_, shared):
        with gauge.read_by(lambda: {(): 2.0}), gauge.read_by(lambda: {(): 2.0}):
            assert gauge.read() == {(): 2.0 if gauge.is_shared else 4.0}
        assert gauge.read() == {}


def test_the_figures_of_processes_are_added_and_those_of_the_dead_stay_counted() -> None:
    total = Snapshot({RECEIPTS.name: {("sms", "sent"): 1.0}}, {}, {QUEUE_DUE.name: {("sms",): 5.0}})
    other = Snapshot(
        {RECEIPTS.name: {("sms", "sent"): 2.0, ("email", "read"): 1.0}},
        {WEBHOOK_SECONDS.name: {(): [1.0] * (len(WEBHOOK_SECONDS.bounds) + 2)}},
        {QUEUE_DUE.name: {("sms",): 5.0}, "messaging_event_readers": {(): 3.0}},
    )
    total.add(Snapshot.of(other.document()))
    total.add(other, is_dead=True)
    assert total.counters == {RECEIPTS.name: {("sms", "sent"): 5.0, ("email", "read"): 2.0}}
    assert total.histograms[WEBHOOK_SECONDS.name][()][0] == 2.0
    assert total.gauges[QUEUE_DUE.name] == {("sms",): 5.0}
    assert total.gauges["messaging_event_readers"] == {(): 3.0}


def test_only_what_has_grown_is_written() -> None:
    before = Snapshot({"a": {("x",): 1.0, ("y",): 1.0}}, {"h": {(): [1.0, 2.0]}})
    after = Snapshot({"a": {("x",): 1.0, ("y",): 4.0}, "b": {(): 1.0}}, {"h": {(): [1.0, 5.0]}})
    assert after.since(before) == Snapshot({"a": {("y",): 3.0}, "b": {(): 1.0}}, {"h": {(): [0.0, 3.0]}})
    assert after.since(after) == Snapshot()


def test_every_metric_is_named_also_without_a_number() -> None:
    families = {family.name for family in text_string_to_metric_families(exposition(Snapshot()).decode())}
    assert families == {metric.name for metric in (*COUNTERS, *HISTOGRAMS, *GAUGES)}


def test_histograms_are_told_in_rising_buckets() -> None:
    counts = [1.0] * (len(WEBHOOK_SECONDS.bounds) + 1)
    text = exposition(Snapshot({}, {WEBHOOK_SECONDS.name: {(): [*counts, 7.5]}}))
    [family] = [each for each in text_string_to_metric_families(text.decode()) if each.name == WEBHOOK_SECONDS.name]
    numbers = {(each.name, each.labels.get("le")): each.value for each in family.samples}
    assert numbers[WEBHOOK_SECONDS.name + "_bucket", "0.025"] == 2
    assert numbers[WEBHOOK_SECONDS.name + "_bucket", "+Inf"] == len(counts)
    assert numbers[WEBHOOK_SECONDS.name + "_count", None] == len(counts)
    assert numbers[WEBHOOK_SECONDS.name + "_sum", None] == 7.5


def test_a_counter_begins_at_nothing() -> None:
    counter = Counter("sent", "Sent.", ("provider",))
    counter.values["sms",] += 1
    assert counter.values == {("sms",): 1}
