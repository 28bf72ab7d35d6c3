"""What can be seen of the files of `deploy/` without an engine, a cluster or systemd as the first process.

`kubernetes-1.37.schema.json` is Kubernetes' own OpenAPI schema of the kinds used here, without descriptions, strict: an
unknown field is an error.
"""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
import yaml

from garrison.serve.settings import PREFIX, Settings
from tests.deploy.nodes import DEPLOY, certificate, program
from tests.process.server import GARRISON, ROOT

SCHEMA = json.loads((Path(__file__).parent / "kubernetes-1.37.schema.json").read_text())
API_VERSIONS = {
    "Deployment": "apps/v1",
    "Job": "batch/v1",
    "NetworkPolicy": "networking.k8s.io/v1",
    "PodDisruptionBudget": "policy/v1",
    "Secret": "v1",
    "Service": "v1",
}
OBJECTS: dict[str, dict[str, Any]] = {
    file.name: yaml.safe_load(file.read_text()) for file in sorted((DEPLOY / "kubernetes").glob("*.yaml"))
}
PODS = {name: one["spec"]["template"]["spec"] for name, one in OBJECTS.items() if "template" in one.get("spec", {})}
COMPOSE: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
STAGES = re.split(r"^FROM ", (DEPLOY / "Dockerfile").read_text(), flags=re.MULTILINE)[1:]
UNITS = sorted(DEPLOY.glob("*.service"))
MOST_EXPOSED = 4.0
"""Of 10, as `systemd-analyze security` counts it."""


