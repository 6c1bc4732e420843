"""Tests a class's votes on a real server: every vote counts once, whatever a phone does."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks import b12_app
from benchmarks.b18_votes import STEPS, Phone, cookie, hold


@pytest.fixture
def server(tmp_path: Path) -> Iterator[b12_app.Server]:
    (tmp_path / "runs").mkdir()
    made = b12_app.app(tmp_path / "runs", ROBUSTVIZ_MODE="class")
    try:
        yield made
    finally:
        made.end()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_every_vote_of_a_class_counts_once(server):
    """Each vote is sent twice, and one phone in four sleeps and returns (`hold` checks that the
    phone is then told its guess).
    """
    held = hold(server, phones=5, pause=0.1)
    assert not held.failed
    assert held.slept == 2
    assert held.told == {step: dict(cast) for step, cast in held.cast.items()}
    assert [sum(cast.values()) for cast in held.cast.values()] == [6] * STEPS

    # Two tabs of one phone, both opened before the guess, count as one person; a second vote from
    # either tab does not count.
    known = cookie(server)
    tabs = [Phone(server, known), Phone(server, known)]
    for place, tab in enumerate(tabs):
        tab.vote(place)
    seen = Counter(tabs[1].told()) - held.cast[1]
    assert seen == Counter([tabs[0].guessed]) and sum(seen.values()) == 1
    for tab in tabs:
        tab.leave()
