"""Deployment files against their public schemas and one another; `test_server.py` runs a study with their settings."""

import json
import re
import tomllib
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import click
import pytest
import yaml
from check_jsonschema.builtin_schemas import get_builtin_schema
from dagster._core.workspace.load import location_origins_from_yaml_paths
from dagster_k8s.job import UserDefinedDagsterK8sConfig
from dagster_k8s.models import k8s_model_from_dict, k8s_snake_case_dict
from dagster_ray.kuberay.configs import RayClusterSpec
from jsonschema import ValidationError
from jsonschema.validators import validator_for
from kubernetes import client

from prunescope.assets.instance.instance import open_instance
from prunescope.warehouse.core.errors import WarehouseError
from tests.assets.tiny_study import ROOT

DEPLOY = ROOT / "assets" / "instance" / "deploy"
COMPOSE = ("compose.yaml", "compose.gpu.yaml")
VARIABLE = re.compile(r"\$\{(\w+)([^}]*)\}")
LOCK = dict(re.findall(r"^([\w.-]+)==([\w.]+)", (ROOT / "requirements.lock").read_text(), re.MULTILINE))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def read(name: str) -> Any:
    return yaml.safe_load((DEPLOY / name).read_text(encoding="utf-8"))


def check(schema: dict[str, Any], document: Any) -> None:
    validator_for(schema)(schema).validate(document)


def kubernetes(model: type, document: dict[str, Any]) -> None:
    """Refuse keys that Kubernetes does not know, at any depth."""
    k8s_model_from_dict(model, k8s_snake_case_dict(model, document))


# Compose


@pytest.fixture(scope="module")
def compose_schema() -> dict[str, Any]:
    return get_builtin_schema("vendor.compose-spec")


@pytest.mark.parametrize("name", COMPOSE)
def test_compose_files_fit_the_compose_specification(name: str, compose_schema: dict[str, Any]) -> None:
    check(compose_schema, read(name))


@pytest.mark.parametrize(
    ("service", "key", "value"),
    [("webserver", "prots", []), ("postgres", "healthcheck", {"tests": []}), ("code", "stop_grace_period", [60])],
)
def test_a_broken_key_of_a_service_is_found(service: str, key: str, value: Any, compose_schema: dict[str, Any]) -> None:
    broken = read("compose.yaml")
    broken["services"][service][key] = value
    with pytest.raises(ValidationError):
        check(compose_schema, broken)


def test_every_variable_is_in_the_example_and_required() -> None:
    text = "".join((DEPLOY / name).read_text() for name in COMPOSE)
    used = VARIABLE.findall(re.sub(r"\$\$\w+|#.*", "", text))
    lines = (DEPLOY / ".env.example").read_text().splitlines()
    example = dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))
    assert {name for name, _ in used} == set(example)
    # `:?` makes compose refuse a variable that is not set, or is empty.
    assert {name for name, rule in used if not rule.startswith(":?")} == set()
    secrets = {name for name in example if re.search("PASSWORD|TOKEN", name)}
    assert {name for name, value in example.items() if not value} == secrets


def services() -> dict[str, dict[str, Any]]:
    return read("compose.yaml")["services"]


def test_no_service_is_given_a_secret_by_its_file() -> None:
    for service in services().values():
        for name, value in service["environment"].items():
            if re.search("PASSWORD|TOKEN|SECRET|ACCESS_KEY", name):
                assert VARIABLE.match(value), name


def test_only_the_interface_is_published_and_only_to_this_machine() -> None:
    published = {name: service["ports"] for name, service in services().items() if "ports" in service}
    assert set(published) == {"webserver"}
    assert all(port.startswith("127.0.0.1:") for port in published["webserver"])


def test_every_service_has_limits_and_a_health_check() -> None:
    for name, service in services().items():
        assert set(service["deploy"]["resources"]["limits"]) == {"cpus", "memory"}, name
        assert "healthcheck" in service or service["restart"] == "on-failure", name
        for other in service.get("depends_on", {}):
            assert other in services()


