"""Tests that docs/speed.md states the measured speeds and says where a goal was missed."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from benchmarks import __main__ as command, b17_class, report
from benchmarks.harness import OURS, Gate, Outcome, Share, Time, machine, told

HELD, FAILED = Gate("as right as the peer", True), Gate("8 images off, at most 3", False)


def outcome(*gates: Gate, quick: float = 30.0, wanted: float = 3.0) -> Outcome:
    """Returns an outcome in which our code takes 1 s, the peer "slow" takes `quick` s and `quick`/2
    s at best, and the peer "near" takes 2 s and has no wanted ratio.
    """
    times = (
        Time(OURS, (1.0, 1.0, 1.0), 5.0),
        Time("slow", (quick, quick / 2, quick), 60.0),
        Time("near", (2.0, 2.0, 2.0), 2.0),
    )
    return Outcome("B9", "maps", "a batch of 64", times, {"slow": wanted}, gates, "a note")


def found(*outcomes: Outcome, device: str = "cpu") -> dict[str, report.Items]:
    facts = machine() | {
        "device": "a machine",
        "threads": 2,
        "torch": "2.99",
        "python": "3.11.7",
        "date": "2026-11-21",
    }
    return {
        device: {
            "B9": json.loads(
                json.dumps({"machine": facts, "outcomes": [one.to_json() for one in outcomes]})
            )
        }
    }


def rows(summary: str) -> list[str]:
    """Returns the rows of the table without its header."""
    return [line for line in summary.splitlines() if line.startswith("| B")]


def test_the_readme_and_the_results_say_what_was_measured() -> None:
    measured = report.measured()
    assert measured.get("cpu"), (
        "No figures: `make bench` writes benchmarks/results/cpu.json, docs/speed.md's table and"
        " RESULTS.md."
    )
    block = (
        report.SPEED.read_text(encoding="utf-8").split(report.MARKS[0])[1].split(report.MARKS[1])[0]
    )
    assert block.strip() == report.summary(measured), (
        "`python -m benchmarks --readme` writes it again"
    )
    assert report.RESULTS.read_text(encoding="utf-8") == report.full(measured)


def test_an_outcome_is_read_as_it_was_written() -> None:
    one = outcome(HELD, FAILED)
    assert Outcome.of_json(json.loads(json.dumps(one.to_json()))) == one


def test_a_ratio_is_missed_where_neither_the_median_nor_the_least_reaches_it() -> None:
    one = outcome(quick=4.0)
    slow, near = one.times[1:]
    assert one.ratio(slow) == (4.0, 2.0) and not one.missed(slow) and not one.missed(near)
    assert outcome(quick=4.0, wanted=4.1).missed(slow)


def test_what_is_reached_is_a_short_line() -> None:
    said = report.summary(found(outcome(HELD)))
    assert (
        said.splitlines()[0]
        == "On a CPU with bf16. B9: a machine, 2 threads, torch 2.99, Python 3.11.7, 2026-11-21."
    )
    assert rows(said)[-1].endswith("| 2× to 30× | reached | yes |")
    assert rows(said)[-1].startswith("| B9 | Grad-CAM of a batch, against a plain forward pass,")


def test_what_is_missed_is_named_with_its_number() -> None:
    (line,) = rows(
        report.summary(
            found(
                outcome(HELD, quick=4.0, wanted=8),
                outcome(FAILED, quick=3.0, wanted=8),
                outcome(),
                device="cuda",
            )
        )
    )
    assert line.endswith(
        "| 2× to 30× | **2 of 3 missed**: slow 3.00× of 8× | **no**: 8 images off, at most 3 |"
    )
    whole = told(outcome(HELD, FAILED, quick=4.0, wanted=8)).splitlines()
    assert "| slow | 4 s | 2 s | 60 s | 4.00× | 2.00× | 8× **missed** |" in whole
    assert whole[-3:] == [
        "- held: as right as the peer",
        "- **not held**: 8 images off, at most 3",
        "- a note",
    ]


def test_a_share_of_the_rate_is_judged_by_the_median_of_its_races() -> None:
    """Two number formats, with three races and one race. Each peer is reported by itself, and no
    ratio is wanted.
    """
    fp32 = [
        dataclasses.replace(
            outcome(quick=4.0 + k), wanted={}, share=Share(reached, 0.65, "the fp32 GEMM rate")
        )
        for k, reached in enumerate((0.9, 0.5, 0.66))
    ]
    bf16 = dataclasses.replace(
        outcome(HELD, quick=4.0), wanted={}, share=Share(0.39, 0.4, "the bf16 GEMM rate")
    )
    (line,) = rows(report.summary(found(*fp32, bf16)))
    assert line.endswith(
        "| slow 4× to 6×; others 2× | 66% of the fp32 GEMM rate (median of 3 races, wanted 65%); "
        "**missed**: 39% of the bf16 GEMM rate (one race, wanted 40%) | yes |"
    )
    assert (
        "- 39% of the bf16 GEMM rate; wanted of the median over all races: 40%"
        in told(bf16).splitlines()
    )
    assert Outcome.of_json(json.loads(json.dumps(bf16.to_json()))) == bf16


def test_where_no_gpu_was_at_hand_the_readme_says_so() -> None:
    assert report.NO_GPU in report.summary(found(outcome())) and report.NO_GPU in report.summary({})
    assert report.NO_GPU not in report.summary(found(outcome(), device="cuda"))


@pytest.mark.parametrize(
    ("held", "kept"),
    [
        ([1000.0, 1150, 1100, 1152], (True, True)),
        ([1000.0, 1100, 1100, 1160], (True, False)),  # 5% above 1100 are 1155
        ([1300.0, 1100, 1100, 1160], (False, True)),
    ],
)
def test_the_memory_of_a_class_is_compared_between_the_halves(
    held: list[float], kept: tuple[bool, bool]
) -> None:
    gates = b17_class.of_memory(held)
    assert tuple(gate.held for gate in gates) == kept
    assert f"{max(held):.0f} MiB" in gates[0].says
    for half in (held[:2], held[2:]):
        assert f"{max(half):.0f} MiB" in gates[1].says


def test_only_what_stands_between_the_marks_is_written(tmp_path: Path) -> None:
    readme, results = tmp_path / "speed.md", tmp_path / "RESULTS.md"
    readme.write_text(
        f"before\n{report.MARKS[0]}\nold\n{report.MARKS[1]}\nafter\n", encoding="utf-8"
    )
    for _ in range(2):
        report.write(found(outcome()), readme, results)
        assert readme.read_text(encoding="utf-8") == "\n".join(
            [
                "before",
                report.MARKS[0],
                report.summary(found(outcome())),
                report.MARKS[1],
                "after\n",
            ]
        )
    assert results.read_text(encoding="utf-8").count("### B9: Grad-CAM") == 1
    report.write({}, readme, results)
    assert report.NONE in readme.read_text(encoding="utf-8") and results.read_text(
        encoding="utf-8"
    ).endswith(report.NONE + "\n")


def test_the_command_writes_them_from_the_files(monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[dict[str, report.Items]] = []
    monkeypatch.setattr(report, "write", written.append)
    monkeypatch.setattr(report, "measured", lambda: found(outcome()))
    assert command.main(["--readme"]) == 0
    assert written == [found(outcome())]


def test_files_are_read_in_the_items_order(tmp_path: Path) -> None:
    kept = found(outcome())["cpu"]["B9"]
    (tmp_path / "cpu.json").write_text(
        json.dumps({"items": {"B10": kept, "B9": kept, "B99": kept}})
    )
    assert {device: list(items) for device, items in report.measured(tmp_path).items()} == {
        "cpu": ["B9", "B10"]
    }
