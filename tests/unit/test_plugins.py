"""Tests plug-ins: only code that a person named is loaded, an error in a plug-in gives one
sentence, and everything else still works. The example in docs is run from a folder outside the
repository.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from robustviz import contracts, plugins, registry, trusted
from robustviz.methods.base import check_terms
from robustviz.runs import folder, worker
from robustviz.training.config import TrainConfig
from robustviz.types import UserError

pytestmark = pytest.mark.usefixtures("runs_home", "unplugged")

REPOSITORY = Path(__file__).resolve().parents[2]
EXAMPLE = REPOSITORY / "docs" / "plugin_example.py"
HEAD = """
from dataclasses import dataclass
import torch
from robustviz import plugins
from robustviz.attacks import FGSM, PGD, Attack
from robustviz.methods.base import Adversarial, Method
from robustviz.methods.pgd_at import PGDAT
from robustviz.registry import option, register
"""
MINE = f"""{HEAD}
@register("method/mine")
@dataclass(frozen=True)
class Mine(PGDAT):
    label, paper, text = "Mine", "none", "As PGD-AT."

@plugins.page("mine", "Mine", "What is mine?")
def page():
    pass

@plugins.figure("mine")
def curve(results):
    pass

def make():
    return 42
"""


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def test_a_file_brings_what_it_registers_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    file = write(tmp_path / "a" / "mine.py", MINE)
    plugin = plugins.use(file)
    assert plugin.things == ("method/mine", "page/mine") and plugin.source == str(file)
    assert registry.keys("method")[-1] == "mine"
    assert [page.title for page in plugins.pages()] == ["Mine"]
    assert plugins.figures()["mine"].__name__ == "curve"
    with pytest.raises(UserError, match="has changed: its SHA-256 is not 00"):
        plugins.use(file, sha256="00")
    assert plugins.use(file, sha256=plugin.sha256) is plugin and plugins.loaded().count(plugin) == 1
    assert plugins.resolve(f"{file}:make")() == 42
    config = TrainConfig(method="mine")  # type: ignore[arg-type]
    assert plugins.needed(config) == [{"source": str(file), "sha256": plugin.sha256}]
    assert plugins.needed(TrainConfig()) == []
    made = TrainConfig(data=f"made:{file}:make", method="mine")  # type: ignore[arg-type]
    assert plugins.needed(made) == plugins.needed(config)
    assert [each.name for each in file.parent.iterdir()] == ["mine.py"]


def test_a_folder_and_a_module_may_have_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "plugin_parts" / "__init__.py", "from . import inner\n")
    write(tmp_path / "plugin_parts" / "inner.py", MINE)
    by_path = plugins.use(tmp_path / "plugin_parts")
    assert by_path.things == ("method/mine", "page/mine")
    before = by_path.sha256
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(UserError, match="method/mine is registered already"):
        plugins.use("plugin_parts")  # The same names registered a second time.
    write(tmp_path / "plugin_parts" / "inner.py", f"{MINE}#")
    assert trusted.sha256(tmp_path / "plugin_parts") != before
    with pytest.raises(UserError, match="has changed since it was loaded: restart robustviz"):
        plugins.use(tmp_path / "plugin_parts")


WRONG = {
    "raises": ("x = 1\n1 / 0", "ZeroDivisionError in line 2: division by zero"),
    "ends": ("import sys\nsys.exit(3)", "SystemExit in line 2: 3"),
    "syntax": ("def f(:", "SyntaxError in line 1: invalid syntax"),
    "package": ("import no_such_package", "the package no_such_package, which is not installed"),
    "taken": (
        f'{HEAD}\n@register("method/trades")\n@dataclass(frozen=True)\nclass TRADES(PGDAT):\n'
        '    label, paper, text = "a", "b", "c"',
        "method/trades is registered already, by robustviz.methods.trades.TRADES",
    ),
    "page": (
        f'{MINE}\n@plugins.page("attack", "Attack", "?")\ndef other(): pass',
        "page/attack exists already",
    ),
    "figure": (
        f'{MINE}\n@plugins.figure("adversarial")\ndef other(result): pass',
        "figure/adversarial exists already",
    ),
    "base": (
        f'{HEAD}\n@register("method/no")\n@dataclass(frozen=True)\nclass No:\n    x: int = 1',
        "must be a subclass of robustviz.methods.base.Method",
    ),
    "dataclass": (
        f'{HEAD}\n@register("attack/no")\nclass No(PGD):\n    label, text = "a", "b"',
        "is not a dataclass",
    ),
    "label": (
        f'{HEAD}\n@register("method/no")\n@dataclass(frozen=True)\nclass No(Method):\n    pass',
        "has no label and no paper and no text: write label = … and paper = … and text = … into",
    ),
    "attack": (
        f'{HEAD}\n@register("method/no")\n@dataclass(frozen=True)\nclass No(Adversarial):\n'
        '    label, paper, text = "a", "b", "c"',
        "has a field attack without a default",
    ),
    "default": (
        f'{HEAD}\n@register("method/no")\n@dataclass(frozen=True)\nclass No(PGDAT):\n'
        '    label, paper, text = "a", "b", "c"\n    beta: float = option(7.0, "?", high=1)',
        "beta=7 is out of range",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_plug_in_that_is_wrong_is_one_sentence_and_nothing_of_it_stays(
    case: str, tmp_path: Path
) -> None:
    text, sentence = WRONG[case]
    file = write(tmp_path / "wrong.py", text)
    before = {kind: registry.keys(kind) for kind in registry.ROOMS}
    with pytest.raises(UserError) as caught:
        plugins.use(file)
    assert sentence in str(caught.value) and str(file) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert {kind: registry.keys(kind) for kind in registry.ROOMS} == before
    assert not plugins.loaded() and not plugins.pages() and not plugins.figures()
    assert not [name for name in sys.modules if name.startswith("robustviz_plugin_wrong")]


@pytest.mark.parametrize("source", ["no.py", "no_module", "os", "a b", "../x/", "$(x)"])
def test_what_is_no_plug_in_is_one_sentence(source: str) -> None:
    with pytest.raises(UserError, match=r"not a plug-in|no module called"):
        plugins.use(source)


def test_what_a_run_names_is_loaded_only_where_a_person_named_it_and_it_is_the_same(
    tmp_path: Path,
) -> None:
    file = write(
        tmp_path / "mine.py",
        f"from pathlib import Path\nPath({str(tmp_path / 'ran')!r}).touch()\n{MINE}",
    )
    asked, source = {"asked_by": "The run x"}, f"{file}:make"
    with pytest.raises(UserError, match=r"The run x needs the plug-in .*not loaded here"):
        plugins.resolve(source, **asked)  # type: ignore[arg-type]
    assert not (tmp_path / "ran").exists()
    trusted.remember(file)
    write(file, f"{file.read_text()}# other code")
    with pytest.raises(UserError, match="has changed since it was named"):
        plugins.resolve(source, **asked)  # type: ignore[arg-type]
    assert not (tmp_path / "ran").exists()
    trusted.remember(file)
    assert plugins.resolve(source, **asked)() == 42  # type: ignore[arg-type]
    for strange in ("os:system", "subprocess:run", f"{tmp_path}/no.py:make", ":make", "x", "a:b c"):
        with pytest.raises(UserError):
            plugins.resolve(strange, **asked)  # type: ignore[arg-type]


def test_the_same_code_in_another_place_will_do(tmp_path: Path) -> None:
    file = write(tmp_path / "mine.py", MINE)
    entry = [{"source": "/home/somebody/mine.py", "sha256": trusted.sha256(file)}]
    assert "needs the plug-in /home/somebody/mine.py" in plugins.lacking(entry, "The run x")
    trusted.remember(file)
    assert plugins.lacking(entry, "The run x") == "" and len(plugins.loaded()) == 1
    assert (
        plugins.resolve("/home/somebody/mine.py:make", asked_by="x", sha256=entry[0]["sha256"])()
        == 42
    )
    assert plugins.changed(entry) == ""
    older = [{"source": str(file), "sha256": "0"}]
    assert "has changed since this run was made" in plugins.changed(older)


def test_what_was_named_before_is_loaded_and_what_cannot_be_stops_nobody(
    tmp_path: Path, runs_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    mine, gone = write(tmp_path / "mine.py", MINE), write(tmp_path / "gone.py", "")
    for each in (gone, mine):
        plugins.trust(each)
    gone.unlink()
    monkeypatch.setenv(plugins.VARIABLE, f"{tmp_path / 'no.py'}{os.pathsep} ")
    plugins.load_all(tell=said.append)
    assert [each.source for each in plugins.loaded()] == [str(mine)]
    assert len(said) == 2 and "no.py does not exist" in said[0] and "no longer exists" in said[1]
    broken = write(tmp_path / "broken.py", "1 / 0")
    plugins.trust(broken)
    plugins.load_all(tell=said.append)
    assert said[-1].endswith(f"To stop loading it: python -m robustviz plugins forget {broken}")
    trusted.forget(broken)
    trusted.forget(gone)
    assert list(trusted.every()) == [str(mine)]
    with pytest.raises(UserError, match="no remembered plug-in"):
        trusted.forget("other.py")
    for damaged in ("{", "[]", '{"plugins": [{"source": 1}]}', '{"plugins": 3}'):
        write(runs_home / ".plugins.json", damaged)
        said.clear()
        plugins.load_all(tell=said.append)
        assert "cannot be read: remove it" in said[-1]


def test_a_module_is_found_where_it_was_named_and_nowhere_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "there" / "plugin_module.py", MINE)
    with monkeypatch.context() as patch:
        patch.syspath_prepend(str(tmp_path / "there"))
        plugins.trust("plugin_module")
    monkeypatch.setattr(sys, "path", list(sys.path))
    plugins.load_all()  # As another command in another folder would do.
    assert [each.source for each in plugins.loaded()] == ["plugin_module"]
    plugins._drop(plugins._loaded.pop("plugin_module"))  # As a third command would do.
    write(tmp_path / "here" / "plugin_module.py", "1 / 0")
    monkeypatch.syspath_prepend(str(tmp_path / "here"))
    said: list[str] = []
    plugins.load_all(tell=said.append)
    assert "is now found at" in said[0] and not plugins.loaded()


def test_a_file_that_imports_one_beside_it_must_be_named_as_a_module(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    near = tmp_path / "near"
    write(near / "plugin_net.py", "def make():\n    return 42\n")
    write(near / "types.py", "1 / 0")  # never found by this name, because Python has its own
    write(near / "plugin_parts.py", "import os, types\n")
    file = write(near / "plugin_whole.py", "import os, types\nfrom plugin_net import make\n")
    said = (
        r"imports plugin_net, which lies beside it .*write plugin_whole instead of plugin_whole\.py"
    )
    with pytest.raises(UserError, match=said):
        plugins.use(file)  # as a run's plug-in that was named by an earlier version
    for inside in (False, True):  # from another folder, and from its own, where Python finds it
        if inside:
            monkeypatch.chdir(near)
            monkeypatch.syspath_prepend(str(near))
        with pytest.raises(UserError, match=said):
            plugins.take([str(file)])
        with pytest.raises(UserError, match=said):
            plugins.resolve(f"{file}:make")
        assert not plugins.loaded() and not trusted.every()
    for name in ("plugin-whole.py", "json.py", "2.py"):  # which are no module's names
        with pytest.raises(
            UserError, match=f"Rename {name}, for example to mine.py, and write mine"
        ):
            plugins.take([str(write(near / name, "import plugin_net\n"))])
        (near / name).unlink()
    plugins.take([str(near / "plugin_parts.py"), "plugin_whole"])
    assert plugins.resolve("plugin_whole:make")() == 42


@pytest.mark.parametrize(
    ("code", "near"),
    [
        ("from robustviz import register", "robustviz/__init__.py"),  # in the root of a checkout
        ("import io", "io/x.py"),
        ("import math, sys, zipimport", "math.py"),
        ("import plugin_log", "plugin_log/run.txt"),
        ("try:\n    import plugin_log\nexcept ImportError:\n    pass", "plugin_log/run.py"),
        ("if __name__ == '__main__':\n    import plugin_log", "plugin_log.py"),
        ("TYPE_CHECKING = False\nif TYPE_CHECKING:\n    import plugin_log", "plugin_log.py"),
        ("import torch.nn", "torch.py"),
        ("from . import plugin_log", "plugin_log.py"),
    ],
)
def test_a_file_that_is_found_from_everywhere_may_lie_beside_a_plug_in(
    code: str, near: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / near, "")
    file = write(tmp_path / "mine.py", code)
    assert not trusted.beside(file)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    assert not trusted.beside(file)


def test_a_neighbour_on_pythonpath_is_found_from_everywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "plugin_near" / "__init__.py", "")
    write(tmp_path / "plugin_bare" / "deep" / "a.py", "")  # a package without an __init__.py
    file = write(tmp_path / "mine.py", "import plugin_near.b\nfrom plugin_bare.deep import a")
    assert "imports plugin_bare, which" in trusted.beside(file)
    assert "imports plugin_near, which" in trusted.beside(file, "plugin_near")
    monkeypatch.chdir(tmp_path)
    # `python -m` puts the working folder before PYTHONPATH, which has it, too, through a link
    link = tmp_path.with_name(f"{tmp_path.name}-link")
    link.symlink_to(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    assert trusted.beside(file)
    monkeypatch.setattr(sys, "path", [sys.path[0], str(link), *sys.path[1:]])
    assert not trusted.beside(file)


def test_what_is_not_installed_is_not_blamed_on_a_neighbour(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "plugin_near.py", "")
    with pytest.raises(UserError, match="needs the package plugin_absent, which is not installed"):
        plugins.use(write(tmp_path / "mine.py", "import plugin_absent, plugin_near"))
    with pytest.raises(UserError, match="imports plugin_near, which lies beside it"):
        plugins.use(write(tmp_path / "other.py", "import plugin_near, plugin_absent"))


def test_an_installed_package_may_say_that_it_is_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "plugin_installed.py", MINE)
    about = tmp_path / "plugin_installed-1.dist-info"
    write(about / "METADATA", "Metadata-Version: 2.1\nName: plugin-installed\nVersion: 1\n")
    write(about / "entry_points.txt", "[robustviz.plugins]\nmine = plugin_installed\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    plugins.load_all()
    assert [each.source for each in plugins.loaded()] == ["plugin_installed"]


def test_a_run_says_what_it_is_made_of_and_what_is_missing(tmp_path: Path) -> None:
    file = write(tmp_path / "mine.py", MINE)
    plugin = plugins.use(file)
    run = folder.create(TrainConfig(method="mine"), name="made")  # type: ignore[arg-type]
    assert run.info["plugins"] == ({"source": str(file), "sha256": plugin.sha256},)
    assert not run.lacks and run.config.method.key == "mine"
    plugins._loaded.clear()
    plugins._drop(plugin)
    again = folder.Run(run.path)
    assert again.lacks.startswith("The run made needs the plug-in")
    with pytest.raises(UserError, match=r"--plugin .*mine\.py"):
        _ = again.config
    assert "made" in {each.id for each in folder.all_runs()}  # Lists still work.


BROKEN = f"""{HEAD}
from robustviz.data import Shapes
from robustviz.nets.base import Classifier

