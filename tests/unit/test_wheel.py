"""Tests the wheel: it contains everything that is shipped, and an installed copy works, also with
the user's folder of runs.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from robustviz import paths

pytestmark = pytest.mark.long
RUN = "digits-pgd-at-small-resnet-s0-0c56e5c2"
PARTS = ("robustviz", "pages", ".streamlit", "app.py", "setup.py", "pyproject.toml", "MANIFEST.in")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Builds the wheel from a copy of the repository, because a build leaves folders behind."""
    copy, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in (*PARTS, "README.md", "LICENSE"):
        source = paths.ROOT / name
        (shutil.copytree if source.is_dir() else shutil.copy)(source, copy / name)
    (copy / "checkpoints").symlink_to(paths.ROOT / "checkpoints", target_is_directory=True)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-index"]
    command += ["--no-build-isolation", "--wheel-dir", str(out), "."]
    done = subprocess.run(command, cwd=copy, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return next(out.glob("*.whl"))


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Unpacks the wheel and returns the folder."""
    place = tmp_path_factory.mktemp("installed")
    with zipfile.ZipFile(wheel) as file:
        file.extractall(place)
    return place


def python(installed: Path, home: Path, *words: str) -> str:
    """Runs Python with the installed copy instead of this checkout, and returns what it prints."""
    own = {"PYTHONPATH": str(installed), "XDG_DATA_HOME": str(home), "LOCALAPPDATA": str(home)}
    own |= {"HOME": str(home)}
    environment = {
        name: value
        for name, value in os.environ.items()
        if name not in ("ROBUSTVIZ_RUNS", "ROBUSTVIZ_DATA")
    }
    done = subprocess.run(
        [sys.executable, *words], cwd=home, env=environment | own, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_wheel_holds_the_networks_the_pages_and_the_types(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    shipped = {name.removeprefix("robustviz/shipped/") for name in names if "/shipped/" in name}
    listed = (paths.ROOT / "checkpoints" / "SHA256SUMS").read_text(encoding="utf-8").splitlines()
    every = {f"checkpoints/{line.split('  ', 1)[1]}" for line in listed}
    real = {name for name in every if name.startswith("checkpoints/zoo/cifar10-")}
    assert real and every - real <= shipped and not real & shipped
    assert {f"pages/{page.name}" for page in (paths.ROOT / "pages").glob("*.py")} <= shipped
    assert {"app.py", ".streamlit/config.toml", "checkpoints/SHA256SUMS"} <= shipped
    assert not [name for name in shipped if "checkpoints/runs" in name or "__pycache__" in name]
    assert {"robustviz/py.typed", "robustviz/cli/train.py"} <= names
    claims = [file for file in (paths.ROOT / "checkpoints/claims").rglob("*") if file.is_file()]
    assert {file.relative_to(paths.ROOT).as_posix() for file in claims} <= shipped
    # 26.6 MB with the budget family and the films; the limit for checkpoints is 40 MB.
    assert wheel.stat().st_size < 30_000_000


def test_an_installed_copy_measures_a_shipped_network(installed: Path, tmp_path: Path) -> None:
    robustviz = ("-m", "robustviz")
    assert python(installed, tmp_path, *robustviz, "--version") == "robustviz 0.1.0\n"
    told = "from robustviz.check import verify_hashes; print(verify_hashes())"
    assert python(installed, tmp_path, "-c", told) == "[]\n"
    runs = json.loads(python(installed, tmp_path, *robustviz, "list", "runs", "--json"))
    assert RUN in {row["id"] for row in runs}
    assert all(Path(row["path"]).is_relative_to(installed.resolve()) for row in runs)
    out = str(tmp_path / "x.npz")
    asked = ("probe", RUN, "adversarial", "--out", out, "--json")
    assert json.loads(python(installed, tmp_path, *robustviz, *asked))["out"] == out
    assert Path(out).stat().st_size


@pytest.mark.skipif(sys.platform not in ("linux", "win32"), reason="macOS has its own folder")
def test_an_installed_copy_leaves_runs_with_the_user(installed: Path, tmp_path: Path) -> None:
    code = "from robustviz import data; from robustviz.runs import folder; "
    code += "print(folder.home()); print(data.root())"
    homes = python(installed, tmp_path, "-c", code).split("\n")[:2]
    assert homes == [str(tmp_path / "robustviz" / name) for name in ("runs", "data")]


def test_the_pages_of_an_installed_copy_open(installed: Path, tmp_path: Path) -> None:
    code = """
from streamlit.testing.v1 import AppTest
from robustviz import embedder, paths
from robustviz.ui import server
embedder.APP.start = lambda: None
app = AppTest.from_file(str(server.MAIN), default_timeout=240).run()
assert not app.exception, app.exception
app.switch_page(str(paths.ROOT / "pages" / "glossary.py")).run()
assert not app.exception, app.exception
print(app.title[0].value)
"""
    assert python(installed, tmp_path, "-c", code) == "What do the words mean?\n"


@pytest.mark.parametrize(
    ("system", "environment", "expected"),
    [
        ("linux", {"XDG_DATA_HOME": "/x"}, "/x/robustviz/runs"),
        ("linux", {}, "~/.local/share/robustviz/runs"),
        ("darwin", {"XDG_DATA_HOME": "/x"}, "~/Library/Application Support/robustviz/runs"),
        ("win32", {"LOCALAPPDATA": "/local"}, "/local/robustviz/runs"),
        ("linux", {"ROBUSTVIZ_RUNS": "~/mine", "XDG_DATA_HOME": "/x"}, "~/mine"),
    ],
)
def test_each_system_has_its_folder_for_what_the_user_makes(
    monkeypatch: pytest.MonkeyPatch, system: str, environment: dict[str, str], expected: str
) -> None:
    for name in ("XDG_DATA_HOME", "LOCALAPPDATA", "ROBUSTVIZ_RUNS"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "platform", system)
    monkeypatch.setattr(paths, "CHECKOUT", False)
    place = paths.users("runs", "ROBUSTVIZ_RUNS", "checkpoints/runs")
    assert place == Path(expected).expanduser()
