"""Providers of installed packages: what is found, what is refused, and the documented one from end to end."""

import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import import_module
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import ValidationError

from app.doctor import installation
from app.doctor.findings import Level
from app.errors import ConfigurationError
from app.providers.base import BaseProvider
from app.providers.packages import GROUP, PackagedProvider, packaged_providers
from app.providers.registry import provider_registry
from app.wiring import must_have_providers
from tests.cases import each_case
from tests.conftest import make_settings
from tests.live import LOCAL, LiveServer
from tests.providers.documented import documented_files, load_the_documented_vendor

ROOT = Path(__file__).parents[2]
SOURCE = """
import os

from app.providers.base import BaseProvider, ProviderResult
from app.providers.toolbox.models import HttpVendorSettings


class Good(BaseProvider):
    def send(self, payload):
        return ProviderResult("1")


class Unfinished(BaseProvider):
    pass


class Strict(HttpVendorSettings, env_prefix="STRICT_"):
    pass


def missing():
    return None


def strict():
    Strict(timeout_seconds=-1)


def careless():
    raise RuntimeError("the secret is sesame")


number = 7
"""

Install = Callable[..., None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Installs a package that has an entry point, as pip leaves one: a module and its metadata."""
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "vendors_of_a_test.py").write_text(SOURCE)

    def install(entry: str, package: str = "messaging-acme") -> None:
        metadata = tmp_path / f"{package.replace('-', '_')}-1.2.dist-info"
        metadata.mkdir()
        (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.2\n")
        (metadata / "entry_points.txt").write_text(f"[{GROUP}]\n{entry}\n")

    yield install
    sys.modules.pop("vendors_of_a_test", None)


def test_a_provider_of_an_installed_package_is_found_with_its_package(install: Install) -> None:
    install("acme = vendors_of_a_test:Good")
    [found] = packaged_providers(taken=())
    assert (found.name, found.package, found.fault) == ("acme", "messaging-acme 1.2", None)
    assert isinstance(found.provider, BaseProvider)


def test_a_provider_whose_settings_are_missing_is_not_used(install: Install) -> None:
    install("acme = vendors_of_a_test:missing")
    assert packaged_providers(taken=()) == [PackagedProvider("acme", "messaging-acme 1.2")]


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        ("twilio = vendors_of_a_test:Good", "the provider twilio, but that name is taken by this service."),
        ("Acme = vendors_of_a_test:Good", "the provider Acme, which is no name for one: it begins with a-z"),
        ("acme = vendors_of_nothing:Good", "fails with ModuleNotFoundError: No module named 'vendors_of_nothing'."),
        ("acme = vendors_of_a_test:Gone", "fails with AttributeError: "),
        ("acme = vendors_of_a_test:Unfinished", "fails with TypeError: Can't instantiate abstract class Unfinished"),
        ("acme = vendors_of_a_test:number", "fails with TypeError: 'int' object is not callable."),
        ("acme = vendors_of_a_test:dict", "fails with AttributeError"),
        ("acme = vendors_of_a_test:os.getcwd", "but vendors_of_a_test:os.getcwd makes a str, no BaseProvider."),
        ("acme = vendors_of_a_test:careless", "but vendors_of_a_test:careless fails with RuntimeError."),
    ],
)
def test_an_entry_point_that_can_not_be_used_is_told_with_its_package(
    install: Install, entry: str, reason: str
) -> None:
    install(entry)
    [found] = packaged_providers(taken={"twilio"})
    assert found.provider is None
    assert found.fault is not None
    assert found.fault.startswith("The package messaging-acme 1.2 offers the provider ")
    assert reason in found.fault
    assert "sesame" not in found.fault


def test_of_two_packages_with_one_name_the_second_is_refused(install: Install) -> None:
    install("acme = vendors_of_a_test:Good", "messaging-acme")
    install("acme = vendors_of_a_test:Good", "messaging-other")
    first, second = packaged_providers(taken=())
    assert first.fault is None
    assert second.fault is not None
    assert second.fault.endswith("but that name is taken by messaging-acme 1.2.")


def test_a_wrong_setting_of_a_package_is_told_as_of_any_provider(install: Install) -> None:
    install("strict = vendors_of_a_test:strict")
    with pytest.raises(ValidationError, match="timeout_seconds"):
        packaged_providers(taken=())


@each_case("env", ["development", "production"])
def test_nothing_starts_with_a_package_that_can_not_be_used(env: str) -> None:
    broken = [PackagedProvider("acme", "messaging-acme 1.2", fault="The package messaging-acme 1.2 is broken.")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("app.wiring.from_packages", broken)
        with pytest.raises(ConfigurationError, match=r"The package messaging-acme 1\.2 is broken"):
            must_have_providers(make_settings().model_copy(update={"env": env}))


def test_the_doctor_tells_where_a_provider_is_from(monkeypatch: pytest.MonkeyPatch) -> None:
    packaged = [
        PackagedProvider("acme", "messaging-acme 1.2", provider=provider_registry["sms"]),
        PackagedProvider("beta", "messaging-beta 3.0"),
        PackagedProvider("gamma", "messaging-gamma 0.1", fault="The package messaging-gamma 0.1 is broken."),
    ]
    monkeypatch.setattr(installation, "from_packages", packaged)
    found = [(each.level, each.text) for each in installation.provider_packages(make_settings())]
    assert found == [
        (Level.OK, "acme comes from messaging-acme 1.2"),
        (Level.OK, "beta comes from messaging-beta 3.0, and is not used: its settings are missing"),
        (Level.PROBLEM, "The package messaging-gamma 0.1 is broken."),
    ]


@pytest.fixture(scope="module")
def acme(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package of the document, installed into a folder by pip; its tests lie in `tests` beside it."""
    directory = tmp_path_factory.mktemp("acme")
    documented = documented_files()
    files = {
        "pyproject.toml": documented["pyproject.toml"],
        "messaging_acme.py": documented["app/providers/acme.py"],
        "tests/facts.py": documented["tests/providers/kit/acme.py"],
        "tests/conftest.py": documented["tests/conftest.py"],
        "tests/test_acme.py": documented["tests/test_acme.py"],
    }
    (directory / "tests").mkdir()
    for name, content in files.items():
        (directory / name).write_text(content)
    installing = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-index",
        "--no-deps",
        "--no-build-isolation",
    ]
    subprocess.run([*installing, "--target", directory / "installed", directory], check=True)
    return directory