def images() -> Iterator[str]:
    for service in services().values():
        yield service["image"]
    values = read("kubernetes/dagster-values.yaml")
    for image in (
        *(deployment["image"] for deployment in values["dagster-user-deployments"]["deployments"]),
        *(values[part]["image"] for part in ("dagsterWebserver", "dagsterDaemon")),
    ):
        yield f"{image['repository']}:{image['tag']}"
    for _, template in groups():
        yield from (container["image"] for container in template["spec"]["containers"])
    yield from re.findall(r"^ARG PYTHON=(.*)$", (DEPLOY / "Dockerfile").read_text(), re.MULTILINE)


def test_images_are_pinned_and_ours_has_this_version() -> None:
    found = list(images())
    assert len(found) > len(services())
    for image in found:
        if "prunescope" in image and "$" not in image:
            assert image.endswith(f"prunescope:{PROJECT['version']}")
        assert re.search(r":\$\{PRUNESCOPE_VERSION|\d+\.\d+|RELEASE\.\d{4}-\d\d-\d\d", image), image
    assert f"PRUNESCOPE_VERSION={PROJECT['version']}\n" in (DEPLOY / ".env.example").read_text()


# Commands of the services


def parsed(command: list[str]) -> None:
    """Parse a command line as the program does, without running it; the files that it names are ours."""
    from dagster._cli import create_dagster_cli
    from dagster._daemon.cli import create_dagster_daemon_cli
    from dagster_webserver.cli import dagster_webserver
    from ray.scripts.scripts import cli as ray

    programs = {
        "dagster": create_dagster_cli(),
        "dagster-daemon": create_dagster_daemon_cli(),
        "dagster-webserver": dagster_webserver,
        "ray": ray,
    }
    program = programs[command[0]]
    arguments = [each.replace("/opt/dagster", str(DEPLOY)) for each in command[1:]]
    while isinstance(program, click.Group):
        program = program.commands[arguments.pop(0)]
    program.make_context(command[0], arguments)


def test_the_commands_of_services_are_valid() -> None:
    started = 0
    for service in services().values():
        if not service["image"].startswith("prunescope:"):
            continue
        said = VARIABLE.sub("4", service["command"]).split() if isinstance(service["command"], str) else None
        for command in (said or service["command"], service["healthcheck"]["test"][1:]):
            assert command[0] != "dagster-webserver", "nothing guards it"
            if command[:3] == ["python", "-m", "prunescope.assets.publishing.interface.webserver"]:
                parsed(["dagster-webserver", *command[3:]])
                started += 1
            elif command[0] != "python":
                parsed(command)
                started += 1
    assert started == 9
    with pytest.raises(click.UsageError):
        parsed(["dagster-webserver", "--hots", "127.0.0.1"])


def test_web_server_and_daemon_reach_the_code_server() -> None:
    (origin,) = location_origins_from_yaml_paths([str(DEPLOY / "workspace.yaml")])
    command = services()[origin.host]["command"]
    assert command[command.index("--port") + 1] == str(origin.port)
    assert command[command.index("--module-name") + 1] == "prunescope.assets.definitions"


def test_the_image_has_the_extras_that_its_services_need() -> None:
    (extras,) = re.findall(r'"\./source\[(.*)\]"', (DEPLOY / "Dockerfile").read_text())
    assert set(extras.split(",")) == {"s3", "postgres", "ray", "kubernetes"} <= set(PROJECT["optional-dependencies"])


# Dagster's own settings


def test_the_settings_of_a_server_equal_those_of_a_checkout() -> None:
    own, server = yaml.safe_load((ROOT / "dagster.yaml").read_text()), read("dagster.yaml")
    del own["code_servers"]  # a server starts its own, which no command waits for
    assert {key: server[key] for key in own} == own


