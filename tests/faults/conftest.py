"""One PostgreSQL for the faults of a test process, apart from the other tests, because it is crashed and frozen."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.rig import FULL, MakeRig, Postgres, Rig
from tests.faults.standby import Standby

_HERE = Path(__file__).parent


@pytest.hookimpl(tryfirst=True)  # before the slow tests are left out
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if _HERE in item.path.parents:
            item.add_marker(pytest.mark.slow)
            item.add_marker(pytest.mark.timeout(1800 if FULL else 900))


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postgres]:
    server = Postgres(tmp_path_factory.mktemp("faults"))
    yield server
    server.stop()


@pytest.fixture
def primary(tmp_path: Path) -> Iterator[Postgres]:
    """A server of its own, which a standby can follow again after a while."""
    server = Postgres(tmp_path / "primary", wal_keep_size="1GB")
    yield server
    server.stop()


@pytest.fixture
def standby(tmp_path: Path, primary: Postgres) -> Iterator[Standby]:
    server = Standby(tmp_path / "standby", primary)
    yield server
    server.stop()


@pytest.fixture
def make_rig(tmp_path: Path, postgres: Postgres) -> Iterator[MakeRig]:
    """Makes rigs, and kills their processes afterwards."""
    made: list[Rig] = []

    def make(**choices: object) -> Rig:
        directory = tmp_path / f"rig-{len(made)}"
        directory.mkdir()
        made.append(Rig(directory, postgres, **choices))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for rig in made:
        rig.close()
