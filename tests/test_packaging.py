"""What is installed: pins that hold and name no address, a complete wheel, never two rivals at once."""

import json
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

import service
from models.bundle import Bundle
from service.installation import (
    RIVALS,
    ConflictingInstall,
    IncompleteInstall,
    check_installation,
    is_installed,
)

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ["momoseek", "service", "models", "index"]
SETS = ["cpu", "gpu", "dev"]


def pins(name: str) -> dict[str, list[str]]:
    """Pinned versions of every distribution in requirements/<name>.txt; markers can give one several."""
    found: dict[str, list[str]] = {}
    for line in (ROOT / f"requirements/{name}.txt").read_text().splitlines():
        if match := re.match(r"([a-z0-9.-]+)==(\S+)", line):
            found.setdefault(match[1], []).append(match[2])
    return found


@pytest.fixture(scope="module")
def pyproject() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


@pytest.mark.parametrize("name", SETS)
def test_every_requirement_is_pinned_with_hashes_and_names_no_address(name: str) -> None:
    text = (ROOT / f"requirements/{name}.txt").read_text()
    entries = [entry for entry in re.split(r"\n(?=\S)", text.strip()) if entry]
    assert len(entries) > 30
    assert [entry for entry in entries if not re.match(r"\S+==\S+ .*--hash=sha256:", entry, re.DOTALL)] == []
    assert "://" not in text


@pytest.mark.parametrize("name", SETS)
def test_no_pinned_set_brings_torch(name: str) -> None:
    assert not [dist for dist in pins(name) if dist.startswith("torch")]


def test_pins_cover_what_the_project_asks_for(pyproject: dict[str, Any]) -> None:
    extras = pyproject["project"]["optional-dependencies"]
    asked = {"cpu": extras["cpu"], "gpu": extras["gpu"], "dev": extras["cpu"] + extras["dev"]}
    for name, extra in asked.items():
        names = {re.split(r"[\[<>=]", line)[0] for line in pyproject["project"]["dependencies"] + extra}
        assert names <= set(pins(name)), (
            f"run `make requirements`: {names - set(pins(name))} missing in {name}"
        )


def test_the_serving_environment_is_part_of_the_development_one() -> None:
    assert pins("cpu").items() <= pins("dev").items()


def test_onnxruntime_stays_below_the_release_that_reports_usage_by_default() -> None:
    for name, dist in [("cpu", "onnxruntime"), ("gpu", "onnxruntime-gpu")]:
        major, minor = map(int, pins(name)[dist][0].split(".")[:2])
        assert (major, minor) < (1, 29)


def test_extras_that_overwrite_one_another_are_declared_in_conflict(pyproject: dict[str, Any]) -> None:
    extras = pyproject["project"]["optional-dependencies"]
    conflicts = [{side["extra"] for side in pair} for pair in pyproject["tool"]["uv"]["conflicts"]]
    for builds in RIVALS.values():
        bringing = {
            extra
            for extra, lines in extras.items()
            if {re.split(r"[\[<>=]", line)[0] for line in lines} & set(builds)
        }
        assert any(bringing <= conflict for conflict in conflicts)


def test_this_very_environment_passes_the_check() -> None:
    check_installation()
    assert is_installed("numpy")
    assert not is_installed("no-such-distribution")


@pytest.mark.parametrize(
    ("installed", "named"),
    [
        ({"onnxruntime", "onnxruntime-gpu", "faiss-cpu"}, ["onnxruntime", "onnxruntime-gpu"]),
        ({"onnxruntime", "faiss-cpu", "faiss-gpu"}, ["faiss-cpu", "faiss-gpu"]),
    ],
)
def test_a_double_install_is_refused_and_the_remedy_names_both(installed: set[str], named: list[str]) -> None:
    with pytest.raises(ConflictingInstall) as refused:
        check_installation(installed.__contains__)
    assert f"pip uninstall -y {' '.join(named)} " in str(refused.value)


def test_an_install_without_an_extra_says_which_to_choose() -> None:
    with pytest.raises(IncompleteInstall, match=r"FAISS.*momoseek\[cpu\]"):
        check_installation({"onnxruntime"}.__contains__)


@pytest.mark.slow
def test_the_wheel_carries_the_bundle_the_page_the_gallery_and_the_types(tmp_path: Path) -> None:
    source = tmp_path / "source"
    for folder in PACKAGES:
        shutil.copytree(ROOT / folder, source / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for file in ("pyproject.toml", "README.md", "LICENSE", "NOTICE"):
        shutil.copy(ROOT / file, source)
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "--no-index",
    ]
    subprocess.run([*command, "--wheel-dir", tmp_path, source], check=True, timeout=300)
    wheel = zipfile.ZipFile(next(tmp_path.glob("momoseek-*.whl")))
    packed = {name for name in wheel.namelist() if ".dist-info/" not in name}
    shipped = {
        path.relative_to(source).as_posix()
        for folder in PACKAGES
        for path in (source / folder).rglob("*")
        if path.is_file()
    }
    assert shipped - packed == {"service/gallery/build.py"}
    assert packed <= shipped
    assert "models/bundles/momo-mini/manifest.json" in packed
    assert "service/web/index.html" in packed
    assert {f"{folder}/py.typed" for folder in PACKAGES} <= packed  # or a checker sees no types of the client
    assert "service/gallery/pairs.jsonl" in packed


NAMED_IN_NOTICE = {
    "Apache-2.0": "Apache License 2.0",
    "MIT": "MIT License",
    "WordNet": "WordNet License",
    "GPL-2.0-or-later": "GNU General Public License, version 2 or later",
    "CC-PDDC": "public domain",
}


def test_notice_names_the_licence_of_every_weight_and_picture_that_ships() -> None:
    notice = (ROOT / "NOTICE").read_text()
    pictures = (ROOT / "service/gallery/pairs.jsonl").read_text().splitlines()
    parts = Bundle.open(Bundle.default_path()).manifest.licences
    licences = {json.loads(line)["license"] for line in pictures}
    licences |= {part.licence for part in parts if "not contained" not in part.part}
    assert "Apache-2.0" in licences
    assert {licence for licence in licences if NAMED_IN_NOTICE[licence] not in notice} == set()


def test_the_installed_version_is_the_one_that_the_service_reports() -> None:
    assert version("momoseek") == service.__version__
