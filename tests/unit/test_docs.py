"""Tests README and docs: every link, path, name, make target and command in them exists, and the
site builds without a warning.
"""

from __future__ import annotations

import argparse
import importlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from robustviz import cli, paths

ROOT = paths.ROOT
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]
# These pages name files and names that the reader creates.
YOURS = ("docs/adding.md", "docs/plugins.md")
# Places that exist only after something was run, or that belong to the reader.
MADE = re.compile(r"checkpoints/runs|build/|data/$|\.venv|.*[<*…{]|.*\.\.")
TREES = "robustviz|pages|docs|tests|checkpoints|benchmarks|notebooks"


def texts() -> dict[str, str]:
    return {
        page.relative_to(ROOT).as_posix(): page.read_text(encoding="utf-8")
        for page in PAGES
        if page.name != "CHANGELOG.md"  # The changelog describes earlier versions.
    }


def test_every_link_leads_somewhere():
    lost = [
        f"{page}: {target}"
        for page, text in texts().items()
        for target in re.findall(r"\]\(([^)\s]+)\)", re.sub(r"(?s)```.*?```", "", text))
        if not re.match(r"https?:|#|mailto:|/", target)
        and not ((ROOT / page).parent / target.split("#")[0]).exists()
    ]
    assert lost == []


def test_every_path_in_code_exists():
    lost = [
        f"{page}: {path}"
        for page, text in texts().items()
        if page not in YOURS
        for path in re.findall(rf"`((?:{TREES})/[\w./<>*…{{}}-]+)`", text)
        if not MADE.match(path) and not (ROOT / path).exists()
    ]
    assert lost == []


def test_every_name_of_ours_can_be_imported():
    lost = []
    for page, text in texts().items():
        for name in set(re.findall(r"`(robustviz(?:\.\w+)+)(?:\(.*?\))?`", text)):
            if page not in YOURS and not found(name):
                lost.append(f"{page}: {name}")
    assert lost == []


def found(name: str) -> bool:
    parts = name.split(".")
    for cut in range(len(parts), 0, -1):
        try:
            thing: object = importlib.import_module(".".join(parts[:cut]))
        except ModuleNotFoundError:
            continue
        for part in parts[cut:]:
            if not hasattr(thing, part):
                return False
            thing = getattr(thing, part)
        return True
    return False


def test_every_make_target_exists():
    targets = set(re.findall(r"(?m)^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8")))
    lost = [
        f"{page}: make {target}"
        for page, text in texts().items()
        for target in re.findall(r"(?:`|^|\n)make ([a-z][a-z-]*)", text)
        if target not in targets
    ]
    assert lost == []


def commands() -> dict[str, argparse.ArgumentParser]:
    """Returns the parsers by the command that follows `python -m robustviz`, including commands of
    two words.
    """
    found: dict[str, argparse.ArgumentParser] = {}

    def walk(parser: argparse.ArgumentParser, before: str) -> None:
        for action in parser._actions:
            if isinstance(action, argparse._SubParsersAction):
                for name, child in action.choices.items():
                    found[f"{before}{name}"] = child
                    walk(child, f"{before}{name} ")

    walk(cli.parser(), "")
    return found


def test_every_command_exists_and_knows_its_flags():
    known = commands()
    lost = []
    for page, text in texts().items():
        for line in re.findall(r"python -m robustviz ([^\n`]*)", text.replace("\\\n", " ")):
            line = re.sub(r"\s#.*", "", line).split("; ")[0].split(" && ")[0]
            for words in line.split(" | "):
                first, *rest = words.split() or ["app"]
                if first.startswith(("…", "-", "COMMAND")) or "|" in first:
                    continue
                name = f"{first} {rest[0]}" if rest and f"{first} {rest[0]}" in known else first
                if name not in known:
                    lost.append(f"{page}: {words}")
                    continue
                flags = set(re.findall(r"(?<![\w-])(--[a-z][\w-]*)", words))
                options = {option for a in known[name]._actions for option in a.option_strings}
                lost += [f"{page}: {name} {flag}" for flag in sorted(flags - options)]
    assert lost == []


def test_the_readme_is_short():
    words = (ROOT / "README.md").read_text(encoding="utf-8").split()
    assert len(words) <= 1200


@pytest.mark.long
def test_the_site_builds_without_a_warning(tmp_path: Path):
    """In strict mode a warning, a broken internal link or a page missing from the menu is an
    error.
    """
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    page = (tmp_path / "site" / "reference.html").read_text(encoding="utf-8")
    assert "robustviz.runs.trained.train_run" in page
