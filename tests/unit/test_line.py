"""Tests the queue of measurements: requests are served in order and know their place, and a request
that gives up leaves the queue.
"""

from __future__ import annotations

import threading

import pytest
from conftest import eventually

from robustviz.ui.line import Line


def test_they_come_in_order_one_at_a_time_and_know_their_place():
    line, order, told = Line(), list[int](), dict[int, set[int]]()
    inside, most = [0], [0]
    gate = threading.Event()

    def ask(number: int) -> None:
        with line.turn(lambda place: told.setdefault(number, set()).add(place)):
            inside[0] += 1
            most[0] = max(most[0], inside[0])
            order.append(number)
            gate.wait(30)
            inside[0] -= 1

    threads = []
    for number in range(5):
        threads.append(threading.Thread(target=ask, args=(number,)))
        threads[-1].start()
        # Until this thread is in the queue.
        assert eventually(lambda number=number: len(line) + len(order) == number + 1)
    assert eventually(lambda: {2, 3, 4} <= set(told))
    gate.set()
    for thread in threads:
        thread.join(30)
    assert order == [0, 1, 2, 3, 4] and most == [1] and len(line) == 0
    assert max(told[4]) == 4 and 0 not in told  # The first thread never waited.


def test_whoever_leaves_keeps_nobody_waiting():
    line = Line()

    class GoneElsewhere(Exception):
        pass

    def tell(place: int) -> None:
        raise GoneElsewhere

    with line.turn():
        with pytest.raises(GoneElsewhere), line.turn(tell):
            pass
        assert len(line) == 0
    with pytest.raises(ValueError, match="inside"), line.turn():
        raise ValueError("inside")  # An error inside gives the turn back.
    with line.turn():
        pass


def test_two_may_be_inside_where_two_are_allowed():
    line = Line(at_once=2)

    def waits(place: int) -> None:
        raise TimeoutError

    # The first two enter at once, the third would have to wait.
    with line.turn(waits), line.turn(waits), pytest.raises(TimeoutError), line.turn(waits):
        pass
