"""Tests `robustviz.install`, by which `make app` installs: its messages, and which build of torch
it chooses.
"""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from robustviz import install
from robustviz.paths import ROOT


def wheel(folder: Path, name: str, version: str) -> None:
    """Writes a wheel with one line of code, as a package index would offer it."""
    info = f"{name}-{version}.dist-info"
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as file:
        file.writestr(f"{name}_of_a_test/__init__.py", f"version = {version!r}\n")
        file.writestr(
            f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
        )
        file.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        file.writestr(f"{info}/RECORD", "")


PINS = {"torch": "99.1.0", "torchvision": "9.1.0"}


def test_the_pins_of_torch_are_found_through_the_developers_file():
    pins = install.torch_pins(ROOT / "requirements-dev.txt")
    assert set(pins) == {"torch", "torchvision"}
    assert f"torch=={pins['torch']}\n" in (ROOT / "requirements.txt").read_text()


@pytest.mark.long
@pytest.mark.parametrize(
    ("offered", "taken"),
    [
        (
            {"torch": "99.1.0+cpu", "torchvision": "9.1.0+cpu"},
            ("torch==99.1.0+cpu", "torchvision==9.1.0+cpu"),
        ),
        (
            {"torch": "99.1.0+cpu", "torchvision": "9.1.0"},
            (),
        ),  # Without the matching torchvision the CPU build is of no use.
        ({"torch": "99.0.0+cpu", "torchvision": "9.1.0+cpu"}, ()),
        ({}, ()),
    ],
)
def test_the_cpu_build_is_taken_where_both_packages_have_one(tmp_path, offered, taken):
    for name, version in offered.items():
        wheel(tmp_path, name, version)
    assert install.cpu_pins(PINS, ["--no-index", "--find-links", str(tmp_path)]) == taken


@pytest.mark.long
@pytest.mark.parametrize("gpu", [False, True])
def test_a_machine_without_a_gpu_gets_the_cpu_build(tmp_path, gpu):
    """With a GPU, pip chooses the build itself; without one, the CPU build is installed and a
    message says so.
    """
    for name, version in PINS.items():
        wheel(tmp_path, name, version)
        wheel(tmp_path, name, f"{version}+cpu")
    (tmp_path / "wanted.txt").write_text("".join(f"{n}=={v}\n" for n, v in PINS.items()))
    script = (
        "import sys; from pathlib import Path; from robustviz import install\n"
        f"install.has_gpu = lambda: {gpu}; install.has_cuda_build = lambda: True\n"
        "sys.exit(install.install(Path('wanted.txt'), sys.argv[1:]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, "--no-index", "--find-links", ".", "--target", "into"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "into" / "torch_of_a_test").is_dir()
    assert ("PyTorch's CPU build is taken" in done.stdout) is not gpu
    assert "GB to download" in done.stdout


@pytest.mark.long
def test_what_is_installed_already_needs_no_index(tmp_path):
    """Without a network, a changed requirements file whose packages are all installed is no
    failure.
    """
    from importlib.metadata import version

    (tmp_path / "wanted.txt").write_text(f"torch=={version('torch').partition('+')[0]}\n")
    script = (
        "import sys; from pathlib import Path; from robustviz import install\n"
        "sys.exit(install.install(Path(sys.argv[1]), sys.argv[2:]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "wanted.txt"), "--no-index"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "GB to download" not in done.stdout


@pytest.mark.long
def test_too_little_room_is_said_before_anything_is_downloaded(tmp_path, monkeypatch, capsys):
    (tmp_path / "wanted.txt").write_text("torch==99.1.0\ntorchvision==9.1.0\n")
    monkeypatch.setattr(install.shutil, "disk_usage", lambda path: type("U", (), {"free": 10**9}))
    assert install.install(tmp_path / "wanted.txt", ["--no-index"]) == 1
    assert "1.0 GB free" in capsys.readouterr().err


def test_the_checkout_s_own_python_then_finds_robustviz_in_every_folder(tmp_path, monkeypatch):
    packages = tmp_path / "packages"
    packages.mkdir()
    monkeypatch.setattr(install.sys, "prefix", str(tmp_path / "elsewhere" / ".venv"))
    assert not install.place(packages, ROOT) and not list(packages.iterdir())
    monkeypatch.setattr(install.sys, "prefix", str(ROOT / "venv-of-a-test"))
    assert install.place(packages, ROOT)
    script = f"import site; site.addsitedir({str(packages)!r}); import robustviz.paths as p\n"
    done = subprocess.run(
        [sys.executable, "-S", "-c", f"{script}print(p.ROOT)"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.stdout.strip() == str(ROOT), done.stderr
