"""The benchmark: it measures what it says, and refuses figures that don't add up. Speeds are nobody's promise."""

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from bench import __main__ as bench
from bench.load import Load, Plan, Seen, answer_in, messages, provider_id
from bench.measurements import Astray, Drain, Events, Figures, Latency, Measurement, Rounds, Webhooks
from bench.processes import environment
from bench.reads import FROM_MEMORY, READS, READY
from bench.report import as_object, as_table

_ROOT = Path(__file__).parent.parent
_PLAN = Plan(port=0, seconds=1, connections=2, pairs=3)
_AS_IT_SHOULD = Astray(unsent=0, not_once=0)
_OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


@pytest.mark.slow
def test_one_short_run_measures_every_target_and_leaves_nothing_behind(tmp_path: Path) -> None:
    short = "--rounds 1 --pairs 50 --seconds 0.2 --messages 1000 --entries 2000 --sizes 1000 2000 --minutes 0.02"
    options = [*short.split(), *["--singles", "4", "--readers", "50", "--webhooks", "1", "--endpoints", "20"]]
    with _benchmark(tmp_path, *options, "--json") as process:
        output, progress = process.communicate(timeout=400)
    assert process.returncode == 0, progress

    report = json.loads(output)
    yardsticks = ["empty"] if "pgbench" in report["skipped"] else ["empty", "pgbench"]
    reads = [name + kind for name in READS for kind in ("@1000", "@2000", FROM_MEMORY, READY)]
    lists = [f"{name}@2000" for name in ("failed", "delivered", "provider", "other", "ago")]
    accepting = {"service", "keyed", "first", "inbound", "delivering", "logged"}
    assert set(report["targets"]) == {*accepting, "few", "many", *yardsticks, *reads, *lists}
    for target in report["targets"].values():
        assert len(target["rounds"]) == 1
        assert target["per_second"] > 0
        assert 0 < target["p50_ms"] <= target["p99_ms"]
    for name in report["targets"].keys() - {"empty", "few", "many", *reads, *lists}:
        (measured,) = report["targets"][name]["rounds"]
        assert measured["rows"] == measured["answered"] - measured["repeats"] > 0
    compared = {f"{one}/{other}" for one in ("service", "delivering", "first", "inbound") for other in yardsticks}
    reading = {f"{name}@{size}/{bound}" for name in READS for size in (1000, 2000) for bound in ("memory", "bytes")}
    reading |= {f"{name}@2000/@1000" for name in READS}
    assert set(report["ratios"]) == compared | reading | {
        "keyed/service",
        "logged/service",
        "many/few",
        "drain/accept",
    }
    for figures in report["ratios"].values():
        assert 0 < figures["lowest"] == figures["median"] == figures["highest"]
    assert report["drain"]["messages"] == 1000
    assert report["drain"]["per_second"] > 0
    (idle,) = report["latency"]["rounds"]
    assert len(idle["called_ms"]) == idle["rows"] == idle["answered"] == 4
    assert all(0 < called < recorded for called, recorded in zip(idle["called_ms"], idle["recorded_ms"], strict=True))
    (events,) = report["events"]["rounds"]
    assert len(events["after_ms"]) == events["answered"] == 4
    assert (report["webhooks"]["endpoints"], report["webhooks"]["rounds"]) == (20, [{"arrived": 16, "missing": 0}])
    assert report["webhooks"]["p50_ms"] <= report["webhooks"]["p99_ms"] <= report["webhooks"]["slowest_ms"]
    figures = {name: figure["median"] for name, figure in report["figures"].items()}
    growth, share = figures.pop("growth"), figures["throttled/calm"]
    assert figures.keys() - {"pss"} == {
        *("calm", "throttled", "snapshot", "throttled/calm", "throttled/calm, to the last", "snapshot/calm"),
        *("retention", "bytes", "wal", "rss"),
    }
    assert isinstance(growth, float)
    assert all(value > 0 for value in figures.values())
    assert share == pytest.approx(figures["throttled"] / figures["calm"])
    assert report["problems"] == []
    assert "round 1 of 1: empty FastAPI endpoint" in progress
    assert _left_by(tmp_path) == []


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="Windows sends Ctrl-C to a console, not to a process")
def test_ctrl_c_stops_everything_that_was_started(tmp_path: Path) -> None:
    with _benchmark(tmp_path) as process:
        while not list(tmp_path.glob("*/server-*.log")):
            assert process.poll() is None
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, progress = process.communicate(timeout=60)
    assert process.returncode == 130
    assert progress.endswith("Stopped.\n")
    assert _left_by(tmp_path) == []


