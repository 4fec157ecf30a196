"""Who is alive: seen by whoever asks, whether the others left in order or were killed."""

import subprocess
import sys
from pathlib import Path

from app.presence import Presence

_STAYS = "import sys; from pathlib import Path; from app.presence import Presence\n"
_STAYS += "me = Presence(Path(sys.argv[1])); me.enter(); print(me.name, flush=True); sys.stdin.read()"


def test_who_has_left_is_among_the_gone_until_struck_off(tmp_path: Path) -> None:
    one, other = Presence(tmp_path), Presence(tmp_path)
    one.enter()
    other.enter()
    assert sorted(one.call_the_roll().living) == sorted([one.name, other.name])
    other.leave()
    assert (one.call_the_roll().living, one.call_the_roll().gone) == ([one.name], [other.name])
    one.strike_off(other.name)
    assert one.call_the_roll().gone == []
    one.leave()


def test_a_process_that_is_killed_is_gone_at_once(tmp_path: Path) -> None:
    one = Presence(tmp_path)
    one.enter()
    words = [sys.executable, "-c", _STAYS, str(tmp_path)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        name = process.stdout.readline().strip()
        assert name in one.call_the_roll().living
        process.kill()
        process.wait()
        assert one.call_the_roll().gone == [name]
    one.leave()
