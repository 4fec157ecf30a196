"""One PostgreSQL for the faults of a test process, apart from everybody else's, because it is crashed and frozen."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.rig import FULL, MakeRig, Postgres, Rig

_HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if _HERE in item.path.parents:
            item.add_marker(pytest.mark.timeout(1800 if FULL else 300))


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postgres]:
    server = Postgres(tmp_path_factory.mktemp("faults"))
    yield server
    server.stop()


@pytest.fixture
def make_rig(tmp_path: Path, postgres: Postgres) -> Iterator[MakeRig]:
    """Makes rigs, whose processes are dead afterwards, whatever happened."""
    made: list[Rig] = []

    def make(**choices: object) -> Rig:
        directory = tmp_path / f"rig-{len(made)}"
        directory.mkdir()
        made.append(Rig(directory, postgres, **choices))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for rig in made:
        rig.close()
