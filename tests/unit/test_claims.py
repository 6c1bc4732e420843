"""Tests the claims: the expectations written before the runs are valid, and the shown results
follow from the stored numbers.
"""

from __future__ import annotations

import dataclasses
import json
import re

import pytest

from robustviz import registry
from robustviz.claims import claim, measure, study, written
from robustviz.claims.claim import METRICS
from robustviz.types import UserError
from robustviz.views.claims import result, screen_figures
from robustviz.views.screen import wordy

CLAIMS, SETUPS = claim.claims(), claim.setups()


def test_five_papers_and_the_baselines_have_a_claim_each():
    about = {each.about for each in CLAIMS}
    assert {"part", "afa", "supcon_margin", "model_alignment", "aalp"} < about
    assert about <= set(registry.keys("method"))


def test_a_claim_is_one_sentence_and_measures_what_there_is():
    for each in CLAIMS:
        assert each.claim.endswith(".") and each.claim.count(". ") == 0
        assert wordy(each.claim) == [], each.claim
        for expectation in each.expects:
            assert expectation.metric in METRICS and expectation.metric in measure.WAYS
            assert expectation.smallest > 0


def test_what_is_shown_follows_from_the_kept_numbers():
    """`found.json` equals the results computed now from the runs' files."""
    known = {(row.name, row.says, row.data): row for row in result.found().rows}
    now = study.rows()
    assert len(known) == len(now)
    for row in now:
        shown = known[row.claim.name, row.expectation.says, row.setup.data]
        assert (shown.word, shown.seeds) == (row.verdict.word, row.verdict.seeds)
        if shown.effect is not None:
            assert shown.effect == pytest.approx(row.verdict.effect)


def test_every_kept_run_is_one_that_a_claim_needs():
    needed = {
        config.run_id: metrics
        for setup in SETUPS
        for config, metrics in claim.trainings(CLAIMS, setup)
    }
    for path in measure.RUNS.glob("*.json"):
        assert json.loads(path.read_text())["numbers"].keys() <= needed[path.stem], path.name


@pytest.mark.parametrize("method", ["fgsm_rs", "model_alignment"])
def test_only_what_has_no_file_is_trained_again(method, monkeypatch, tmp_path):
    """With it only the runs that it starts from and is measured against are trained."""
    digits = next(setup for setup in SETUPS if setup.data == "digits")
    every = list(claim.trainings(CLAIMS, digits))
    gone = next(one for one, _ in every if one.method.key == method and one.seed == 10)
    for one, metrics in every:
        if metrics and one.run_id != gone.run_id:
            numbers = {"numbers": dict.fromkeys(metrics, 0.5)}
            (tmp_path / f"{one.run_id}.json").write_text(json.dumps(numbers))
    monkeypatch.setattr(measure, "RUNS", tmp_path)
    monkeypatch.setattr(study, "write", lambda: None)
    trained: list[str] = []
    monkeypatch.setattr(
        study.sweeps,
        "follow",
        lambda configs, tell: trained.extend(one.method.key for one in configs),
    )
    study.make(["digits"])
    needed = {"fgsm_rs": [], "model_alignment": ["standard", "standard", "standard"]}[method]
    assert sorted(trained) == sorted([*needed, method])


def test_sources_come_before_what_starts_from_them():
    for setup in SETUPS:
        seen: set[str] = set()
        for config, _ in claim.trainings(CLAIMS, setup):
            names = registry.of_kind(type(config.method), *registry.RUNS)
            for name in names:
                assert getattr(config.method, name) in seen
            seen.add(config.run_id)


def test_an_unknown_metric_and_two_directions_are_one_sentence(tmp_path):
    sides = 'a = { method = "part" }\nb = { method = "pgd_at" }\nsays = "x"\n'
    head = 'about = "part"\nclaim = "x"\n[[expect]]\n'
    for body, said in (
        (f'{head}{sides}metric = "cleen"\nmore = 0.1', "Did you mean clean"),
        (f'{head}{sides}metric = "clean"\nmore = 0.1\nless = 0.1', "an expectation has one of"),
        ("about = ", "cannot be read as TOML"),
        ('about = "part"', "lacks 'claim'|lacks 'expect'"),
        (f'{head}{sides}metric = "clean"\nmore = "a lot"', r"x\.toml: could not convert"),
        ('about = "part"\nclaim = "x"\nexpect = 3', r"x\.toml: 'int' object is not iterable"),
    ):
        (tmp_path / "x.toml").write_text(body)
        with pytest.raises(UserError, match=said):
            claim.claims(tmp_path)


