"""Living and dead processes are told apart, also where one was killed."""

import subprocess
import sys
from pathlib import Path

from app.db.process_lock import ProcessLock

_STAYS = "import sys; from pathlib import Path; from app.db.process_lock import ProcessLock\n"
_STAYS += "me = ProcessLock(Path(sys.argv[1])); me.enter(); print(me.name, flush=True); sys.stdin.read()"


def test_who_has_left_is_among_the_gone_until_struck_off(tmp_path: Path) -> None:
    one, other = ProcessLock(tmp_path), ProcessLock(tmp_path)
    one.enter()
    other.enter()
    assert sorted(one.living_and_dead().living) == sorted([one.name, other.name])
    other.leave()
    assert (one.living_and_dead().living, one.living_and_dead().dead) == ([one.name], [other.name])
    one.forget_dead(other.name)
    assert one.living_and_dead().dead == []
    one.leave()


def test_a_process_that_is_killed_is_gone_at_once(tmp_path: Path) -> None:
    one = ProcessLock(tmp_path)
    one.enter()
    words = [sys.executable, "-c", _STAYS, str(tmp_path)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        name = process.stdout.readline().strip()
        assert name in one.living_and_dead().living
        process.kill()
        process.wait()
        assert one.living_and_dead().dead == [name]
    one.leave()
