"""Tests a run's card: it is small, complete and harmless, and refused if it was changed."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from robustviz.__main__ import main
from robustviz.cli import parser, seeds
from robustviz.runs import card, folder
from robustviz.runs.card import Card
from robustviz.runs.folder import Run
from robustviz.training.config import TrainConfig
from robustviz.types import JSON, UserError


@pytest.fixture
def shipped() -> Run:
    return folder.open_run("digits-pgd-at-small-resnet-s0-0c56e5c2")


def test_a_card_tells_what_was_trained_and_measured(shipped: Run) -> None:
    content = card.of_run(shipped).to_bytes()
    assert len(content) <= card.BYTES
    found = card.read(content)
    assert (found.id, found.method, found.data, found.seed) == (shipped.id, "pgd_at", "digits", 0)
    assert found.settings["eps"] == 0.15 and "device" not in found.settings
    plain = shipped.evaluation()
    assert plain is not None
    assert {
        "attack": "PGD-20",
        "eps": 0.15,
        "n": 360,
        "right": plain.robust_k,
        "seed": 0,
        "split": "test",
        "images": plain.images,
        "reliable": True,
    } in found.numbers
    assert found.numbers[0]["attack"] == card.UNTOUCHED and found.numbers[0]["right"] == 357
    assert found.epoch[-1] == 20 and found.robust[-1] == round(
        shipped.records()[-1]["robust_acc"], 4
    )
    assert "interval" not in content.decode() and str(shipped.path) not in content.decode()


def test_a_long_training_and_many_evaluations_stay_small(shipped: Run) -> None:
    plain = shipped.evaluation()
    assert plain is not None
    many = [dataclasses.replace(plain, seed=seed) for seed in range(100)]
    records = shipped.records() * 20
    for epoch, record in enumerate(records):
        records[epoch] = {**record, "epoch": epoch + 1}
    made = card.of(shipped.id, shipped.config, many, records)
    assert len(made.epoch) == card.EPOCHS and (made.epoch[0], made.epoch[-1]) == (1, 400)
    assert len(made.numbers) == card.NUMBERS
    assert len(made.to_bytes()) <= card.BYTES
    assert card.read(made.to_bytes()).numbers == made.numbers


def test_every_seed_that_is_shipped_has_a_card() -> None:
    for path in sorted(seeds.FOLDER.glob("*.json"))[::8]:
        seen = seeds.read(path)
        made = card.of(seen.id, seen.config, seen.evaluations)
        assert card.read(made.to_bytes()).seed == seen.config.seed


def deep(levels: int) -> JSON:
    """Returns an object nested `levels` deep."""
    found: JSON = {"key": "x"}
    for _ in range(levels):
        found = {"key": "x", "a": found}
    return found


def changed(shipped: Run, change: Callable[[JSON], object], *, signed: bool = True) -> bytes:
    """Returns the bytes of a card after a change, with a matching SHA-256, or with the old one if
    `signed` is False.
    """
    whole = json.loads(card.of_run(shipped).to_bytes())
    said = whole.pop("sha256")
    change(whole)
    return json.dumps({**whole, "sha256": card._digest(whole) if signed else said}).encode()


def test_a_number_changed_by_hand_is_refused_and_another_layout_is_not(shipped: Run) -> None:
    def better(whole: JSON) -> None:
        whole["numbers"][1]["right"] += 1

    # Only the layout of the JSON has changed.
    assert card.read(changed(shipped, lambda whole: None, signed=False))
    with pytest.raises(UserError, match=r"^mine\.json was changed after it was written"):
        card.read(changed(shipped, better, signed=False), "mine.json")
    half = card.of_run(shipped).to_bytes()[:-30]
    for content in (half, b"", b"[]", b"{}", b"\xff", b"[" * 9000, b'{"card": NaN, "sha256": ""}'):
        with pytest.raises(UserError, match="is no run card"):
            card.read(content)
    with pytest.raises(UserError, match="a card at most 20,000"):
        card.read(b" " * 20_001)


@pytest.mark.parametrize(
    "change",
    [
        lambda whole: whole["numbers"].clear(),
        lambda whole: whole["numbers"][0].update(right=10**6),
        lambda whole: whole["numbers"][0].update(n=0, right=0),
        lambda whole: whole["numbers"][0].update(eps="8"),
        lambda whole: whole["numbers"].append(3),
        lambda whole: whole.update(numbers=whole["numbers"] * 20),
        lambda whole: whole.update(id="../evil"),
        lambda whole: whole.update(clean=[2.0] * len(whole["epoch"])),
        lambda whole: whole.update(clean=[]),
        lambda whole: whole["settings"].update(seed="one"),
        lambda whole: whole["settings"].update(net={"key": "x"}),
        lambda whole: whole["settings"].pop("method"),
        lambda whole: whole.update(settings=[]),
        lambda whole: whole["settings"]["method"].update(deep=deep(800)),
    ],
)
def test_what_no_run_can_have_is_one_sentence(
    shipped: Run, change: Callable[[JSON], object]
) -> None:
    with pytest.raises(UserError, match=r"is a damaged card: .* Write it anew\.$") as caught:
        card.read(changed(shipped, change))
    assert len(str(caught.value)) < 320


def test_text_of_others_is_harmless(shipped: Run) -> None:
    evil = "![x](http://evil.example/x.png)<img src=x>"

    def name(whole: JSON) -> None:
        whole.update(label=evil, data=evil)
        whole["settings"]["net"] = evil
        whole["settings"][evil] = evil
        whole["settings"]["method"]["key"] = evil
        whole["numbers"][0]["attack"] = evil

    found = repr(card.read(changed(shipped, name), evil))
    assert "](" not in found and "<" not in found.replace("Card(", "") and "://" not in found
    with pytest.raises(UserError) as caught:
        card.read(b"", evil)
    assert "](" not in str(caught.value) and "<" not in str(caught.value)


def test_no_folder_of_this_computer_is_told(shipped: Run) -> None:
    assert card._bare({"a": {"path": "/home/me/pets/"}, "b": "cyclic@1/2", "c": "C:\\me\\x"}) == {
        "a": {"path": "pets"},
        "b": "cyclic@1/2",
        "c": "x",
    }


def test_the_command_writes_it_and_replaces_nothing_else(
    shipped: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str], runs_home: Path
) -> None:
    out = tmp_path / "F.json"
    for _ in range(2):  # The second time the card is replaced.
        assert main(["run", "card", shipped.id, "--out", str(out), "--json"]) == 0
        said = json.loads(capsys.readouterr().out)
        assert said["bytes"] == out.stat().st_size and said["id"] == shipped.id
        assert isinstance(card.read(out.read_bytes()), Card)
    out.write_text("{}")
    assert main(["run", "card", shipped.id, "--out", str(out)]) == 2
    assert "exists and is no card" in capsys.readouterr().err and out.read_text() == "{}"
    assert main(["run", "card", shipped.id, "--out", str(tmp_path / "F.txt")]) == 2
    assert main(["run", "card", shipped.id, "--name", "x"]) == 2
    waits = folder.create(TrainConfig(data="digits"), name="waits")  # type: ignore[arg-type]
    capsys.readouterr()
    assert main(["run", "card", waits.id, "--out", str(tmp_path / "w.json")]) == 1
    assert "python -m robustviz evaluate waits" in capsys.readouterr().err
    assert not (tmp_path / "w.json").exists()


def test_docs_cards_md_works_as_it_stands_there(
    shipped: Run,
    runs_home: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    text = (Path(__file__).parents[2] / "docs" / "cards.md").read_text(encoding="utf-8")
    shutil.copytree(shipped.path, runs_home / "mine")
    train, write = re.findall(r"python -m robustviz (.+)", text)
    asked = parser().parse_args(train.split())
    assert (asked.method, asked.seed, asked.name) == ("pgd_at", 17, "mine")
    monkeypatch.chdir(tmp_path)
    assert main(write.split()) == 0 and "the card of mine" in capsys.readouterr().out
    exec(text.partition("```python")[2].partition("```")[0], {})
    assert capsys.readouterr().out.split() == ["pgd_at", "0", "6"]
    holds = text.partition("## What a card holds")[2]
    entries = json.loads((tmp_path / "mine.json").read_bytes())
    assert all(f"`{name}`" in holds for name in entries if name != "card")