def test_a_setup_that_cannot_be_read_is_one_sentence(tmp_path):
    for body, said in (
        ('[digits]\nseeds = [1]\npilot = ""\nn = "all"', r"\[digits\]: invalid literal"),
        ('[digits]\nseeds = 1.5\npilot = ""', "seeds"),
        ("[digits]\nseeds = [1]", r"\[digits\] lacks 'pilot'"),
    ):
        (tmp_path / claim.SETUPS).write_text(body)
        with pytest.raises(UserError, match=said):
            claim.setups(tmp_path)


def row(**changes: object) -> result.Row:
    usual = result.found().rows[0]
    return registry.build(result.Row, {**vars(usual), **changes})


def test_a_claim_is_seen_only_where_all_that_it_expects_is():
    seen, unclear, missing = (
        row(word=word) for word in ("seen here", "cannot tell", "not seen here")
    )
    assert result.whole([seen, seen]) == "seen here"
    assert result.whole([seen, unclear]) == "cannot tell"
    assert result.whole([seen, unclear, missing]) == "not seen here"


def test_a_claim_that_is_seen_in_part_says_what_is_seen():
    seen = row(word="seen here", says="robust")
    unclear, missing = row(word="cannot tell", says="costly"), row(word="not seen here", says="x")
    assert result.in_part([seen, unclear]) == "1 of 2 seen"
    assert result.in_part([seen, unclear, missing]) == "1 of 3 seen, 1 not"
    assert result.in_part([seen]) == result.in_part([missing, unclear]) == ""
    known = result.Found((seen, unclear), {})
    screen = screen_figures.screen(known, 0)
    assert screen.answer == [
        f"On {seen.data}, 0 of 1 claims are seen here in full, and 1 in part. Nothing is seen of"
        " 0, and for 0 these runs cannot tell."
    ]
    assert screen.picture.count('<small class="told"') == 1
    assert "◐ 1 of 2 seen<" in screen.picture and "Seen: robust.<" in screen.picture
    assert "1 of 2 seen" in written.summary(known)
    assert written.counts(known).splitlines()[-1] == f"| {seen.data} | 1 | 0 | 1 | 0 | 0 | 0 | 0 |"
    assert "Seen" not in screen_figures.screen(result.Found((seen,), {}), 0).picture


def test_the_first_screen_is_short_on_every_data_set():
    found = result.found()
    for start in range(len(found.data)):
        screen = screen_figures.screen(found, start)
        assert [bad for text in (*screen.answer, *screen.sure) for bad in wordy(text)] == []
        assert screen.control is not None and list(screen.control.values) == found.data


def test_runs_that_are_not_finished_are_not_said_to_be_unable_to_tell():
    known = result.found()
    words = iter(["seen here", "cannot tell", *["not decided"] * 99])
    rows = tuple(row(name=name, word=next(words), data="shapes") for name in known.claims)
    screen = screen_figures.screen(result.Found(rows, known.pilots), 0)
    assert screen.answer == [
        f"On shapes, 1 of {len(rows)} claims are seen here in full, and 0 in part. Nothing is"
        " seen of 0, and for 1 these runs cannot tell."
        f" The runs for the other {len(rows) - 2} are not finished."
    ]


def test_each_claim_is_counted_once_in_the_answer():
    known = result.found()
    for said in screen_figures.screen(known, 0).answer:
        if "no claim can be decided" not in said:
            full, total, *others = map(int, re.findall(r"\b\d+\b", said))
            assert full + sum(others) == total == len(known.claims)


def test_a_claim_with_unfinished_runs_says_what_is_seen_or_which_seeds_there_are():
    seen, some, none = (
        row(word=word, seeds=seeds, wanted=5)
        for word, seeds in (("seen here", 5), ("not decided", 4), ("not decided", 0))
    )
    assert screen_figures._word([some, none]) == "… 0 to 4 of 5 seeds"
    assert screen_figures._word([some, some]) == "… 4 of 5 seeds"
    assert screen_figures._word([seen, none]) == "… 1 of 2 seen"


