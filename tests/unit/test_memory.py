"""Tests the cache in memory: it stays below its limit in bytes and keeps the latest results, a
result that is being computed is not dropped, and two requests at once wait for one computation.
"""

from __future__ import annotations

import shutil
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import plotly.graph_objects as go
import pytest
import torch

from robustviz import memory, nets
from robustviz.memory import Memory, size_of
from robustviz.ui import cache
from robustviz.views.attack.result import AccuracyCurve, AdversarialSpec
from tests.pages.conftest import ordinary


@pytest.mark.slow
def test_a_thousand_different_questions_leave_it_below_its_limit_with_the_latest_in_it(
    tmp_path, monkeypatch
):
    """Uses a real network, whose answers also come from the folder of its run."""
    monkeypatch.setenv("ROBUSTVIZ_RUNS", str(tmp_path))
    monkeypatch.setattr(cache, "ANSWERS", kept := Memory(1_000_000))
    shutil.copytree(
        ordinary("digits", "standard").path,
        tmp_path / "mine",
        ignore=shutil.ignore_patterns("snapshots", "probes"),
    )
    most = 0
    for at in range(1000):
        spec = AdversarialSpec(index=at % 100, steps=1 + at // 100)
        result = cache.answer("mine", spec)
        most = max(most, kept.bytes)
    assert most <= kept.limit and 10 < len(kept) < 1000
    assert cache.kept("mine", spec) is result
    assert kept.bytes == sum(slot.size for slot in kept._slots.values())


def test_none_at_all_need_stay():
    few = Memory(10, least=0)
    for key in "abc":
        few[key].put(np.zeros(100))
    assert few.bytes <= 10


def test_what_is_asked_for_again_stays_and_the_oldest_goes():
    kept = Memory(10 * memory.PLACE + 10 * 1100)
    for at in range(50):
        kept[at].filled(lambda at=at: bytes(1000))
        kept[0].filled(lambda: bytes(1000))
    assert 0 in kept._slots and 49 in kept._slots and 1 not in kept._slots
    assert kept.bytes <= kept.limit


def test_places_that_nobody_fills_are_counted_too():
    kept = Memory(100_000)
    for at in range(1000):
        _ = kept[at]
    assert kept.bytes <= kept.limit and len(kept) < 100


def test_what_is_being_made_is_not_dropped_and_is_made_once():
    kept, go_on, begun, made = Memory(20_000), threading.Event(), threading.Event(), []

    def make() -> bytes:
        made.append(1)
        begun.set()
        assert go_on.wait(60)
        return b"it"

    with ThreadPoolExecutor() as pool:
        first = pool.submit(lambda: kept["slow"].filled(make))
        assert begun.wait(60)
        for at in range(200):
            kept[at].filled(lambda: bytes(1000))
        second = pool.submit(lambda: kept["slow"].filled(make))
        go_on.set()
        assert first.result(60) == second.result(60) == b"it"
    assert made == [1] and kept.bytes <= kept.limit


def test_one_that_is_larger_than_the_limit_is_kept_as_long_as_it_is_among_the_latest():
    kept = Memory(10_000, least=2)
    kept["large"].filled(lambda: bytes(50_000))
    kept["small"].filled(lambda: bytes(10))
    assert kept["large"].value is not None and kept.bytes > kept.limit
    for at in range(2):
        kept[at].filled(lambda: bytes(10))
    assert "large" not in kept._slots and kept.bytes <= kept.limit


def test_what_failed_is_tried_again():
    kept = Memory(10_000)
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            kept["one"].filled(lambda: 1 // 0)
    assert kept["one"].filled(lambda: 5) == 5 and not kept["one"].busy


def test_sizes():
    assert size_of(np.zeros(1000, np.float32)) - memory.OBJECT == 4000
    assert size_of(torch.zeros(10, 10)) - memory.OBJECT == 400
    curve = AccuracyCurve(np.zeros(1000), np.zeros(1000, np.int64), 7, meta={"text": "x" * 500})
    assert 16_500 <= size_of(curve) < 18_000
    net = nets.build("small_cnn", classes=10, channels=1, size=8)
    assert size_of(net) > 4 * sum(each.numel() for each in net.parameters())
    assert size_of(go.Figure(go.Scatter(x=np.zeros(5000), y=np.zeros(5000)))) > 60_000


def test_a_function_is_asked_once_for_the_same_arguments_also_where_it_found_nothing():
    kept, asked = Memory(100_000), []

    @memory.remembered(kept)
    def find(a: int, b: int = 0) -> int | None:
        asked.append((a, b))
        return a + b or None

    assert [find(1, b=2), find(1, b=2), find(0), find(0), find(2)] == [3, 3, None, None, 2]
    assert asked == [(1, 2), (0, 0), (2, 0)]