def environment(acme: Path, **more: str) -> dict[str, str]:
    """The environment of a process that finds the installed package and the service."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "DATABASE_URL"))}
    return {**inherited, "PYTHONPATH": os.pathsep.join([str(acme / "installed"), str(ROOT)]), **more}


@pytest.mark.slow
def test_the_documented_package_keeps_the_contract(acme: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-rs", "-p", "no:cacheprovider", "-p", "no:randomly", "tests"],
        cwd=acme,
        env=environment(acme),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    [(passed, skipped)] = re.findall(r"^(\d+) passed(?:, (\d+) skipped)?", done.stdout, re.MULTILINE)
    assert int(passed) >= 20, done.stdout
    assert set(re.findall(r"SKIPPED .*: (.*)", done.stdout)) == {
        "it hands files over, or names public ones",
        "it signs whatever it sends",
    }, skipped


class AcmeApi(ThreadingHTTPServer):
    """Acme's API on a port of its own; keeps the documents that it is sent."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answering)
        self.documents: list[dict[str, Any]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Answering(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        content = self.rfile.read(int(self.headers["content-length"]))
        self.server.documents.append(json.loads(content))  # type: ignore[attr-defined]
        answer = b'{"id": "m-1"}'
        self.send_response(200)
        self.send_header("content-length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def api() -> Iterator[AcmeApi]:
    server = AcmeApi()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.mark.slow
def test_the_documented_package_sends_and_receives_beside_the_service(
    acme: Path, api: AcmeApi, tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    load_the_documented_vendor(monkeypatch)
    kit = import_module("tests.providers.kit.acme")
    settings = {"ACME_API_KEY": kit.API_KEY, "ACME_WEBHOOK_SECRET": kit.SECRET, "ACME_API_URL": api.url}
    server = LiveServer(tmp_path, port=0, **environment(acme, DATABASE_URL=database_url, **settings))
    server.start()
    try:
        with httpx.Client(base_url=server.url, verify=LOCAL) as client:
            message = {"from": "+12016661234", "to": "+18045551234", "type": "sms", "body": "Hello!"}
            sent = client.post("/api/messages/sms", json=message, headers={"Prefer": "wait=30"}).json()
            assert sent["provider_message_id"] == "m-1"
            assert [document["text"] for document in api.documents] == ["Hello!"]
            for body in (kit.receipt("delivered"), kit.inbound()):
                callback = kit.sign(body)
                answer = client.post("/api/webhooks/acme", content=body, headers=dict(callback.headers))
                assert answer.status_code == 200, answer.text
            messages = client.get(f"/api/conversations/{sent['conversation_id']}/messages").json()
            assert [(each["direction"], each["body"]) for each in messages] == [
                ("inbound", "Hi!"),  # Acme dates it back
                ("outbound", "Hello!"),
            ]
    finally:
        server.stop()


@pytest.mark.slow
def test_the_documented_package_under_a_taken_name_stops_the_start(acme: Path, tmp_path: Path) -> None:
    [entry_points] = (acme / "installed").glob("*.dist-info/entry_points.txt")
    written = entry_points.read_text()
    entry_points.write_text(written.replace("acme =", "twilio ="))
    try:
        done = subprocess.run(
            [sys.executable, "-m", "app", "serve"],
            cwd=tmp_path,
            env=environment(acme, PORT="0", DATA_DIR=str(tmp_path)),
            capture_output=True,
            text=True,
        )
    finally:
        entry_points.write_text(written)
    assert done.returncode == 2
    assert "The package messaging-acme 1.0 offers the provider twilio, but that name is taken" in done.stderr
    assert "Traceback" not in done.stderr
