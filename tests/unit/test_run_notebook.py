"""Tests a run's notebook: executed in another folder with another folder of runs, it prints the
numbers of the run. The runs are an ordinary one, one on own pictures, an imported network, and one
that needs a user's code.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import pytest
import torch
from nbclient import NotebookClient
from PIL import Image

import robustviz
from robustviz import cli, plugins
from robustviz.export import notebook
from robustviz.runs import folder
from robustviz.training.config import TrainConfig
from robustviz.types import UserError

ROOT = Path(__file__).resolve().parents[2]
ID = "digits-pgd-at-small-resnet-s0-0c56e5c2"
OWN = '''
"""A method of somebody's own: PGD-AT under another name."""
from dataclasses import dataclass
from robustviz.methods import PGDAT
from robustviz.registry import register

@register("method/mine")
@dataclass(frozen=True)
class Mine(PGDAT):
    """Mine."""
    label = "Mine"
'''
ATTACK = """
from dataclasses import dataclass
from robustviz.attacks import PGD
from robustviz.registry import register

@register("attack/mine_pgd")
@dataclass(frozen=True, kw_only=True)
class Mine(PGD):
    label = "Mine"
"""
NET = """
from torch import nn

def make():
    return nn.Sequential(
        nn.Conv2d(1, 6, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(6, 10),
    )
"""


def read(content: bytes) -> Any:
    made = nbformat.reads(content.decode(), as_version=4)
    nbformat.validate(made)
    return made


def code(made: Any) -> list[str]:
    return [str(cell.source) for cell in made.cells if cell.cell_type == "code"]


def test_it_is_a_notebook_whose_cells_are_python_and_say_what_was_recorded(runs_home):
    run = folder.open_run(ID)
    made = read(notebook(run))
    assert "zhang" not in (text := made.cells[-1].source) and "madry2018towards" in text
    cells = code(made)
    for cell in cells:
        compile(cell, "cell", "exec")
    names: dict[str, Any] = {}
    exec(cells[2].partition("\nfor one")[0], names)
    recorded = {
        (json.dumps(each["attack"]), each["n"], each["robust_k"]) for each in names["RECORDED"]
    }
    assert recorded == {
        (json.dumps(each.attack), each.n, each.robust_k) for each in run.evaluations()
    }
    exec(cells[1].partition("\nMADE_WITH")[0], names)
    assert TrainConfig.from_json(names["settings"]).run_id == run.config.run_id


def test_one_evaluation_is_not_called_several(runs_home):
    place = runs_home / "other"
    shutil.copytree(folder.open_run(ID).path, place)
    path = place / "eval.json"
    said = json.loads(path.read_text(encoding="utf-8"))
    assert " evaluations took " in read(notebook(folder.open_run(place))).cells[0].source
    said["evaluations"] = said["evaluations"][:1]
    path.write_text(json.dumps(said), encoding="utf-8")
    assert " Its evaluation took " in read(notebook(folder.open_run(place))).cells[0].source


def test_a_name_that_somebody_gave_makes_no_cell_and_no_picture(runs_home):
    place = runs_home / "other"
    shutil.copytree(folder.open_run(ID).path, place)
    path = place / "config.json"
    said = json.loads(path.read_text(encoding="utf-8"))
    said["label"] = "![x](http://evil.example/x.png)\n\n'); import os #"
    said["versions"] = {"torch": "'''; import os #"}
    path.write_text(json.dumps(said), encoding="utf-8")
    made = read(notebook(folder.open_run(place)))
    assert "![" not in made.cells[0].source and "://" not in made.cells[0].source
    for cell in code(made):
        assert "import os #" not in re.sub(r'"[^"\n]*"', "", cell)
        compile(cell, "cell", "exec")


def test_a_damaged_run_has_none_and_a_file_of_another_kind_is_refused(runs_home, capsys):
    place = runs_home / "broken"
    place.mkdir(parents=True)
    (place / "config.json").write_text("{", encoding="utf-8")
    with pytest.raises(UserError, match="damaged"):
        notebook(folder.Run(place))
    assert cli.main(["notebook", ID, "--out", "x.py"]) == 2
    assert "ends in .ipynb" in capsys.readouterr().err


