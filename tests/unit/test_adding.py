"""Tests that the examples in docs/adding.md work exactly as the page prints them."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
TEXT = (REPOSITORY / "docs" / "adding.md").read_text(encoding="utf-8")
# Each block of code belongs to the last path named before it. Where the page says "after X", the
# block is a line to insert after X.
PLACE = re.compile(r"`(robustviz/[a-z_/]+\.py)`(?:, after `([^`]+)`)?")
BLOCKS = [
    (*PLACE.findall(before)[-1], code)
    for before, code in re.findall(r"(.*?)```python\n(.*?)```", TEXT, re.DOTALL)
]
FILES = {name: code for name, before, code in BLOCKS if not before}
LINES = [block for block in BLOCKS if block[1]]
RUN = "digits-pgd-at-small-resnet-s0-0c56e5c2"

pytestmark = [pytest.mark.long, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns a copy of the repository with everything that the page adds."""
    copy = tmp_path_factory.mktemp("copy")
    litter = shutil.ignore_patterns("__pycache__")
    for name in ("robustviz", "pages", "tests/contracts"):
        shutil.copytree(REPOSITORY / name, copy / name, ignore=litter)
    for name in ("pyproject.toml", "tests/conftest.py"):
        shutil.copy(REPOSITORY / name, copy / name)
    (copy / "checkpoints").symlink_to(REPOSITORY / "checkpoints", target_is_directory=True)
    for name, content in FILES.items():
        (copy / name).parent.mkdir(exist_ok=True)
        (copy / name).write_text(content, encoding="utf-8")
    for name, before, line in LINES:
        old = (copy / name).read_text(encoding="utf-8")
        assert old.count(f"{before}\n") == 1, f"{before} is not in {name}"
        new = old.replace(f"{before}\n", f"{before}\n{line}")
        (copy / name).write_text(new, encoding="utf-8")
    return copy


def python(tree: Path, home: Path, *words: str) -> str:
    """Runs Python in the copy, with `home` as its folder of runs, and returns what it prints."""
    own = {"PYTHONPATH": str(tree), "ROBUSTVIZ_RUNS": str(home)}
    command = [sys.executable, *words]
    done = subprocess.run(command, cwd=tree, env=os.environ | own, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_a_view_is_one_folder_and_everything_else_one_file_and_each_one_line() -> None:
    folders = {Path(name).parent.as_posix() for name in FILES if "/views/" in name}
    assert folders == {"robustviz/views/noise"}
    others = [Path(name).parts[1] for name in FILES if "/views/" not in name]
    assert others == ["attacks", "methods", "nets", "data"]
    assert [Path(name).parts[1] for name, _, _ in LINES] == ["ui", *others]
    assert all(line.count("\n") == 1 for _, _, line in LINES)


def test_the_code_is_written_as_ours_is(tree: Path) -> None:
    changed = [*FILES, *(name for name, _, _ in LINES)]
    for command in (["check"], ["format", "--check"]):
        python(tree, tree, "-m", "ruff", *command, "--quiet", "--no-cache", *changed)


def test_a_view_is_a_probe_a_figure_a_command_and_a_page(tree: Path, tmp_path: Path) -> None:
    out = tmp_path / "noise.npz"
    words = ("probe", RUN, "noise", "--set", "n=20", "--out", str(out), "--json")
    said = json.loads(python(tree, tmp_path, "-m", "robustviz", *words))
    assert said["summary"].startswith("19 of 20 right untouched") and out.stat().st_size
    code = f"""
from robustviz import embedder, figures, open_run, probes
from robustviz.ui import server
from streamlit.testing.v1 import AppTest

result = probes.noise(open_run({RUN!r}), probes.NoiseSpec(n=20))
print(figures.noise(result).layout.meta["sentence"])
embedder.APP.start = lambda: None
app = AppTest.from_file(str(server.MAIN), default_timeout=240).run()
pages = app._registered_pages.items()
app._page_hash = next(key for key, page in pages if page["url_pathname"] == "noise")
app.run()
assert not app.exception and not app.error, (app.exception, app.error)
app.slider[0].set_value(1).run()
assert not app.exception and "1" in app.query_params["noise-seed"]
print(app.title[0].value)
print(*(element.value for element in app.markdown))
"""
    first, title, *rest = python(tree, tmp_path, "-c", code).splitlines()
    assert first.startswith("19 of 20 right untouched, ")
    assert title == "Does noise that nobody chose fool a network?"
    assert re.search(r"\*\*A .*\*\*: \d+ of 100 right untouched", " ".join(rest))


def test_attack_method_net_and_data_are_listed_trained_and_evaluated(
    tree: Path, tmp_path: Path
) -> None:
    train = re.findall(r"`python -m robustviz (train [^`]+)`", TEXT)[-1].split()
    train += ["--epochs", "2", "--device", "cpu", "--name", "all"]
    evaluate = ["evaluate", "all", "--attack", "top_pgd", "--set", "share=0.2", "--n", "50"]
    lists = [["list", kind] for kind in ("attacks", "methods", "nets", "data")]
    code = "from robustviz import cli\n"
    code += f"for words in {[*lists, train, evaluate]}: assert not cli.main([*words, '--json'])"
    *tables, trained, evaluation = map(json.loads, python(tree, tmp_path, "-c", code).splitlines())
    for key, rows in zip(("top_pgd", "mixed_at", "pocket_cnn", "stripes"), tables, strict=True):
        assert key in {row["key"] for row in rows}
    assert trained["n"] == 200 and trained["clean_acc"] > 0.5
    assert evaluation["attack"]["share"] == 0.2
    assert evaluation["robust_acc"] <= evaluation["clean_acc"]


def test_they_keep_every_promise_of_their_kind(tree: Path, tmp_path: Path) -> None:
    words = ("-m", "pytest", "-q", "tests/contracts", "-p", "no:cacheprovider")
    said = python(tree, tmp_path, *words, "-k", "top_pgd or mixed_at or pocket_cnn")
    assert int(re.search(r"(\d+) passed", said)[1]) > 40  # type: ignore[index]