# systemd


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.stem)
def test_systemd_finds_nothing_wrong_with_the_unit(unit: Path, tmp_path: Path) -> None:
    text = unit.read_text()
    (tmp_path / unit.name).write_text(text.replace("/opt/garrison/.venv/bin/garrison", GARRISON))
    command = [program("systemd-analyze"), "verify", "--man=no", str(tmp_path / unit.name)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, [line for line in done.stderr.splitlines() if unit.name in line]) == (0, []), done.stderr


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.stem)
def test_the_unit_leaves_little_exposed(unit: Path) -> None:
    threshold = f"--threshold={MOST_EXPOSED * 10:.0f}"
    command = [program("systemd-analyze"), "security", "--offline=true", "--no-pager", threshold, str(unit)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    lines = unit.read_text().splitlines()
    for line in ("NoNewPrivileges=yes", "ProtectSystem=strict", "DynamicUser=yes", "CapabilityBoundingSet="):
        assert line in lines


# Proxies


@pytest.fixture
def proxy_environment(tmp_path: Path) -> dict[str, str]:
    nodes = {f"NODE_{name}": f"127.0.0.1:{port}" for port, name in enumerate("ABCD", 8001)}
    ports = {"PROXY_HTTPS": "127.0.0.1:8443", "PROXY_HTTP": "127.0.0.1:8080"}
    return {**nodes, **ports, "PROXY_CERTIFICATE": str(certificate(tmp_path))}


def test_haproxy_takes_its_file(proxy_environment: dict[str, str]) -> None:
    command = [program("haproxy"), "-c", "-f", str(DEPLOY / "haproxy.cfg")]
    done = subprocess.run(command, env={**os.environ, **proxy_environment}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr


def test_nginx_is_filled_in_by_the_line_at_its_head() -> None:
    text = (DEPLOY / "nginx.conf").read_text()
    listed = re.search(r"envsubst '([^']+)'", text)
    assert listed is not None
    assert set(listed[1].split()) == {f"${name}" for name in re.findall(r"\$\{([A-Z_]+)\}", text)}


# Dockerfile


def test_what_the_image_takes_from_the_index_is_pinned_by_hash() -> None:
    text = (DEPLOY / "Dockerfile").read_text()
    installs = re.findall(r"pip install (.+)", text)
    assert len(installs) >= 3
    for arguments in installs:
        assert arguments.startswith(("--require-hashes --only-binary :all: -r ", "--no-deps /build/dist/")), arguments
    for file in re.findall(r"-r (\S+)", text):
        pins = re.findall(r"^[a-z0-9][^ \n]*==[^\n]*\\\n\s+--hash=sha256:", (ROOT / file).read_text(), re.MULTILINE)
        assert len(pins) == len(re.findall(r"^[a-z0-9]", (ROOT / file).read_text(), re.MULTILINE)) > 0


def test_the_image_runs_as_nobody_in_particular_and_hears_signals() -> None:
    by_name = {re.findall(r"AS (\S+)", stage)[0]: stage for stage in STAGES}
    server, example = by_name["server"], by_name["example"]
    assert "\nUSER 10001:10001\n" in server
    assert "USER" not in example
    assert example.startswith("server AS example")
    assert '\nENTRYPOINT ["garrison"]\n' in server  # in a shell, SIGTERM would reach the shell alone
    assert "HEALTHCHECK" in server
    assert "/health/ready" in server
    assert "GARRISON_ENV=production" in server
    assert "ADD " not in "".join(STAGES)
    for source in re.findall(r"^COPY (?!--from)(.+) \S+$", "".join(STAGES), re.MULTILINE):
        for name in source.split():
            assert (ROOT / name).exists(), name


def test_what_is_not_named_stays_out_of_the_build() -> None:
    lines = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if not line.startswith("#")]
    assert lines[0] == "*"
    assert {"**/var", "**/.env"} <= set(lines)


def test_the_image_is_built_where_an_engine_is_to_be_had() -> None:
    if not engine():
        pytest.skip("no container engine answers here")
    command = ["docker", "build", "-f", str(DEPLOY / "Dockerfile"), "-t", "garrison-test", str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    run = ["docker", "run", "--rm", "--read-only", "--cap-drop=ALL", "--network=none", "garrison-test", "--help"]
    assert "serve" in subprocess.run(run, capture_output=True, text=True, check=True).stdout


def engine() -> bool:
    """Say whether a container engine answers."""
    found = shutil.which("docker")
    return found is not None and subprocess.run([found, "info"], capture_output=True, check=False).returncode == 0


# Compose


def test_the_nodes_of_compose_believe_the_proxys_address_alone() -> None:
    services = COMPOSE["services"]
    proxy = services["haproxy"]["networks"]["inside"]["ipv4_address"]
    written = re.findall(r'"\$\{NODE_[A-D]-([0-9.]+):8000\}"', (DEPLOY / "haproxy.cfg").read_text())
    nodes = {name: one for name, one in services.items() if name.startswith("node-")}
    assert sorted(one["networks"]["inside"]["ipv4_address"] for one in nodes.values()) == written
    for one in nodes.values():
        assert one["environment"]["GARRISON_TRUSTED_PROXIES"] == proxy
        assert one["depends_on"] == {"migrate": {"condition": "service_completed_successfully"}}
        assert "ports" not in one, "nobody reaches a node past the proxy"
        assert seconds(one["stop_grace_period"]) > 10


def test_compose_migrates_once_and_runs_everything_with_little() -> None:
    services = COMPOSE["services"]
    assert services["migrate"]["command"] == ["migrate"]
    assert services["migrate"]["restart"] == "no"
    for name, one in services.items():
        assert "no-new-privileges:true" in one["security_opt"], name
        assert name == "postgres" or (one["read_only"] and one["cap_drop"] == ["ALL"]), name
        assert ":latest" not in one["image"]
    secrets = [
        one["environment"]["GARRISON_SECRET"]
        for one in services.values()
        if "environment" in one and "GARRISON_SECRET" in one["environment"]
    ]
    assert set(secrets) == {"${GARRISON_SECRET:?at least 32 bytes}"}, "a secret is asked for, and none stands here"


def test_compose_itself_takes_the_file() -> None:
    if (
        shutil.which("docker") is None
        or subprocess.run(["docker", "compose", "version"], capture_output=True, check=False).returncode
    ):
        pytest.skip("no docker compose here")
    environment = {**os.environ, "POSTGRES_PASSWORD": "x" * 16, "GARRISON_SECRET": "x" * 48}
    command = ["docker", "compose", "-f", str(DEPLOY / "compose.yaml"), "config", "--quiet"]
    subprocess.run(command, env=environment, check=True)


# Kubernetes


@pytest.mark.parametrize("name", OBJECTS)
def test_kubernetes_takes_the_manifest(name: str) -> None:
    manifest = OBJECTS[name]
    kind = manifest["kind"]
    assert manifest["apiVersion"] == API_VERSIONS[kind]
    schema = {"$ref": f"#/definitions/{SCHEMA['roots'][kind]}", "definitions": SCHEMA["definitions"]}
    validator = jsonschema_rs.Draft7Validator(schema)
    assert [error.message for error in validator.iter_errors(manifest)] == []
    assert not validator.is_valid({**manifest, "speck": {}}), "the schema lets everything through"


@pytest.mark.parametrize("name", PODS)
def test_pods_may_do_little(name: str) -> None:
    pod = PODS[name]
    assert pod["automountServiceAccountToken"] is False
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["runAsUser"] == 10001
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    for container in pod["containers"]:
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert container["resources"]["limits"]["memory"]
        assert not container["image"].endswith(":latest")
        assert ":" in container["image"]


def test_pods_are_probed_and_given_the_time_to_end() -> None:
    pod = PODS["deployment.yaml"]
    (container,) = pod["containers"]
    assert container["readinessProbe"]["httpGet"]["path"] == "/health/ready"
    for probe in ("livenessProbe", "startupProbe"):
        assert container[probe]["httpGet"]["path"] == "/health/live", "an outage of the database restarts nobody"
    pause = container["lifecycle"]["preStop"]["sleep"]["seconds"]
    readiness = container["readinessProbe"]
    assert pause > readiness["periodSeconds"] * readiness["failureThreshold"]
    assert pod["terminationGracePeriodSeconds"] >= pause + 10


def test_manifests_speak_of_each_other_by_the_names_they_have() -> None:
    labels = OBJECTS["deployment.yaml"]["spec"]["template"]["metadata"]["labels"]
    assert OBJECTS["deployment.yaml"]["spec"]["selector"]["matchLabels"] == labels
    assert OBJECTS["service.yaml"]["spec"]["selector"] == labels
    assert OBJECTS["pod-disruption-budget.yaml"]["spec"]["selector"]["matchLabels"] == labels
    assert OBJECTS["network-policy.yaml"]["spec"]["podSelector"]["matchLabels"] == labels
    secret = OBJECTS["secret.example.yaml"]
    for pod in PODS.values():
        for container in pod["containers"]:
            for one in container["env"]:
                reference = one.get("valueFrom", {}).get("secretKeyRef")
                if reference is not None:
                    assert reference["name"] == secret["metadata"]["name"]
                    assert reference["key"] in secret["stringData"]


def test_no_secret_stands_in_a_file() -> None:
    assert OBJECTS["secret.example.yaml"]["stringData"]["secret"] == ""
    for pod in PODS.values():
        for container in pod["containers"]:
            for one in container["env"]:
                if one["name"] in ("GARRISON_SECRET", "GARRISON_DATABASE_URL"):
                    assert "value" not in one


def test_every_setting_named_in_deploy_is_one() -> None:
    known = {PREFIX + name.upper() for name in Settings.model_fields}
    files = [file for file in DEPLOY.rglob("*") if file.is_file()]
    named = {name for file in files for name in re.findall(rf"{PREFIX}[A-Z_]*[A-Z]", file.read_text())}
    assert named
    assert named <= known


def seconds(text: str) -> float:
    return float(text.removesuffix("s"))