@contextlib.contextmanager
def _benchmark(directory: Path, *options: str) -> Iterator[subprocess.Popen[str]]:
    """A benchmark at work in `directory`, by someone whose settings name a database that it must not touch."""
    environment = {**os.environ, "DATABASE_URL": "postgresql://nobody@127.0.0.1:1/not_this_one", "ENV": "production"}
    with subprocess.Popen(
        [sys.executable, "-m", "bench", "--directory", str(directory), *options],
        cwd=_ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.terminate()  # in order, so that it can stop what it has started


def _left_by(directory: Path) -> list[str]:
    """Files in `directory`, and command lines of processes that have to do with it."""
    commands = [" ".join(process.info["cmdline"] or []) for process in psutil.process_iter(["cmdline"])]
    return [str(path) for path in directory.iterdir()] + [line for line in commands if str(directory) in line]


@pytest.mark.parametrize(
    ("measurement", "complaint"),
    [
        (Measurement(Seen(answered=10, per_second=1), rows=9), "10 messages were accepted and 9 are stored"),
        (Measurement(Seen(answered=10, per_second=1), rows=11), "10 messages were accepted and 11 are stored"),
        (Measurement(Seen(answered=10, per_second=1, others={"503": 2}), rows=10), "not 2xx"),
        (Measurement(Seen(answered=10, per_second=1, broken=1)), "1 of the connections broke"),
        (Measurement(Seen(answered=10), rows=10), "no message was accepted in the measured time"),
    ],
)
def test_a_run_that_does_not_add_up_fails(
    measurement: Measurement, complaint: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    good = Measurement(Seen(answered=10, per_second=1), delivered=10)
    _assert_fails(
        Rounds({"service": [measurement], "delivering": [good], "empty": [good]}), complaint, monkeypatch, capsys
    )


@pytest.mark.parametrize(
    ("astray", "complaint"),
    [
        (Astray(unsent=3, not_once=0), "3 messages are not `sent`"),
        (Astray(unsent=0, not_once=2), "2 messages don't have exactly one attempt"),
    ],
)
def test_a_run_that_delivers_too_little_or_too_often_fails(
    astray: Astray, complaint: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _assert_fails(Rounds(drain=[_drain(10, seconds=1, astray=astray)]), f"drain: {complaint}", monkeypatch, capsys)
    _assert_fails(Rounds(latency=[_latency([1, 1], astray=astray)]), f"latency: {complaint}", monkeypatch, capsys)


@pytest.mark.parametrize(
    ("answered", "rows", "complaint"),
    [
        (3, 2, "latency: 3 messages were accepted and 2 are stored"),
        (3, 3, "latency: 3 messages are stored and 2 attempts have ended"),
    ],
)
def test_single_messages_that_do_not_add_up_fail(
    answered: int,
    rows: int,
    complaint: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    latency = Latency(answered, rows, called_ms=[1, 1], recorded_ms=[2, 2], astray=_AS_IT_SHOULD)
    _assert_fails(Rounds(latency=[latency]), complaint, monkeypatch, capsys)


def _assert_fails(
    rounds: Rounds, complaint: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    report = as_object(_PLAN, rounds, {})

    async def measured(*_: object) -> dict[str, object]:
        return report

    monkeypatch.setattr(bench, "_measure", measured)
    assert bench.main([]) == 1
    printed = capsys.readouterr()
    assert complaint in printed.err
    assert "Every message" not in printed.out


def test_webhooks_that_did_not_arrive_fail(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    webhooks = Webhooks(500, dead=50, slow=50, arrived_ms=[3, 1, 2], missing=2)
    _assert_fails(Rounds(webhooks=[webhooks]), "webhooks: 2 events did not arrive", monkeypatch, capsys)
    table = as_table(as_object(_PLAN, Rounds(webhooks=[webhooks]), {}))
    assert table.splitlines()[1].split()[-3:] == ["2.0", "3.0", "3.0"]


def test_figures_that_are_wrong_fail(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    storage = Figures({"wal": 3000.0}, ["5 messages were accepted and 4 are stored"])
    _assert_fails(Rounds(figures={"storage": [storage]}), "storage: 5 messages were", monkeypatch, capsys)


def test_figures_are_shown_with_their_targets() -> None:
    disturbed = [Figures({"calm": 4000.0, "throttled/calm": each}) for each in (0.5, 0.95, 0.91)]
    report = as_object(_PLAN, Rounds(figures={"disturbed": disturbed, "storage": [Figures({"wal": 1234.5})]}), {})
    assert report["problems"] == []  # a target that is missed is no problem
    assert report["figures"]["throttled/calm"]["rounds"] == [0.5, 0.95, 0.91]
    calm, share, wal = [line.split()[-5:] for line in as_table(report).splitlines()[1:4]]
    assert calm[2:] == ["4,000"] * 3
    assert share == ["0.91", "0.50", "0.95", ">=", "0.90"]
    assert wal[2:] == ["1,234"] * 3


def test_reads_are_compared_with_memory_and_with_the_smallest_database() -> None:
    speeds = {"page@1000": 80, "page@100000": 40, "page-memory": 100, "page-bytes": 200}
    measured = {name: [Measurement(Seen(answered=1, per_second=speed))] for name, speed in speeds.items()}
    report = as_object(_PLAN, Rounds(measured), {})
    assert {name: figures["median"] for name, figures in report["ratios"].items()} == {
        "page@1000/memory": 0.8,
        "page@1000/bytes": 0.4,
        "page@100000/memory": 0.4,
        "page@100000/bytes": 0.2,
        "page@100000/@1000": 0.5,
    }
    table = as_table(report)
    assert "a page of 50 messages, of 100,000" in table
    assert "a page of 50 messages, ready bytes" in table


def test_ratios_are_computed_round_by_round() -> None:
    def rounds(*speeds: float) -> list[Measurement]:
        return [Measurement(Seen(answered=1, per_second=speed), rows=1, delivered=1) for speed in speeds]

    measured = {"service": rounds(10, 90, 20), "delivering": rounds(1, 1, 1), "empty": rounds(100, 100, 10)}
    report = as_object(_PLAN, Rounds(measured), {"pgbench": "it is missing"})
    assert report["ratios"]["service/empty"] == {"median": 0.9, "lowest": 0.1, "highest": 2.0}
    assert "service/pgbench" not in report["ratios"]
    assert "pgbench is left out: it is missing" in as_table(report)


def test_draining_is_compared_with_accepting_the_same_messages() -> None:
    drains = [
        _drain(100, seconds=2, accept=100),
        _drain(100, seconds=1, accept=50),
        _drain(100, seconds=4, accept=100),
    ]
    report = as_object(_PLAN, Rounds(drain=drains), {})
    assert report["ratios"] == {"drain/accept": {"median": 0.5, "lowest": 0.25, "highest": 2.0}}
    assert report["drain"]["per_second"] == 50
    table = as_table(report)
    assert "one worker, draining 100 messages" in table
    assert "req/s" not in table
    assert "idle" not in table


def test_the_first_message_of_a_cold_service_is_not_among_the_others() -> None:
    rounds = Rounds(latency=[_latency([900, *range(100, 0, -1)]), _latency([700, 3, 3]), _latency([800, 90, 90])])
    report = as_object(_PLAN, rounds, {})
    assert report["latency"]["called"] == {"p50_ms": 51, "p95_ms": 90, "first_ms": 800}
    assert report["latency"]["recorded"] == {"p50_ms": 52, "p95_ms": 91, "first_ms": 801}
    called, recorded = [line.split()[-3:] for line in as_table(report).splitlines()[1:3]]
    assert called == ["51.0", "90.0", "800.0"]
    assert recorded == ["52.0", "91.0", "801.0"]


def test_the_way_of_events_is_told_with_the_memory_of_idle_readers() -> None:
    rounds = [
        Events(1000, 100, [float(ms) for ms in range(1, 101)], bytes_each=30_000),
        Events(1000, 100, [float(ms) for ms in range(100)], bytes_each=36_000),
    ]
    report = as_object(_PLAN, Rounds(events=rounds), {})
    assert report["problems"] == []
    last = as_table(report).splitlines()[1]
    assert last.startswith("a reader beside 1,000 idle ones")
    assert last.split()[-1] == "33.0"
    lost = as_object(_PLAN, Rounds(events=[Events(1000, 2, [1.0], bytes_each=1)]), {})
    assert lost["problems"] == ["events: 2 messages were accepted and 1 events came"]


def _drain(messages: int, *, seconds: float, accept: float = 1, astray: Astray = _AS_IT_SHOULD) -> Drain:
    accepted = Measurement(Seen(answered=messages, per_second=accept), rows=messages)
    return Drain(accepted, seconds, cpu_microseconds=1, astray=astray)


def _latency(called_ms: list[float], astray: Astray = _AS_IT_SHOULD) -> Latency:
    count = len(called_ms)
    return Latency(count, count, called_ms, recorded_ms=[called + 1 for called in called_ms], astray=astray)


def test_nothing_that_is_set_for_the_service_or_its_simulator_gets_in(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DATABASE_URL", "PGHOST", "SIMULATOR_MIX", "WORKER_CONCURRENCY"):
        monkeypatch.setenv(name, "mine")
    assert "mine" not in environment({}).values()
    assert environment({"SIMULATOR_RECEIPTS": "false"})["SIMULATOR_RECEIPTS"] == "false"


@pytest.mark.parametrize(
    "options",
    [
        ["--messages", "4129"],
        ["--singles", "1"],
        ["--sizes", "2000", "1000"],
        ["--minutes", "0"],
        ["--only", "nothing"],
    ],
)
def test_what_could_not_be_measured_is_refused(options: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        bench.main(options)
    assert options[0].removeprefix("--") in capsys.readouterr().err


def test_the_load_is_the_same_every_time_and_begins_with_every_pair() -> None:
    drawn = messages(20)
    assert drawn == messages(20)
    assert len({(message["from"], message["to"]) for message in drawn[:20]}) == 20
    assert len({message["body"] for message in drawn}) == len(drawn)


def test_receipts_are_for_the_messages_of_the_carrier_in_their_order() -> None:
    load = Load(replace(_PLAN, receipts=True))
    for number in range(3):
        head, _, body = load.next_request().partition(b"\r\n\r\n")
        assert head.startswith(b"POST /api/webhooks/simulator ")
        assert json.loads(body)["id"] == provider_id(number)


def test_a_warm_up_counts_as_answered_and_not_as_measured() -> None:
    warm_up = Seen(answered=5, repeats=1, others={"503": 1}, broken=1, per_second=7, p50_ms=9)
    seen = Seen(answered=10, repeats=2, others={"503": 2, "500": 1}, per_second=100, p50_ms=1).after(warm_up)
    assert (seen.answered, seen.repeats, seen.broken) == (15, 3, 1)
    assert seen.others == {"503": 3, "500": 1}
    assert (seen.per_second, seen.p50_ms) == (100, 1)


def test_an_answer_counts_only_when_it_is_complete() -> None:
    assert [answer_in(_OK[:cut]) for cut in range(len(_OK))] == [None] * len(_OK)
    assert answer_in(_OK) == (200, len(_OK))


def test_what_does_not_announce_its_length_is_not_taken_for_an_answer() -> None:
    with pytest.raises(ValueError, match="content-length"):
        answer_in(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")


async def test_only_complete_answers_of_2xx_are_accepted_messages() -> None:
    answers = iter([[_OK], [_OK[:10], _OK[10:]], [b"HTTP/1.1 503 Busy\r\ncontent-length: 0\r\n\r\n"]])
    seen = await _load_on(lambda: next(answers, [_OK]), seconds=0.1)
    assert seen.answered > 2
    assert seen.others == {"503": 1}
    assert seen.broken == 0
    assert 0 < seen.p50_ms <= seen.p99_ms


async def test_a_load_of_so_many_messages_sends_no_more_and_no_less() -> None:
    seen = await _load_on(lambda: [_OK], seconds=60, messages=20)
    assert seen.answered == 20
    assert seen.per_second > 0


async def test_a_connection_that_breaks_is_noted() -> None:
    seen = await _load_on(lambda: [_OK[:10]], seconds=0.1, then_close=True)
    assert (seen.answered, seen.broken) == (0, 2)


async def _load_on(
    answer: Callable[[], Iterable[bytes]], *, seconds: float, messages: int | None = None, then_close: bool = False
) -> Seen:
    """The load generator's view of a server that gives these answers, in pieces."""

    talks = []

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        talks.append(asyncio.current_task())
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while head := await reader.readuntil(b"\r\n\r\n"):
                await reader.readexactly(int(head.lower().partition(b"content-length: ")[2].split()[0]))
                for piece in answer():
                    writer.write(piece)
                    await asyncio.sleep(0.001)  # so that the pieces arrive one by one
                if then_close:
                    break
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()

    async with await asyncio.start_server(talk, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        seen = await Load(Plan(port=port, seconds=seconds, connections=2, pairs=3, messages=messages)).run()
        await asyncio.gather(*(task for task in talks if task))
        return seen