@register("attack/far")
@dataclass(frozen=True, kw_only=True)
class Far(FGSM):
    label, text = "Far", "Leaves the ball."
    def __call__(self, net, x, y, *, rng=None):
        return (super().__call__(net, x, y, rng=rng) + 0.2 * torch.rand_like(x)).clamp(0, 1)

@register("method/lost")
@dataclass(frozen=True)
class Lost(PGDAT):
    label, paper, text = "Lost", "none", "Weighs images by their place."
    def loss(self, net, batch, aux):
        weights = torch.arange(len(batch.y)).to(batch.x)
        each = torch.nn.functional.cross_entropy(net(batch.x), batch.y, reduction="none")
        with torch.no_grad():
            next(net.parameters()).mul_(1.01)
        return {{"ce": (weights * each).mean()}}
"""


@pytest.mark.parametrize(
    ("terms", "sentence"),
    [
        (torch.zeros(()), "must return a dictionary of named terms"),
        ({"ce": torch.zeros(3)}, r"The loss term ce has shape \(3,\) and must be one number"),
        ({"ce": 0.5}, "ce must be a tensor, so that it has a gradient, and is a float"),
    ],
)
def test_a_loss_that_returns_something_else_is_told_what_to_return(
    terms: object, sentence: str
) -> None:
    with pytest.raises(UserError, match=sentence):
        check_terms(terms)


def test_an_error_in_a_plug_in_s_code_is_told_with_its_line(tmp_path: Path) -> None:
    loss = "    def loss(self, net, batch, aux):\n        return 1 / 0\n"
    file = write(tmp_path / "mine.py", MINE.replace("\n@plugins.page", f"{loss}\n@plugins.page", 1))
    plugins.use(file)
    with pytest.raises(ZeroDivisionError) as caught:
        registry.get("method", "mine")().loss(None, None, None)
    run = folder.Run(tmp_path)
    said = worker._sentence(run, caught.value, worker.ALONE)
    at = file.read_text().splitlines().index("        return 1 / 0") + 1
    assert said.startswith(f"ZeroDivisionError in line {at} of {file}: division by zero.")
    assert "1 / 0" in (tmp_path / "log.txt").read_text()
    assert plugins.line_of(ValueError()) == ""


def test_contracts_find_what_is_broken(tmp_path: Path) -> None:
    plugins.use(write(tmp_path / "broken.py", BROKEN))
    for kind, key, says, sentence in (
        ("attack", "far", "lie in the ball", r"A change of 0\.\d+ is larger than 0\.1"),
        ("attack", "far", "The same seed gives", "draw from the rng given"),
        ("method", "lost", "The order within a batch", "depends on the order"),
        ("method", "lost", "leaves batch norm alone", "It attacks nothing"),
        (
            "method",
            "lost",
            "leaves the batch, the helper network",
            "The network's weights are changed",
        ),
    ):
        thing = next(iter(contracts.things(kind, key).values()))
        promise = next(each for each in contracts.promises(kind) if says in each.says)
        with pytest.raises(contracts.Broken, match=sentence):
            promise.check(thing)


@pytest.mark.long
@pytest.mark.timeout(900)
def test_the_example_works_from_a_folder_outside_the_repository(tmp_path: Path) -> None:
    """One file with a method, an attack, a network, a data set and a probe with figure and page is
    trained with here and by the worker, attacked, shown, and reported missing after it is deleted.
    """
    home, file = tmp_path / "runs", Path(shutil.copy(EXAMPLE, tmp_path / "mine.py"))
    (tmp_path / "elsewhere").mkdir()
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "ROBUSTVIZ_RUNS": str(home)}

    def python(*lines: str) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [sys.executable, "-c", "from robustviz import cli\n" + "\n".join(lines)],
            cwd=tmp_path / "elsewhere",
            env=environment,
            capture_output=True,
            text=True,
        )
        assert not done.returncode, done.stdout + done.stderr
        return done

    def command(words: str, status: int = 0) -> str:
        return f"assert cli.main({words.split()}) == {status}"

    data = "--data stripes --method half_at --set method.clean=0.3 --epochs 1 --device cpu"
    trained = json.loads(
        python(command(f"train --plugin ../mine.py {data} --name one --json")).stdout
    )
    assert trained["n"] == 200 and trained["clean_acc"] > 0.4
    kept = json.loads((home / "one" / "config.json").read_text())
    assert kept["plugins"] == [{"source": str(file), "sha256": trusted.sha256(file)}]
    # From here on no command names the plug-in: the worker processes of a sweep find it by
    # themselves.
    swept, evaluated, _, promises, *lines = python(
        command("sweep --data stripes --methods half_at --set epochs=1 --json"),
        command("evaluate one --attack top_pgd --set share=0.2 --n 50 --json"),
        command("probe one noise --set n=20 --out noise.csv --json"),
        command(f"contracts --plugin {file} --json"),
        PAGE,
    ).stdout.splitlines()
    assert json.loads(swept)[0]["state"] == "done" and json.loads(swept)[0]["n"] == 200
    assert json.loads(evaluated)["attack"]["share"] == 0.2
    assert (tmp_path / "elsewhere" / "noise.csv").read_text().startswith("eps,right,n\n0.0,")
    rows = json.loads(promises)
    assert len(rows) > 45 and all(row["kept"] for row in rows)
    assert lines[0] == "Does noise that nobody chose fool a network?" and lines[1] == "noise"
    assert "of 20 right untouched" in lines[2]
    file.unlink()
    said = python(command("evaluate one", 1), command("list runs --json"))
    assert "one needs a plug-in" in said.stderr
    listed = {row["id"]: row for row in json.loads(said.stdout)}
    assert "no longer exists" in listed["one"]["note"] and len(listed) > 20


PAGE = """
from robustviz import embedder, figures, open_run, plugins, probes
from robustviz.ui import server
from streamlit.testing.v1 import AppTest

plugins.load_all()
embedder.APP.start = lambda: None
app = AppTest.from_file(str(server.MAIN), default_timeout=240).run()
pages = app._registered_pages.items()
app._page_hash, page = next((key, page) for key, page in pages if page["url_pathname"] == "noise")
app.query_params["a"] = "one"
app.run()
assert not app.exception and not app.error, (app.exception, app.error)
print(app.title[0].value)
print(page["url_pathname"])
result = probes.noise(open_run("one"), probes.NoiseSpec(n=20))
print(figures.noise(result).layout.meta["sentence"])
"""
