"""Tests docs/two-hours.md: each address in it opens the page it names with the settings it states,
and its numbers are those of the stored runs.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

import numpy as np
import pytest
from streamlit.testing.v1 import AppTest

from robustviz.claims import study as claims
from robustviz.cli import main, seeds as over_seeds
from robustviz.training.config import TrainConfig
from robustviz.ui import networks
from robustviz.views.budget.result import family
from robustviz.views.tour import background
from robustviz.views.tour.steps import DATA, steps
from tests.pages.conftest import sound

SHEET = (Path(__file__).resolve().parents[2] / "docs" / "two-hours.md").read_text("utf-8")
LINKS = sorted(set(re.findall(r"`(/[a-z_]*(?:\?[^`\s]*)?)`", SHEET)))
TITLES: dict[str, str] = {}  # The titles of pages opened so far.


def test_the_sheet_has_a_link_for_each_part() -> None:
    assert len(LINKS) >= 10
    assert {"", "tour", "attack", "features", "compare", "claims"} <= {page_of(x) for x in LINKS}


def page_of(link: str) -> str:
    return urlsplit(link).path.strip("/")


@pytest.mark.parametrize("link", LINKS)
def test_a_link_opens_its_page_with_what_it_says(link: str, visit: Callable[..., AppTest]) -> None:
    name, address = page_of(link), dict(parse_qsl(urlsplit(link).query))
    app = sound(visit(name, **address))
    assert not app.error, [each.value for each in app.error]
    title = app.title[0].value
    assert TITLES.setdefault(name, title) == title
    assert len(set(TITLES.values())) == len(TITLES), "two pages with one title"
    for key, value in address.items():
        assert str(app.session_state[key]) == value, f"{key} was not taken"


def table(first: str) -> list[list[str]]:
    """Returns the rows of the sheet's table whose first column has this heading."""
    lines = SHEET[SHEET.index(f"| {first} |") :].split("\n\n")[0].splitlines()[2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_the_spread_over_seeds_is_what_report_prints(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", "--seeds", "--json"]) == 0
    known = {
        (row["data"], row["method"], row["eps"]): row
        for row in json.loads(capsys.readouterr().out)
        if row["net"] == "small_resnet" and not row["settings"]
    }
    rows = table("data")
    assert len(rows) == 8
    for data, method, eps, seeds, clean, attacked in rows:
        level = radius(eps)
        row = next(
            each
            for key, each in known.items()
            if key[:2] == (data, method) and abs(key[2] - level) < 1e-9
        )
        assert int(seeds) == row["clean"]["seeds"]
        for text, name in ((clean, "clean"), (attacked, "PGD-20")):
            mean, sd = (100 * row[name][part] for part in ("mean", "sd"))
            assert text == f"{nearest(mean)} ± {nearest(sd)}", (data, method, eps)


def test_what_is_said_of_single_seeds_and_of_the_budget_page_is_measured() -> None:
    robust = {
        each.config.seed: 100 * over_seeds.found(each.evaluations, 8 / 255, "PGD-20")[0].robust_acc
        for each in map(
            over_seeds.read, sorted(over_seeds.FOLDER.glob("shapes-pgd-at-small-resnet-*.json"))
        )
        if each.config.eps == 8 / 255
    }
    first, *others = (f"{nearest(each)}%" for each in sorted(robust.values(), reverse=True))
    assert robust[0] == max(robust.values())  # the shipped B has seed 0
    (said,) = (row[4] for row in table("minutes") if row[0] == "25–40")
    assert said.endswith(f"B is the best, with {first}; the others have {' and '.join(others)}")
    found = family("shapes")
    ends = dict(zip(*found.mean(found.clean_k), strict=True))
    assert max(ends) == 12 / 255 and f"`/budget` ends at {nearest(100 * ends[12 / 255])}%" in SHEET


def nearest(percent: float) -> int:
    return int(percent + 0.5 + 1e-9)  # 56.5 becomes 57, also if it is stored as 56.49999.


def radius(text: str) -> float:
    number, _, whole = text.partition("/")
    return float(number) / float(whole or 1)


def test_the_claims_seeds_are_those_that_were_kept() -> None:
    kept = {side.label: side for side in claims.table() if side.data == "digits"}
    for label in ("Standard", "PGD-AT"):
        side = kept[label]
        assert side.seeds == 5
        assert f"{100 * float(np.mean(side.both)):.1f}%" in SHEET


def test_what_is_seen_is_what_the_tour_tells() -> None:
    by = {each.key: each for each in steps(*networks.defaults(networks.on(DATA)))}
    rows = {row[0]: row for row in table("minutes")}
    fell = re.search(r"ε = (\d+)/255", by["predict"].told)
    assert fell and f"first wrong at {fell[1]} of 255" in rows["10–25"][3]
    assert by["attack"].options[by["attack"].right] in rows["10–25"][3]
    assert by["defend"].options[by["defend"].right] in rows["25–40"][3]
    for told in (by["explain"].intro, by["explain"].told):
        share = re.search(r"(\d+)%", told)
        assert share and f"{share[1]}%" in rows["40–55"][3]


def test_the_background_lesson_is_what_its_study_found() -> None:
    study = background.read()
    share = {f"{value:.0%}": cue for cue, value in study["protocol"]["cue"].items()}
    whole = {"own": "n", "other": "n", "own_attacked": "n_attacked", "other_attacked": "n_attacked"}
    rows = table("trained")
    for method, telling, seeds, *percents in rows:
        cells = [
            cell
            for cell in study["cells"]
            if (cell["method"], cell["cue"]) == (method, share[telling])
        ]
        assert len(cells) == int(seeds)
        for text, (name, n) in zip(percents, whole.items(), strict=True):
            mean = 100 * np.mean([cell[name] for cell in cells]) / study["protocol"][n]
            assert text == f"{mean:.1f}", (method, telling, name)
    assert sum(int(row[2]) for row in rows) == len(study["cells"])
    run = TrainConfig.make("shapes-cue-on", {"device": "cpu"}, []).run_id
    assert f'open_run("{run}")' in SHEET, "the example opens what the command trains"