def test_the_command_writes_it_where_it_is_asked_to(runs_home, tmp_path, capsys):
    out = tmp_path / "again.ipynb"
    assert cli.main(["notebook", ID, "--out", str(out), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["out"] == str(out)
    assert out.read_bytes() == notebook(folder.open_run(ID))


# The remaining notebooks are executed, each in its own kernel.


def executed(run: folder.Run, where: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Executes the run's notebook in an empty folder with an empty folder of runs, and returns
    everything it prints.
    """
    made = read(notebook(run))
    where.mkdir()
    monkeypatch.setenv("ROBUSTVIZ_RUNS", str(where / "home"))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    resources = {"metadata": {"path": str(where)}}
    NotebookClient(made, timeout=280, resources=resources).execute()
    return "".join(
        output.get("text", "")
        for cell in made.cells
        if cell.cell_type == "code"
        for output in cell.outputs
    )


def usual(**given: Any) -> TrainConfig:
    """Returns the config of a training that takes seconds."""
    settings = {"data": "digits", "method": "fgsm_rs", "net": "small_cnn", "n_train": 128}
    settings |= {"epochs": 1, "threads": 1, "device": "cpu", "test_n": 40}
    return TrainConfig(**settings | given)


def ordinary(place: Path) -> folder.Run:
    return robustviz.train_run(usual())


def pictures(place: Path) -> folder.Run:
    """Trains on a folder of pictures, as an upload leaves it."""
    rng = np.random.default_rng(0)
    for at, name in enumerate(("paw", "狐")):
        (place / "pictures" / name).mkdir(parents=True)
        for number in range(40):
            pixels = rng.integers(90 * at, 90 * at + 120, (12, 12, 3)).astype(np.uint8)
            Image.fromarray(pixels).save(place / "pictures" / name / f"{number}.png")
    source = robustviz.data.own.add(
        "pets", robustviz.data.Folder(path=str(place / "pictures"), size=12)
    ).source
    return robustviz.train_run(usual(data=source, n_train=0, test_n=0))


def imported(place: Path) -> folder.Run:
    """Imports a network and evaluates it."""
    (place / "net_of_mine.py").write_text(NET, encoding="utf-8")
    torch.manual_seed(0)
    model = f"{place / 'net_of_mine.py'}:make"
    net = plugins.resolve(model)()
    run = robustviz.import_run(net, data="digits", name="elsewhere", model=model, n=60)
    robustviz.training.evaluate.evaluate(run, n=40)
    return run


def plug_in(place: Path) -> folder.Run:
    """Trains with a method from a file outside the repository."""
    (place / "method_of_mine.py").write_text(OWN, encoding="utf-8")
    plugins.take([str(place / "method_of_mine.py")])
    return robustviz.train_run(usual(method="mine"))


@pytest.mark.usefixtures("unplugged")
def test_the_code_of_an_attack_of_ones_own_is_loaded(tmp_path, monkeypatch):
    file = tmp_path / "attack_of_mine.py"
    file.write_text(ATTACK, encoding="utf-8")
    plugins.take([str(file)])
    run = folder.open_run(ID)
    one = dataclasses.replace(run.evaluations()[0], attack={"key": "mine_pgd"})
    monkeypatch.setattr(folder.Run, "evaluations", lambda self: [one])
    assert str(file) in next(cell for cell in code(read(notebook(run))) if "plugins.use" in cell)


@pytest.mark.slow
@pytest.mark.usefixtures("unplugged")
@pytest.mark.parametrize("make", [ordinary, pictures, imported, plug_in])
def test_executed_elsewhere_it_prints_the_same_numbers(
    make: Callable[[Path], folder.Run], tmp_path, runs_home, monkeypatch
):
    place = tmp_path / "sources"
    place.mkdir()
    run = make(place)
    (test,) = run.evaluations()
    said = executed(run, tmp_path / "elsewhere", monkeypatch)
    assert (
        f"of {test.n} images {test.clean_k} right untouched, {test.robust_k} attacked; recorded"
        f" {test.clean_k} and {test.robust_k}: the same\n"
    ) in said
    assert make is imported or "The weights are the same, bit for bit." in said
    assert "here, " not in said  # The notebook would print this for a package of another version.
    assert os.environ["ROBUSTVIZ_RUNS"] != str(run.path.parent)


@pytest.mark.slow
@pytest.mark.usefixtures("unplugged")
def test_code_that_was_changed_since_is_not_run(tmp_path, runs_home, monkeypatch):
    place = tmp_path / "sources"
    place.mkdir()
    run = plug_in(place)
    with (place / "method_of_mine.py").open("a", encoding="utf-8") as file:
        file.write("\n# another version\n")
    with pytest.raises(Exception, match=r"has changed: its SHA-256 is not [0-9a-f]{64}"):
        executed(run, tmp_path / "elsewhere", monkeypatch)
