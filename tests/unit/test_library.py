"""Tests what a user's editor and type checker see of the library."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import robustviz
from robustviz import figures, probes, views
from robustviz.imports import load
from robustviz.views.measure import Probe
from robustviz.views.result import ProbeSpec

REPOSITORY = Path(__file__).resolve().parents[2]
ROOMS = re.findall(
    r"\w+",
    "attacks cam data export figures inputs losses measures methods nets probes registry runs stats"
    " terms training types views doctor config presets callbacks",
)
PROGRAM = """
import robustviz
from robustviz import TrainConfig, attacks, figures, open_run, probes, train

run = open_run("a-run")
reveal_type(open_run)
reveal_type(train)
reveal_type(TrainConfig)
reveal_type(attacks.PGD)
reveal_type(probes.attention)
reveal_type(probes.attention(run))
reveal_type(probes.AttentionSpec)
reveal_type(run.config)
reveal_type(run.net())
reveal_type(run.evaluation())
reveal_type(robustviz.cam.grad_cam)
reveal_type(robustviz.losses.kl)
reveal_type(robustviz.nets.build)
reveal_type(robustviz.data.load)
reveal_type(robustviz.doctor.consult)
reveal_type(robustviz.evaluate(run))
reveal_type(robustviz.evaluate(run, attack="ladder"))
reveal_type(robustviz.train_run)
attacks.PGD("8/255")
robustviz.nonsense
"""


def mypy(program: Path) -> list[str]:
    """Returns mypy's messages about a program outside the repository."""
    command = [sys.executable, "-m", "mypy", "--config-file", str(REPOSITORY / "pyproject.toml")]
    command += ["--cache-dir", str(REPOSITORY / ".mypy_cache"), "--no-error-summary", program.name]
    environment = os.environ | {"MYPYPATH": str(REPOSITORY)}
    done = subprocess.run(
        command, cwd=program.parent, env=environment, capture_output=True, text=True
    )
    return [line for line in done.stdout.splitlines() if line.startswith(program.name)]


@pytest.mark.slow
@pytest.mark.timeout(900)  # The first time, before `make types`, mypy reads all of torch.
def test_a_user_s_type_checker_knows_every_name(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(PROGRAM)
    said = mypy(tmp_path / "program.py")
    revealed = [line.split('"', 1)[1] for line in said if "Revealed type" in line]
    assert len(revealed) == PROGRAM.count("reveal_type(")
    assert not [line for line in revealed if re.search(r"\bAny\b", line)]
    assert "robustviz.runs.folder.Run" in revealed[0]
    assert "robustviz.views.attention.result.Attention" in revealed[5]
    assert [line.rpartition(".")[2].strip('"') for line in revealed[-3:-1]] == [
        "Evaluation",
        "Ladder",
    ]
    errors = "\n".join(line for line in said if ": error: " in line)
    assert 'Too many positional arguments for "PGD"' in errors
    assert 'has no attribute "nonsense"' in errors


@pytest.mark.parametrize("room", ROOMS)
def test_every_room_is_reached_from_the_package(room: str) -> None:
    assert getattr(robustviz, room).__name__.startswith("robustviz.")
    assert room in dir(robustviz)


@pytest.mark.parametrize("name", robustviz.__all__)
def test_a_function_of_the_package_stays_one_once_its_module_is_imported(name: str) -> None:
    """A module with the same name would replace the function on the package."""
    found = getattr(robustviz, name)
    load(found.__module__)
    assert callable(found) and getattr(robustviz, name) is found


def test_the_package_says_which_types_it_has() -> None:
    assert (Path(robustviz.__file__).parent / "py.typed").is_file()


def test_a_name_that_is_nowhere_is_an_attribute_error() -> None:
    for module in (robustviz, probes, figures):
        for name in ("nonsense", "_hidden", "__wrapped__"):
            with pytest.raises(AttributeError, match=f"has no attribute '{name}'"):
                getattr(module, name)


def test_the_faces_name_every_probe_and_spec_of_every_question() -> None:
    """`probes` names them so that editors know them. Names it lacks can still be found, but without
    a type.
    """
    for name in (*views.modules("probe"), *views.modules("result")):
        for key, value in vars(load(name)).items():
            spec = isinstance(value, type) and issubclass(value, ProbeSpec) and "key" in vars(value)
            if isinstance(value, Probe) or spec:
                assert vars(probes)[key] is value
