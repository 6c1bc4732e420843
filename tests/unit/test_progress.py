"""Tests the progress bar: a watcher hears only its own thread, and watching is optional."""

from __future__ import annotations

import threading

from conftest import conv

from robustviz import progress
from robustviz.attacks import FGSM
from robustviz.training.evaluate import count_right


def test_attacked_images_are_counted_for_the_thread_that_waits(images, labels):
    heard: list[tuple[int, int]] = []

    def other() -> None:
        progress.expect(1000)
        progress.count(1000)

    with progress.watched(lambda done, total: heard.append((done, total))):
        progress.expect(24)
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
        for _ in range(2):
            count_right(conv(), images, labels, FGSM(eps=0.1))
        # Counting untouched images is fast, so it is not reported.
        count_right(conv(), images, labels)
    assert heard == [(12, 24), (24, 24)]
    progress.count(1)  # Nobody is watching now.
    assert len(heard) == 2


def test_a_watch_within_a_watch_ends_with_its_own():
    outer: list[int] = []
    with progress.watched(lambda done, total: outer.append(done)):
        with progress.watched(lambda done, total: None):
            progress.count(5)
        progress.count(2)
    assert outer == [2]
