"""`python -m robustviz.claims.study [DATA …]` trains what the claims need, measures it, and says
what was found. It is a sweep: resumable, the cheapest training first, one small file a finished
run.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass

from robustviz.claims import claim, measure
from robustviz.claims.claim import METRICS, Claim, Expectation, Setup
from robustviz.claims.verdict import Verdict, verdict
from robustviz.runs import folder, sweeps
from robustviz.types import UserError


@dataclass(frozen=True)
class Row:
    """One expectation on one data set, and what the runs say of it."""

    claim: Claim
    expectation: Expectation
    setup: Setup
    verdict: Verdict


def rows() -> list[Row]:
    """Every expectation on every data set, from the kept numbers alone."""
    every = claim.claims()
    return [
        Row(each, expectation, setup, _verdict(expectation, setup, len(every)))
        for each in every
        for expectation in each.expects
        for setup in claim.setups()
    ]


def _verdict(expectation: Expectation, setup: Setup, count: int) -> Verdict:
    a = _side(expectation.a, expectation.metric, setup)
    b = (
        _side(expectation.b, expectation.metric, setup)
        if isinstance(expectation.b, dict)
        else dict.fromkeys(a, float(expectation.b))
    )
    return verdict(
        a,
        b,
        wanted=len(setup.seeds),
        smallest=expectation.smallest,
        less=expectation.less,
        not_worse=expectation.not_worse,
        top=METRICS[expectation.metric][1],
        claims=count,
    )


def _side(side: dict[str, object], metric: str, setup: Setup) -> dict[int, float]:
    """The metric of one side by seed, as far as it was measured."""
    ids = {seed: claim.config(setup, side, seed).run_id for seed in setup.seeds}
    found = {seed: measure.numbers(run_id) for seed, run_id in ids.items()}
    return {seed: each[metric] for seed, each in found.items() if metric in each}


def make(data: list[str], train: bool = True) -> None:
    """Train and measure what is not there yet, on the named data sets, else on all."""
    every = claim.claims()
    with _workshop():
        for setup in claim.setups():
            if data and setup.data not in data:
                continue
            wanted = list(claim.trainings(every, setup))
            if train:
                missing = [
                    one
                    for one, metrics in wanted
                    if not metrics <= measure.numbers(one.run_id).keys()
                ]
                sweeps.follow([one for one, _ in wanted] if missing else [])
            for one, metrics in wanted:
                if run := measure.finished(one.run_id):
                    try:
                        measure.measure(run, metrics, setup, one.seed)
                    except UserError as error:
                        print(f"robustviz: {error}", file=sys.stderr)


@contextlib.contextmanager
def _workshop() -> Iterator[None]:
    """Inside, here and in the processes that train, the user's runs are the claims' workshop."""
    before = os.environ.get("ROBUSTVIZ_RUNS")
    os.environ["ROBUSTVIZ_RUNS"] = str(folder.home() / ".claims-build")
    try:
        yield
    finally:
        del os.environ["ROBUSTVIZ_RUNS"]
        if before is not None:
            os.environ["ROBUSTVIZ_RUNS"] = before


def main(data: list[str]) -> int:
    """Train, measure, and print a line for each expectation."""
    make(data)
    for row in rows():
        found = row.verdict
        print(
            f"{row.claim.name}, {row.setup.data}: {row.expectation.says}: {found.text};"
            f" effect {found.effect:+.3f} [{found.low:+.3f}, {found.high:+.3f}]"
        )
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
