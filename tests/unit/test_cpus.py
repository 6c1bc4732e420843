"""Tests the short form of `make test-cpus`: simulated other processors must count the same as this
one.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import cpus
import pytest
from conftest import REPOSITORY

CLOSE = 2  # The tolerance, of 200 images.


def facts_under(name: str) -> dict[str, Any]:
    """Returns the facts of a process under a setting. If the process fails, its stderr is shown."""
    with cpus.under(name) as environment:
        done = subprocess.run(
            [sys.executable, "-W", "error", str(REPOSITORY / "tests" / "cpus.py"), "facts"],
            env=environment,
            capture_output=True,
            text=True,
        )
    assert done.returncode == 0, f"{name}: {done.stderr}"
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def found() -> dict[str, dict[str, Any]]:
    """Returns the facts by setting. The usual setting runs in this process."""
    # Busy processors are left out: they are only slower.
    others = [
        name for name, setting in cpus.SETTINGS.items() if name != "usual" and not setting.busy
    ]
    with ThreadPoolExecutor(2) as pool:
        counted = pool.map(facts_under, others)
        return {"usual": cpus.facts(), **dict(zip(others, counted, strict=True))}


@pytest.mark.long
def test_every_processor_counts_the_same(found: dict[str, dict[str, Any]]) -> None:
    usual = found["usual"]
    assert 20 < min(usual["right"].values()) <= max(usual["right"].values()) < 195, (
        "an attack that does nothing, or everything, compares nothing"
    )
    for name, facts in found.items():
        assert facts["right"].keys() == usual["right"].keys()
        apart = {
            attack: (k, facts["right"][attack])
            for attack, k in usual["right"].items()
            if abs(k - facts["right"][attack]) > CLOSE
        }
        assert not apart, f"{name}: {apart}"
        assert facts["loss"] == pytest.approx(usual["loss"], rel=1e-2), name
        assert facts["moved"] == pytest.approx(usual["moved"], rel=5e-2) and facts["moved"] > 0.1, (
            name
        )


@pytest.mark.long
def test_the_settings_take_effect(found: dict[str, dict[str, Any]]) -> None:
    assert found["scalar"]["capability"] == "DEFAULT" and found["usual"]["capability"] != "DEFAULT"
    # Other processors than x86 have no AVX.
    assert found["AVX2"]["capability"] in ("AVX2", "DEFAULT", "NEON", "SVE256")
    assert found["usual"]["onednn"] and not found["without-onednn"]["onednn"]
    if hasattr(os, "sched_getaffinity"):
        assert found["one-core"]["cores"] == 1


def test_the_tests_that_are_run_are_there() -> None:
    assert not [path for path in cpus.TESTS if not (REPOSITORY / path).exists()]


def test_an_unknown_setting_is_a_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    assert cpus.main(["AVX3"]) == 2
    assert "There is no setting AVX3; there are usual, AVX2," in capsys.readouterr().err