@pytest.mark.parametrize(
    ("written", "said"),
    [
        (None, "PRUNESCOPE_LOGS of the environment must be set"),
        ("telemetri: {enabled: false}", 'Received unexpected config entry "telemetri" at the root.'),
        ("telemetry: [", "while parsing a flow "),
        ("storage:\n  mysql:\n    mysql_url: x", "Couldn't import module dagster_mysql"),
    ],
)
def test_an_error_in_the_users_dagster_yaml_is_one_line(
    written: str | None, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    for name in ("HOST", "PORT", "DB", "USER", "PASSWORD"):
        monkeypatch.setenv(f"PRUNESCOPE_POSTGRES_{name}", "5432")
    monkeypatch.delenv("PRUNESCOPE_LOGS", raising=False)
    text = written or (DEPLOY / "dagster.yaml").read_text().replace(
        "hostname: {env: PRUNESCOPE_POSTGRES_HOST}", "hostname: {env: PRUNESCOPE_LOGS}"
    )
    (tmp_path / "dagster.yaml").write_text(text)
    with pytest.raises(WarehouseError) as error, open_instance(tmp_path):
        pass
    assert str(error.value).startswith(f"{tmp_path}/dagster.yaml: {said}")
    assert "\n" not in str(error.value)


def test_an_unreachable_database_is_named_without_its_password(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("dagster_postgres.utils.calculate_delay", lambda **_: 0.0)
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    place = {"HOST": "127.0.0.1", "PORT": "1", "DB": "dagster", "USER": "dagster", "PASSWORD": "canary-secret"}
    for name, value in place.items():
        monkeypatch.setenv(f"PRUNESCOPE_POSTGRES_{name}", value)
    monkeypatch.setenv("PRUNESCOPE_LOGS", str(tmp_path / "logs"))
    (tmp_path / "dagster.yaml").write_text((DEPLOY / "dagster.yaml").read_text())
    with pytest.raises(WarehouseError, match=r"port 1 failed: Connection refused; start the database") as error:
        open_instance(tmp_path).__enter__()
    assert "canary-secret" not in str(error.value) + caplog.text


# Kubernetes


@pytest.fixture(scope="module")
def values_schema() -> dict[str, Any]:
    return json.loads((Path(__file__).parent / "dagster_values.schema.json").read_text())


def test_the_values_fit_dagsters_chart(values_schema: dict[str, Any]) -> None:
    values = read("kubernetes/dagster-values.yaml")
    check(values_schema, values)
    (deployment,) = values["dagster-user-deployments"]["deployments"]
    for part in (deployment, values["dagsterWebserver"], values["dagsterDaemon"]):
        kubernetes(client.V1ResourceRequirements, part["resources"])
        kubernetes(client.V1SecurityContext, part["securityContext"])
        kubernetes(client.V1PodSecurityContext, part["podSecurityContext"])
    kubernetes(client.V1Container, {"name": "code", "env": deployment["env"]})
    probe = dict(deployment["readinessProbe"])
    assert probe.pop("enabled")
    kubernetes(client.V1Probe, probe)
    run = values["runLauncher"]["config"]["k8sRunLauncher"]["runK8sConfig"]
    snake = {re.sub(r"(?=[A-Z])", "_", key).lower(): value for key, value in run.items()}
    config = UserDefinedDagsterK8sConfig.from_dict(snake)
    assert config.container_config["resources"]["limits"]
    # Dagster's own settings, the rest of which the chart writes.
    server = read("dagster.yaml")
    assert values["additionalInstanceConfig"]["concurrency"] == server["concurrency"]
    monitoring = values["dagsterDaemon"]["runMonitoring"]
    written = {re.sub(r"(?=[A-Z])", "_", key).lower(): value for key, value in monitoring.items()}
    assert written == server["run_monitoring"]


@pytest.mark.parametrize(
    ("where", "key", "value"),
    [
        ([], "dagsterDeamon", {}),
        (["dagsterWebserver"], "imagee", {}),
        (["dagsterDaemon", "runMonitoring"], "startTimeoutSecs", 1),
        (["dagster-user-deployments", "deployments", 0], "port", "4000"),
        (["runLauncher", "config", "k8sRunLauncher", "runK8sConfig"], "containerConf", {}),
    ],
)
def test_a_broken_key_of_the_values_is_found(
    where: list[Any], key: str, value: Any, values_schema: dict[str, Any]
) -> None:
    broken = deepcopy(read("kubernetes/dagster-values.yaml"))
    part = broken
    for each in where:
        part = part[each]
    part[key] = value
    with pytest.raises(ValidationError):
        check(values_schema, broken)


def ray_documents() -> tuple[dict[str, Any], dict[str, Any]]:
    cluster, policy = yaml.safe_load_all((DEPLOY / "kubernetes/raycluster.yaml").read_text())
    return cluster, policy


def groups() -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    spec = ray_documents()[0]["spec"]
    for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"]):
        yield {key: value for key, value in group.items() if key != "template"}, group["template"]


def ray_cluster(spec: dict[str, Any]) -> RayClusterSpec:
    """Parse the resource, which refuses unknown fields: dagster-ray declares all of them."""
    known = RayClusterSpec(
        **{re.sub(r"(?=[A-Z])", "_", key).lower(): value for key, value in spec.items() if key != "authOptions"},
        auth_options={"mode": spec["authOptions"]["mode"], "secret_name": spec["authOptions"]["secretName"]},
    )
    assert not known.model_extra
    return known


def test_the_ray_cluster_fits_its_operator_and_its_pods_fit_kubernetes() -> None:
    cluster, policy = ray_documents()
    assert (cluster["apiVersion"], cluster["kind"]) == ("ray.io/v1", "RayCluster")
    assert set(cluster["spec"]["authOptions"]) == {"mode", "secretName"}
    ray_cluster(cluster["spec"])
    for group, template in groups():
        assert set(group) <= {"groupName", "replicas", "rayStartParams"}
        kubernetes(client.V1PodTemplateSpec, template)
    assert "enableInTreeAutoscaling" not in cluster["spec"]  # nothing would request a worker from it
    assert all(group["replicas"] >= 1 for group in cluster["spec"]["workerGroupSpecs"])
    kubernetes(client.V1NetworkPolicy, policy)
    with pytest.raises(AssertionError):
        ray_cluster(cluster["spec"] | {"workerGroupSpec": []})
    broken = deepcopy(cluster["spec"]["headGroupSpec"]["template"])
    broken["spec"]["containers"][0]["volumeMount"] = []
    with pytest.raises(Exception, match="Unexpected keys in model class V1Container"):
        kubernetes(client.V1PodTemplateSpec, broken)


def test_versions_equal_those_of_the_lock_file() -> None:
    said = "".join((DEPLOY / name).read_text() for name in ("README.md", "kubernetes/dagster-values.yaml"))
    charts = set(re.findall(r"dagster/dagster --version ([\d.]+)", said)) | set(
        re.findall(r"chart,? (?:version )?([\d.]+\d)", said)
    )
    assert charts == {LOCK["dagster"]}
    assert ray_documents()[0]["spec"]["rayVersion"] == LOCK["ray"]


def test_the_readme_creates_every_secret_that_kubernetes_needs() -> None:
    text = "".join((DEPLOY / "kubernetes" / name).read_text() for name in ("dagster-values.yaml", "raycluster.yaml"))
    asked = set(
        re.findall(r"(?:secretKeyRef: \{|secretRef: \{|- )name: (prunescope-\w+)|[sS]ecretName: (prunescope-\w+)", text)
    )
    made = set(re.findall(r"create secret generic ([\w-]+)", (DEPLOY / "README.md").read_text()))
    assert {name for pair in asked for name in pair if name} == made
