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
from pathlib import Path

import psutil
import pytest

from bench import __main__ as bench
from bench.load import Load, Plan, Seen, answer_in, messages
from bench.report import as_object, as_table
from bench.targets import Measurement

_ROOT = Path(__file__).parent.parent
_PLAN = Plan(port=0, seconds=1, connections=2, pairs=3)
_OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


def test_one_short_run_measures_every_target_and_leaves_nothing_behind(tmp_path: Path) -> None:
    with _benchmark(tmp_path, "--rounds", "1", "--pairs", "50", "--seconds", "0.3", "--json") as process:
        output, progress = process.communicate(timeout=90)
    assert process.returncode == 0, progress

    report = json.loads(output)
    yardsticks = ["empty"] if "pgbench" in report["skipped"] else ["empty", "pgbench"]
    assert list(report["targets"]) == ["service", "delivering", *yardsticks]
    for target in report["targets"].values():
        assert len(target["rounds"]) == 1
        assert target["per_second"] > 0
        assert 0 < target["p50_ms"] <= target["p99_ms"]
    for name in report["targets"].keys() - {"empty"}:
        (measured,) = report["targets"][name]["rounds"]
        assert measured["rows"] == measured["answered"] > 0
    assert set(report["ratios"]) == {f"{one}/{other}" for one in ("service", "delivering") for other in yardsticks}
    for figures in report["ratios"].values():
        assert 0 < figures["lowest"] == figures["median"] == figures["highest"]
    assert report["problems"] == []
    assert "round 1 of 1: empty FastAPI endpoint" in progress
    assert _left_by(tmp_path) == []


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
    report = as_object(_PLAN, {"service": [measurement], "delivering": [good], "empty": [good]}, {})

    async def measured(*_: object) -> dict[str, object]:
        return report

    monkeypatch.setattr(bench, "_measure", measured)
    assert bench.main([]) == 1
    printed = capsys.readouterr()
    assert complaint in printed.err
    assert "is in the database, and no other" not in printed.out


def test_ratios_are_computed_round_by_round() -> None:
    def rounds(*speeds: float) -> list[Measurement]:
        return [Measurement(Seen(answered=1, per_second=speed), rows=1, delivered=1) for speed in speeds]

    measured = {"service": rounds(10, 90, 20), "delivering": rounds(1, 1, 1), "empty": rounds(100, 100, 10)}
    report = as_object(_PLAN, measured, {"pgbench": "it is missing"})
    assert report["ratios"]["service/empty"] == {"median": 0.9, "lowest": 0.1, "highest": 2.0}
    assert "service/pgbench" not in report["ratios"]
    assert "pgbench is left out: it is missing" in as_table(report)


def test_the_load_is_the_same_every_time_and_begins_with_every_pair() -> None:
    drawn = messages(20)
    assert drawn == messages(20)
    assert len({(message["from"], message["to"]) for message in drawn[:20]}) == 20
    assert len({message["body"] for message in drawn}) == len(drawn)


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


async def test_a_connection_that_breaks_is_noted() -> None:
    seen = await _load_on(lambda: [_OK[:10]], seconds=0.1, then_close=True)
    assert (seen.answered, seen.broken) == (0, 2)


async def _load_on(answer: Callable[[], Iterable[bytes]], *, seconds: float, then_close: bool = False) -> Seen:
    """What the load generator sees of a server that gives these answers, in pieces."""

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
        seen = await Load(Plan(port=port, seconds=seconds, connections=2, pairs=3)).run()
        await asyncio.gather(*(task for task in talks if task))
        return seen
