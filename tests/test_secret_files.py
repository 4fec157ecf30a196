"""Secrets that stand in files: by a variable with the name of the file, or in a directory of them."""

from pathlib import Path

import pytest
from pydantic import SecretStr

from app.__main__ import main
from app.config import Settings
from app.providers.http import HttpSettings
from app.providers.twilio import TwilioSettings
from app.secret_files import SecretFileError

SECRET = "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"  # noqa: S105 - of this test


@pytest.fixture(autouse=True)
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the variables of this run, in a directory with no `.env`."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DATABASE_URL", raising=False)


def revealed(secret: SecretStr | None) -> str | None:
    return None if secret is None else secret.get_secret_value()


@pytest.mark.parametrize("content", [SECRET, f"{SECRET}\n", f"{SECRET}\r\n"])
def test_a_variable_names_the_file_of_a_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str) -> None:
    file = tmp_path / "secret"
    file.write_bytes(content.encode())
    monkeypatch.setenv("WEBHOOK_SECRET_FILE", str(file))
    monkeypatch.setenv("TWILIO_AUTH_TOKEN_FILE", str(file))
    assert revealed(Settings().webhook_secret) == SECRET
    assert revealed(TwilioSettings().auth_token) == SECRET


def test_the_variable_may_stand_in_the_env_file(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("postgresql://user:word@host/name\n")
    (tmp_path / ".env").write_text("DATABASE_URL_FILE=secret\n")
    assert revealed(Settings().database_url) == "postgresql://user:word@host/name"


@pytest.mark.parametrize("name", ["WEBHOOK_SECRET", "webhook_secret"])
def test_a_directory_has_files_with_the_names_of_secrets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    directory = tmp_path / "secrets"
    directory.mkdir()
    (directory / name).write_text(f"{SECRET}\n")
    (directory / "port").write_text("1")
    monkeypatch.setenv("SECRETS_DIR", str(directory))
    settings = Settings()
    assert revealed(settings.webhook_secret) == SECRET
    assert settings.port == 8080  # no secret


def test_secrets_that_are_json_are_read_as_such(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "headers").write_text('{"Authorization": "Bearer word"}\n')
    monkeypatch.setenv("HTTP_URL", "https://vendor.example/send")
    monkeypatch.setenv("HTTP_HEADERS_FILE", "headers")
    assert HttpSettings().headers["Authorization"].get_secret_value() == "Bearer word"


@pytest.mark.parametrize(
    ("variables", "sentence"),
    [
        (
            {"WEBHOOK_SECRET": SECRET, "WEBHOOK_SECRET_FILE": "secret"},
            "WEBHOOK_SECRET is given twice, by WEBHOOK_SECRET and WEBHOOK_SECRET_FILE: remove one of them.",
        ),
        (
            {"SECRETS_DIR": "secrets", "WEBHOOK_SECRET_FILE": "secret"},
            "WEBHOOK_SECRET is given twice, by WEBHOOK_SECRET_FILE and secrets/webhook_secret: remove one of them.",
        ),
        (
            {"WEBHOOK_SECRET_FILE": "nowhere"},
            "The file of WEBHOOK_SECRET, nowhere, can't be read: No such file or directory.",
        ),
        ({"WEBHOOK_SECRET_FILE": "empty"}, "The file of WEBHOOK_SECRET, empty, is empty."),
        ({"WEBHOOK_SECRET_FILE": "binary"}, "The file of WEBHOOK_SECRET, binary, can't be read: save it as UTF-8."),
        ({"SECRETS_DIR": "nowhere"}, "SECRETS_DIR, nowhere, can't be read: No such file or directory."),
        ({"HTTP_HEADERS_FILE": "secret"}, "The file of HTTP_HEADERS, secret, has to hold JSON."),
    ],
)
def test_a_secret_that_cannot_be_had_is_told_in_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], sentence: str
) -> None:
    (tmp_path / "secret").write_text(SECRET)
    (tmp_path / "empty").write_text("\n")
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    (tmp_path / "secrets").mkdir(exist_ok=True)
    (tmp_path / "secrets" / "webhook_secret").write_text(SECRET)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SecretFileError) as refused:
        (Settings(), HttpSettings())
    assert str(refused.value) == sentence


def test_the_command_line_says_so_and_no_secret(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WEBHOOK_SECRET", SECRET)
    monkeypatch.setenv("WEBHOOK_SECRET_FILE", "secret")
    assert main(["migrate"]) == 2
    said = capsys.readouterr().err
    assert "given twice" in said
    assert SECRET not in said
    assert len(said.splitlines()) == 1
