"""Tests tables as CSV, LaTeX and HTML: each number is the measured one, and no name breaks a
table.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import re
import shutil
from html.parser import HTMLParser
from typing import Any

import pytest

from robustviz import cli
from robustviz.cli import seeds, tables
from robustviz.runs import folder
from robustviz.types import UserError

ID = "digits-pgd-at-small-resnet-s0-0c56e5c2"
HEAD = ["run", "robust [95%]", "ε", "n"]
ROWS: list[tables.Row] = [
    ({"run": "a_1", "robust_acc": 0.5, "robust_interval": [0.4, 0.6], "eps": 8 / 255, "n": 100},
     ["a_1", "0.500 [0.400, 0.600]", "8/255", "100"]),
    ({"run": "b&2", "robust_acc": 0.25, "robust_interval": [0.2, 0.3], "eps": 0.1, "n": 20},
     ["b&2", "0.250 [0.200, 0.300]", "0.1 (26/255)", "20"]),
    ({"run": "c 50%", "robust_acc": None, "eps": 8 / 255, "n": 1000},
     ["c 50%", "–", "8/255", "1000"]),
]  # fmt: skip


def asked(**given: Any) -> argparse.Namespace:
    usual = {"format": "markdown", "columns": None, "filter": [], "sort": None}
    return argparse.Namespace(**usual | {"descending": False, "json": False} | given)


def names(**given: Any) -> list[str]:
    return [cells[0] for _, cells in tables.chosen(asked(**given), HEAD, ROWS)]


@pytest.mark.parametrize(
    ("condition", "left"),
    [
        ("eps=8/255", ["a_1", "c 50%"]),
        ("ε=8/255", ["a_1", "c 50%"]),
        ("n>=100", ["a_1", "c 50%"]),
        ("n<100", ["b&2"]),
        ("n != 20", ["a_1", "c 50%"]),
        ("robust_low>0.3", ["a_1"]),
        ("robust>0.3", ["a_1"]),
        ("run~&", ["b&2"]),
        ("run=A_1", ["a_1"]),
        ("robust_acc=0.25", ["b&2"]),
        ("robust_acc~none", []),
    ],
)
def test_a_condition_leaves_the_rows_that_meet_it(condition, left):
    assert names(filter=[condition]) == left


def test_conditions_must_all_hold_and_a_sort_is_by_value_with_gaps_last():
    assert names(filter=["eps=8/255", "n>100"]) == ["c 50%"]
    assert names(sort="robust") == ["b&2", "a_1", "c 50%"]
    assert names(sort="robust", descending=True) == ["a_1", "b&2", "c 50%"]
    # Sorted as numbers, 20 < 100 < 1000, and not as text.
    assert names(sort="n") == ["b&2", "a_1", "c 50%"]


@pytest.mark.parametrize(
    "given", [{"filter": ["nix=1"]}, {"sort": "nix"}, {"filter": ["n"]}, {"filter": [""]}]
)
def test_what_is_no_column_or_condition_is_a_sentence(given):
    with pytest.raises(UserError, match=r"no column called 'nix'|is no condition"):
        tables.chosen(asked(**given), HEAD, ROWS)


def shown(capsys: pytest.CaptureFixture[str], **given: Any) -> str:
    assert tables.show(asked(**given), HEAD, ROWS, ["A note."], "empty") == 0
    return capsys.readouterr().out


def test_csv_has_every_number_in_full_and_columns_choose(capsys):
    rows = list(csv.DictReader(io.StringIO(shown(capsys, format="csv"))))
    assert rows[0] == {
        "run": "a_1", "robust_acc": "0.5", "robust_low": "0.4", "robust_high": "0.6",
        "eps": str(8 / 255), "n": "100",
    }  # fmt: skip
    assert rows[2]["robust_acc"] == "" and len(rows) == 3
    out = shown(capsys, format="csv", columns="n,run")
    assert out.splitlines()[:2] == ["n,run", "100,a_1"]


def test_a_cell_that_a_spreadsheet_would_compute_is_text(capsys):
    row: list[tables.Row] = [({"run": "=cmd|' /C calc'!A0", "n": -1.5}, ["x", "1"])]
    tables.show(asked(format="csv"), ["run", "n"], row, [], "")
    assert capsys.readouterr().out.splitlines()[1] == "'=cmd|' /C calc'!A0,-1.5"


def test_latex_has_as_many_cells_in_each_line_and_no_sign_of_its_own(capsys):
    lines = shown(capsys, format="latex").splitlines()
    assert lines[:2] == [r"% \usepackage{booktabs}", "% A note."]
    assert lines[2] == r"\begin{tabular}{lrrr}" and lines[-1] == r"\end{tabular}"
    body = [line for line in lines if line.endswith(r"\\")]
    assert len(body) == 4 and {len(re.findall(r"(?<!\\)&", line)) for line in body} == {3}
    assert body[1].startswith(r"a\_1 & 0.500 [0.400, 0.600] & 8/255") and r"b\&2" in body[2]
    assert r"c 50\% & -- &" in body[3] and r"$\varepsilon$" in body[0]
    assert all(line.isascii() for line in body)


class Cells(HTMLParser):
    """Parses the cells of an HTML table, row by row."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[list[str]] = []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_data(self, data: str) -> None:
        if self.rows and self.rows[-1] and data.strip():
            self.rows[-1][-1] += data


