"""What is installed and shipped: the lock, the versions, the packages' data."""

import json
import re
import tomllib
from importlib.resources import files
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).parents[2]
PYPROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())
LOCK = (ROOT / "requirements.lock").read_text()
MAKEFILE = (ROOT / "Makefile").read_text()


def pins() -> dict[str, str]:
    return dict(re.findall(r"^([a-z0-9-]+)==([^ ;\\]+)", LOCK, re.MULTILINE))


def uv_version() -> str:
    found = re.search(r"^UV_VERSION := (\S+)$", MAKEFILE, re.MULTILINE)
    assert found
    return found[1]


def test_lock_every_dependency_of_the_project_and_its_extras_is_pinned_within_its_range() -> None:
    project = PYPROJECT["project"]
    wanted = [
        *project["dependencies"],
        *(line for extra in project["optional-dependencies"].values() for line in extra),
    ]
    pinned = pins()
    for requirement in map(Requirement, wanted):
        version = pinned.get(requirement.name.lower())
        assert version, f"{requirement.name} is not in requirements.lock: run `make lock`"
        assert requirement.specifier.contains(version, prereleases=True), f"{requirement} but {version} is locked"


def test_lock_every_package_has_hashes_and_none_comes_from_elsewhere_than_the_index() -> None:
    blocks = re.split(r"^(?=[a-z0-9])", LOCK, flags=re.MULTILINE)[1:]
    assert len(blocks) == len(pins())
    assert all("--hash=sha256:" in block for block in blocks)
    assert not re.search(r"://|^-|\bfile:|find-links|^\s*/", LOCK, re.MULTILINE)


def test_uv_pinned_version_is_the_same_everywhere_and_brings_the_build_backend() -> None:
    dockerfile = (ROOT / "deploy" / "Dockerfile").read_text()
    assert f"ARG UV_VERSION={uv_version()}\n" in dockerfile
    (backend,) = map(Requirement, PYPROJECT["build-system"]["requires"])
    assert backend.name == "uv_build"
    assert backend.specifier.contains(Version(uv_version()))


def test_version_is_the_same_in_the_project_and_the_page() -> None:
    page = json.loads((ROOT / "app" / "web" / "package.json").read_text())
    assert page["version"] == PYPROJECT["project"]["version"]


def test_packages_each_top_level_package_is_shipped_with_its_sql() -> None:
    shipped = set(PYPROJECT["tool"]["uv"]["build-backend"]["module-name"])
    assert shipped == {path.parent.name for path in ROOT.glob("*/__init__.py")} - {"tests"}
    assert [file for file in (files("sql") / "migrations").iterdir() if file.name.endswith(".sql")]


def test_makefile_every_target_that_people_call_says_what_it_does() -> None:
    phony = re.search(r"^\.PHONY: (.+)$", MAKEFILE, re.MULTILINE)
    assert phony
    described = set(re.findall(r"^([a-z]+):.*## ", MAKEFILE, re.MULTILINE))
    assert described == set(phony[1].split())
