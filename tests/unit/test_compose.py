"""The properties of compose.yaml that a careless edit would lose, and Grafana's provisioning beside it."""

import json
import re
import tomllib
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

from app.cli import cli
from app.cli.database import ROLES
from app.settings import Settings

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "compose.yaml").read_text()
COMPOSE: dict[str, Any] = yaml.safe_load(TEXT)
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
GRAFANA = ROOT / "deploy" / "grafana"
LIBPQ = {"PGHOST", "PGPORT", "PGDATABASE", "PGUSER", "PGPASSWORD"}

each_service = pytest.mark.parametrize("name", SERVICES)
our_services = pytest.mark.parametrize("name", [name for name, service in SERVICES.items() if "build" in service])


@each_service
def test_service_runs_without_root_and_without_rights_to_become_it(name: str) -> None:
    service = SERVICES[name]
    assert service["user"].split(":")[0] not in ("", "0", "root")
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]


@each_service
def test_service_image_is_pinned(name: str) -> None:
    tag = SERVICES[name]["image"].rpartition(":")[2]
    assert re.match(r"\d+\.\d+\.\d+", tag)


@each_service
def test_service_that_stays_has_a_healthcheck_and_time_to_stop(name: str) -> None:
    service = SERVICES[name]
    if service["restart"] == "no":
        waiting = [other for other in SERVICES.values() if name in other.get("depends_on", {})]
        assert waiting
        for other in waiting:
            assert other["depends_on"][name]["condition"] == "service_completed_successfully"
    else:
        assert service["healthcheck"]["test"][0] == "CMD"
        assert service["stop_grace_period"]


@each_service
def test_service_ports_are_published_on_this_machine_alone(name: str) -> None:
    assert all(port.startswith("127.0.0.1:") for port in SERVICES[name].get("ports", []))


@each_service
def test_service_passwords_come_from_the_environment_and_have_no_default(name: str) -> None:
    secret = {key: value for key, value in SERVICES[name]["environment"].items() if "PASSWORD" in key}
    assert secret
    for value in secret.values():
        assert re.fullmatch(r"\$\{[A-Z_]+:\?[^}]+\}", value)


@our_services
def test_service_of_ours_calls_a_command_with_variables_that_exist(name: str) -> None:
    service = SERVICES[name]
    assert set(service["command"]) <= set(cli.commands)
    known = LIBPQ | {f"TICKWICK_{field.name.upper()}" for field in msgspec.structs.fields(Settings)}
    known |= {f"TICKWICK_{role.upper()}_PASSWORD" for role in ROLES}
    assert set(service["environment"]) <= known


@our_services
def test_service_of_ours_has_the_version_of_the_project(name: str) -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert SERVICES[name]["image"] == f"tickwick:{version}"


def test_services_connect_as_the_role_that_each_needs() -> None:
    users = {name: service["environment"].get("PGUSER") for name, service in SERVICES.items()}
    assert users | {"db": None, "grafana": None} == {
        "db": None,
        "migrate": "postgres",
        "ingest": "tickwick_writer",
        "app": "tickwick_app",
        "grafana": None,
    }


def test_env_example_names_what_compose_asks_for_and_no_value_of_a_secret() -> None:
    asked = set(re.findall(r"\$\{([A-Z_]+)", TEXT))
    lines = re.findall(r"^#?([A-Z_]+)=(.*)$", (ROOT / ".env.example").read_text(), re.MULTILINE)
    assert {name for name, _ in lines} == asked
    assert all(not value for name, value in lines if "PASSWORD" in name)
    defaults = dict(re.findall(r"\$\{([A-Z_]+):-([^}]*)\}", TEXT))
    assert {name: value for name, value in lines if value} == defaults


def test_grafana_reads_as_the_reader_from_the_database_of_compose() -> None:
    (source,) = yaml.safe_load((GRAFANA / "provisioning/datasources/tickwick.yaml").read_text())["datasources"]
    assert source["user"] == "tickwick_reader"
    assert source["url"] == "db:5432"
    assert source["jsonData"]["database"] == SERVICES["db"]["environment"]["POSTGRES_DB"]
    assert source["jsonData"]["timescaledb"] is True
    assert source["secureJsonData"]["password"] == "${TICKWICK_READER_PASSWORD}"


def test_dashboard_panels_query_the_provisioned_source_and_the_candles_have_their_columns() -> None:
    dashboard = json.loads((GRAFANA / "dashboards/market.json").read_text())
    (source,) = yaml.safe_load((GRAFANA / "provisioning/datasources/tickwick.yaml").read_text())["datasources"]
    wanted = {"type": source["type"], "uid": source["uid"]}
    for panel in dashboard["panels"]:
        assert panel["datasource"] == wanted
        assert all(target["datasource"] == wanted for target in panel["targets"])
    (candles,) = (panel for panel in dashboard["panels"] if panel["type"] == "candlestick")
    columns = re.match(r"SELECT time, (.+?) FROM market\.candles", candles["targets"][0]["rawSql"])
    assert columns
    assert columns[1].split(", ") == [*candles["options"]["fields"]]