def test_a_claim_that_is_not_measured_on_a_data_set_does_not_hide_the_others():
    known = result.found()
    first, data = known.claims[0], known.data
    gone = [each for each in known.rows if (each.name, each.data) != (first, data[0])]
    half = len(gone) // 2
    for rows in (gone, gone[half:] + gone[:half]):
        found = dataclasses.replace(known, rows=tuple(rows))
        place, number = found.data.index(data[0]), found.claims.index(first)
        screen = screen_figures.screen(found, place)
        assert f"of {len(known.claims) - 1} claims" in screen.answer[place]
        assert "not measured" in screen.moves[f"word-{number}"][1][place]
        assert screen.moves[f"plot-{number}"][1][place] == ""
        assert first in found.claims and screen.picture.count('class="word told"') == len(
            known.claims
        )


def test_how_sure_is_said_for_every_data_set_wherever_the_control_is():
    found = result.found()
    sure = [screen_figures.screen(found, start).sure for start in range(len(found.data))]
    assert all(each == sure[0] for each in sure)
    for data, pilot in found.pilots.items():
        assert any(data in line and pilot in line for line in sure[0])


def test_a_missing_file_is_one_sentence(monkeypatch, tmp_path):
    monkeypatch.setattr(result, "FILE", tmp_path / "found.json")
    with pytest.raises(UserError, match="Nothing is known"):
        result.found()
    (tmp_path / "found.json").write_text("{")
    with pytest.raises(UserError, match="cannot be read"):
        result.found()


def test_what_lies_beyond_the_picture_is_an_arrow_and_no_dot():
    inside = row(effect=0.01, low=0.0, high=0.02, smallest=0.01, not_worse=False)
    beyond = row(effect=0.9, low=0.8, high=1.0, smallest=0.01, not_worse=False)
    drawn = screen_figures._plot([inside, beyond])
    assert drawn.count("<circle") == 1 and drawn.count("▶") == 1


def test_the_line_from_which_it_counts_is_the_margin_where_something_may_be_lost():
    usual, kept = (row(effect=0.0, not_worse=each) for each in (False, True))
    one, other = (screen_figures._plot([each]) for each in (usual, kept))
    assert one != other
    dashed = [next(part for part in each.split("<") if "3 3" in part) for each in (one, other)]
    zero = screen_figures._plot([usual]).split('points="')[1].split(",")[0]
    left, right = (float(each.split('points="')[1].split(",")[0]) for each in reversed(dashed))
    assert left < float(zero) < right


def test_what_is_written_is_what_was_found():
    """README and docs/claims.md agree with `found.json` and the stored numbers."""
    for file, mark, text in (
        (written.README, "claims", written.counts(result.found())),
        (written.DOCS, "claims", written.summary(result.found())),
        (written.DOCS, "expectations", written.expectations(result.found().rows)),
        (written.DOCS, "networks", written.networks(study.table())),
    ):
        assert written.between(file, mark, text) == file.read_text(encoding="utf-8"), (
            f"{file.name} is old: python -m robustviz claims --report writes it anew"
        )


def test_the_table_has_a_mean_and_its_range_over_seeds():
    side = study.Side("digits", "PART", 3, 5, (0.9, 0.8, 1.0), (0.5, 0.4, 0.6))
    one = study.Side("cifar10", "PART", 1, 1, (0.9,), (0.5,))
    none = study.Side("cifar10", "AFA", 0, 1, (), ())
    assert written.networks([side, one, none]).splitlines()[2:] == [
        "| digits | PART | 3 of 5 | 0.900 (0.800 to 1.000) | 0.500 (0.400 to 0.600) |",
        "| cifar10 | PART | 1 of 1 | 0.900 | 0.500 |",
    ]


def test_every_method_of_the_issue_is_a_row_of_real_images():
    wanted = {"standard", "pgd_at", "trades", "part", "afa", "supcon_margin", "aalp"}
    rows = {side["method"] for side in claim.sides(CLAIMS)}
    assert wanted | {"model_alignment"} <= rows
