"""Tests the command `check`: it lists problems in order of urgency, also on a strange machine, and
compares every shipped file with its hash.
"""

from __future__ import annotations

import importlib.metadata
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from robustviz import check
from robustviz.types import UserError
from robustviz.ui import launch


@pytest.fixture
def shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Creates a folder of checkpoints with three shipped files and their hashes, a run of the
    user's, and a file that file managers leave.
    """
    folder = tmp_path / "checkpoints"
    for name in (
        "zoo/digits-one/net.safetensors",
        "zoo/digits-one/config.json",
        "story/ε grid.json",
        "runs/mine/net.safetensors",
        "zoo/.DS_Store",
    ):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(name.encode())
    monkeypatch.setattr(check, "CHECKPOINTS", folder)
    check.write_hashes()
    return folder


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch, runs_home: Path, shipped: Path) -> None:
    """Simulates a machine where everything is fine, and skips the speed test."""
    monkeypatch.setattr(check, "images_per_second", lambda device: 500.0)


def lines() -> tuple[list[str], dict[str, Any]]:
    told: list[str] = []
    facts = check.check(tell=told.append)
    return told, facts


def test_a_class_can_join_where_there_is_a_network(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    monkeypatch.setattr(launch.Network, "found", lambda: launch.Network("127.0.0.1", ""))
    facts = check.check_class(tell=told.append)
    assert facts["ready"] and told == [line for line in told if facts["address"] in line]
    assert "A class can reach this computer at 127.0.0.1" in told[0]


@pytest.mark.long
def test_an_address_that_leads_elsewhere_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    # No computer has this address, so nothing answers there.
    monkeypatch.setattr(launch.Network, "found", lambda: launch.Network("240.0.0.1", ""))
    assert not check.check_class(tell=told.append)["ready"]
    (said,) = told
    assert said.startswith("A class cannot join at 240.0.0.1 (")

    def nowhere() -> launch.Network:
        raise UserError("This computer is not on a network that a class can join.")

    monkeypatch.setattr(launch.Network, "found", nowhere)
    facts = check.check_class(tell=told.append)
    assert not facts["ready"] and told[1] == facts["problems"][0]


@pytest.mark.long
def test_the_command_tries_the_network_of_this_very_machine() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "robustviz", "check", "--class"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    (said,) = done.stdout.splitlines()
    assert done.returncode == (0 if said.startswith("A class can reach this computer at ") else 1)
    assert not done.stderr


def test_a_machine_where_all_is_well_is_ready(quick: None) -> None:
    told, facts = lines()
    assert told[-1] == "READY"
    assert facts["ready"] and facts["problems"] == [] and facts["writable"]
    assert facts["lesson_seconds"] == 20 * 2500 / 500
    assert {"python", "robustviz", *check.TRAINING, *check.PAGES, *check.EXTRAS} == set(
        facts["versions"]
    )
    assert json.loads(json.dumps(facts)) == facts
    assert "".join(told).isascii()  # Some consoles can print only ASCII.


def test_what_the_pins_name_is_what_is_looked_for() -> None:
    pins = (Path(__file__).resolve().parents[2] / "requirements.txt").read_text(encoding="utf-8")
    for name in (*check.TRAINING, *check.PAGES, *check.EXTRAS):
        assert f"\n{name}==" in pins


@pytest.mark.parametrize(
    ("missing", "sentence"),
    [
        (
            ["safetensors", "streamlit"],
            "NOT READY: safetensors is not installed (needed for everything): ",
        ),
        (
            ["streamlit", "plotly"],
            (
                "NOT READY: streamlit, plotly are not installed (needed for the pages, not for"
                " training): "
            ),
        ),
        (
            ["pyautoattack"],
            (
                "NOT READY: pyautoattack is not installed (needed only for intervals of means, SVHN"
                " and AutoAttack): "
            ),
        ),
    ],
)
def test_a_missing_package_is_named_the_most_needed_first(
    quick: None, monkeypatch: pytest.MonkeyPatch, missing: list[str], sentence: str
) -> None:
    whole = importlib.metadata.version

    def version(name: str) -> str:
        if name in missing:
            raise importlib.metadata.PackageNotFoundError(name)
        return whole(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    told, facts = lines()
    assert told[-1] == sentence + check.INSTALL
    assert not facts["ready"]
    assert all(f"{name} MISSING" in told[1] for name in missing)


def test_a_broken_torch_is_a_sentence(quick: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    told, facts = lines()
    assert told[-1].startswith("NOT READY: torch is installed but cannot be imported")
    assert "images_per_second" not in facts


def test_a_home_that_cannot_be_written_to_is_a_problem(
    quick: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("ROBUSTVIZ_RUNS", str(tmp_path / "file" / "runs"))
    told, facts = lines()
    assert not facts["writable"]
    assert "set ROBUSTVIZ_RUNS to another folder" in told[-1]


def test_the_data_that_is_there_is_named(
    quick: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "data" / "mnist").mkdir(parents=True)
    (tmp_path / "data" / "README.md").write_text("")
    monkeypatch.setenv("ROBUSTVIZ_DATA", str(tmp_path / "data"))
    assert lines()[1]["data"] == ["mnist"]
    monkeypatch.setenv("ROBUSTVIZ_DATA", str(tmp_path / "nowhere"))
    facts = lines()[1]
    assert facts["data"] == [] and facts["ready"]


def test_whatever_goes_wrong_inside_is_a_sentence(
    quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(device: str) -> float:
        raise RuntimeError("no kernel image is available")

    monkeypatch.setattr(check, "images_per_second", broken)
    told, facts = lines()
    assert (
        told[-1]
        == "NOT READY: Speed could not be checked (RuntimeError: no kernel image is available)."
    )
    assert not facts["ready"]


def test_the_speed_test_measures_and_leaves_no_trace() -> None:
    import torch

    before, threads = torch.get_rng_state(), torch.get_num_threads()
    assert check.images_per_second("cpu", seconds=0.0) > 0
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.get_num_threads() == threads


# Hashes of the shipped files.


def test_the_list_is_sorted_complete_and_the_same_every_time(shipped: Path) -> None:
    content = (shipped / "SHA256SUMS").read_bytes()
    names = [line.split("  ", 1)[1] for line in content.decode().splitlines()]
    assert names == [
        "story/ε grid.json",
        "zoo/digits-one/config.json",
        "zoo/digits-one/net.safetensors",
    ]
    assert b"\r" not in content
    assert check.write_hashes().read_bytes() == content
    assert check.verify_hashes() == []


def test_a_changed_a_missing_and_a_foreign_file_are_found(shipped: Path) -> None:
    (shipped / "zoo/digits-one/net.safetensors").write_bytes(b"cut off")
    (shipped / "zoo/digits-one/config.json").unlink()
    (shipped / "zoo/digits-one/extra.bin").write_bytes(b"")
    assert check.verify_hashes() == [
        "checkpoints/zoo/digits-one/config.json is missing.",
        "checkpoints/zoo/digits-one/net.safetensors differs from the file that was shipped.",
        "checkpoints/zoo/digits-one/extra.bin was not shipped.",
    ]


def test_a_list_that_is_missing_or_damaged_is_found(shipped: Path) -> None:
    (shipped / "SHA256SUMS").write_text("not a list\n")
    assert check.verify_hashes()[0] == "Line 1 of checkpoints/SHA256SUMS is damaged."
    (shipped / "SHA256SUMS").unlink()
    assert check.verify_hashes() == [
        "checkpoints/SHA256SUMS is missing, so the shipped checkpoints cannot be checked."
    ]


def test_nothing_shipped_is_no_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check, "CHECKPOINTS", tmp_path)
    assert check.verify_hashes() == []


def test_a_damaged_checkpoint_is_the_thing_to_do(quick: None, shipped: Path) -> None:
    (shipped / "story/ε grid.json").write_bytes(b"")
    told, _ = lines()
    assert told[-1].startswith(
        "NOT READY: checkpoints/story/ε grid.json differs from the file that was shipped. Restore"
        " the shipped files: git checkout"
    )


def test_what_this_checkout_ships_is_what_the_list_says() -> None:
    assert check.verify_hashes() == []
