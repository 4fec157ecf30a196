"""The promises of every provider, for one vendor or several."""

from pathlib import Path

import pytest

from app.testing.callbacks import CallbackContract
from app.testing.description import Description
from app.testing.kit import Kit, Subject
from app.testing.over_http import HttpContract
from app.testing.sending import SendingContract


class ProviderContract(SendingContract, CallbackContract, HttpContract):
    """The tests of a provider that an installed package brings.

    A class `Test…` below it names the entry point, and returns the description of the vendor. Its `payloads` are
    callbacks as the vendor documents them, a file each. The fixtures come from `app.testing.plugin`.
    """

    pytestmark = pytest.mark.anyio
    name: str
    payloads: Path | None = None

    def description(self) -> Description:
        raise NotImplementedError

    @pytest.fixture
    def subject(self) -> Subject:
        return Subject.installed(self.name, self.description(), self.payloads)

    @pytest.fixture
    def kit(self, subject: Subject, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Kit:
        monkeypatch.chdir(tmp_path)  # where there is no .env
        for variable in subject.described.environment:
            monkeypatch.delenv(variable, raising=False)
        return Kit(subject, monkeypatch)

    @pytest.fixture
    def calling(self, kit: Kit) -> Kit:
        if kit.described.sign is None:
            pytest.skip("it does not call back")
        return kit

    @pytest.fixture
    def signing(self, calling: Kit) -> Kit:
        if calling.described.signed_by is None:
            pytest.skip("it signs nothing")
        return calling

    def test_it_is_there_with_its_settings_and_absent_without(self, kit: Kit) -> None:
        assert kit.configured() is None
        assert kit.configure({}).channels