def test_html_reads_back_to_the_same_cells(capsys):
    cells = Cells()
    cells.feed(shown(capsys, format="html"))
    assert cells.rows == [HEAD, *(cells for _, cells in ROWS)]


def test_the_printed_columns_may_be_mixed_with_those_of_the_csv(capsys):
    lines = shown(capsys, columns="run,robust,robust_high").splitlines()
    assert lines[0] == "| run | robust | robust_high |"
    assert lines[2] == "| a_1 | 0.500 [0.400, 0.600] | 0.6 |" and lines[4].endswith("| – | – |")


@pytest.mark.parametrize("table", [[], ["--ladder"], ["--seeds"]])
@pytest.mark.parametrize("form", tables.FORMATS)
def test_each_table_of_report_has_each_format(table, form, runs_home, capsys):
    assert cli.main(["report", ID, *table, "--format", form]) == 0
    out = capsys.readouterr().out
    assert {"markdown": "|---", "csv": ",", "latex": r"\toprule", "html": "<table>"}[form] in out


def test_the_csv_of_a_run_has_its_counts(runs_home, capsys):
    cli.main(["report", ID, "--json"])
    facts = json.loads(capsys.readouterr().out)
    cli.main(["report", ID, "--format", "csv"])
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [(int(row["robust_k"]), float(row["robust_acc"])) for row in rows] == [
        (fact["robust_k"], fact["robust_acc"]) for fact in facts
    ]
    assert [float(row["robust_low"]) for row in rows] == [
        fact["robust_interval"][0] for fact in facts
    ]
    assert rows[0]["attack_steps"] == str(facts[0]["attack"].get("steps", ""))


def test_over_seeds_the_csv_has_mean_deviation_and_interval(monkeypatch, capsys):
    # The shipped evaluations without weights are enough.
    monkeypatch.setattr(folder, "all_runs", list)
    files = list(seeds.FOLDER.glob("digits-fgsm-at-*"))
    monkeypatch.setattr(seeds, "FOLDER", type("Folder", (), {"glob": lambda self, name: files})())
    words = ["report", "--seeds", "--filter", "data=digits", "--filter", "method=fgsm_at"]
    cli.main([*words, "--json"])
    facts = [row for row in json.loads(capsys.readouterr().out) if len(row["seeds"]) > 1]
    cli.main([*words, "--format", "csv"])
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    rows = [row for row in rows if len(row["seeds"].split()) > 1]
    assert facts and len(rows) == len(facts)
    for row, fact in zip(rows, facts, strict=True):
        for name in ("mean", "sd", "low", "high"):
            assert float(row[f"PGD-20_{name}"]) == fact["PGD-20"][name]


def test_json_has_everything_and_takes_no_columns(runs_home, capsys):
    assert cli.main(["report", ID, "--json", "--columns", "run"]) == 2
    assert "--json has everything" in capsys.readouterr().err
    assert cli.main(["report", ID, "--filter", "n<0"]) == 0
    assert capsys.readouterr().out.strip() == tables.EMPTY


def test_a_run_stands_with_what_somebody_called_it_and_sorts_by_it(runs_home, capsys):
    for name, label in (("one", "z"), ("two", "a & b")):
        shutil.copytree(folder.zoo() / ID, runs_home / name)
        path = runs_home / name / "config.json"
        said = json.loads(path.read_text(encoding="utf-8"))
        path.write_text(json.dumps(said | {"label": label}), encoding="utf-8")
    words = ["report", "one", "two", "--ladder", "--sort", "label"]
    assert cli.main(words) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[2].startswith("| two (a & b) |") and lines[3].startswith("| one (z) |")
    assert cli.main([*words, "--format", "latex", "--columns", "label, clean"]) == 0
    assert "a \\& b & 0.9" in capsys.readouterr().out
