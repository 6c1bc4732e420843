"""Trains and measures what the claims need, and writes down the verdicts. The trainings form a
sweep, the cheapest first. Each measured run leaves one small file, so an interrupted study goes on
where it stopped.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass

from robustviz.claims import claim, measure, written
from robustviz.claims.claim import METRICS, Claim, Expectation, Setup
from robustviz.claims.verdict import Verdict, verdict
from robustviz.runs import folder, sweeps
from robustviz.runs.files import to_bytes, write_file
from robustviz.runs.naming import method_label
from robustviz.stats import finite_or_none
from robustviz.training.config import TrainConfig
from robustviz.types import JSON, UserError
from robustviz.views.claims import result
from robustviz.views.claims.result import FILE


@dataclass(frozen=True)
class Row:
    """An expectation on one data set, with the verdict that the measured runs give."""

    claim: Claim
    expectation: Expectation
    setup: Setup
    verdict: Verdict


def rows() -> list[Row]:
    """All expectations on all data sets with their verdicts, computed from the saved numbers alone;
    ordered by claim, then expectation, then data set.
    """
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
    """The values of `metric` for one side, by seed; a seed without a saved value is left out."""
    ids = {seed: claim.config(setup, side, seed).run_id for seed in setup.seeds}
    found = {seed: measure.numbers(run_id) for seed, run_id in ids.items()}
    return {seed: each[metric] for seed, each in found.items() if metric in each}


@dataclass(frozen=True)
class Side:
    """A row of the table of networks: one side of the claims on one data set.

    `label`: the method's name and its special settings. `both`: for each measured seed the accuracy
    under PGD-20 and CW-100 together, in [0, 1]; an image counts if it is right under both. `clean`:
    in the same order, the accuracies on clean images; empty if one of them was not measured.
    `seeds`: how many seeds were measured, of the planned number `wanted`.
    """

    data: str
    label: str
    seeds: int
    wanted: int
    clean: tuple[float, ...]
    both: tuple[float, ...]


def table() -> list[Side]:
    """The accuracies of all networks that the claims compare: one `Side` for each data set and
    network, also if none of its seeds has been measured.
    """
    every = claim.claims()
    return [_line(setup, side) for setup in claim.setups() for side in claim.sides(every)]


def _line(setup: Setup, side: JSON) -> Side:
    both, clean = (_side(side, metric, setup) for metric in ("both", "clean"))
    named = [
        f"{path.removeprefix('method.')}={value}"
        for path, value in side.items()
        if path != "method" and not isinstance(value, dict)
    ]
    label = method_label(side["method"]) + (f" ({', '.join(named)})" if named else "")
    seeds = sorted(both)
    return Side(
        setup.data,
        label,
        len(seeds),
        len(setup.seeds),
        tuple(clean[seed] for seed in seeds) if both.keys() <= clean.keys() else (),
        tuple(both[seed] for seed in seeds),
    )


def make(
    data: list[str],
    tell: Callable[[sweeps.Now], object] = lambda now: None,
    say: Callable[[str], object] = lambda line: None,
) -> None:
    """Train and measure what is missing for the claims on the data sets called `data` (empty: all),
    and write down all verdicts.

    `tell` is called with the progress of the sweep, and `say` with a line for each run that was
    measured or could not be. The runs are in the folder `.claims-build` among the user's runs. A
    training that fails does not stop the others.
    """
    every = claim.claims()
    with folder.at_home_in(folder.home() / ".claims-build"):
        for setup in claim.setups():
            if data and setup.data not in data:
                continue
            wanted = list(claim.trainings(every, setup))
            if lacking := _to_train(setup, wanted):
                sweeps.follow(lacking, tell)
            for one, metrics in wanted:
                run = measure.finished(one.run_id)
                if run and metrics - measure.numbers(one.run_id).keys():
                    try:
                        say(f"{run.id} {measure.measure(run, metrics, setup, one.seed)}")
                    except UserError as error:
                        say(str(error))
    write()


def _to_train(setup: Setup, wanted: list[tuple[TrainConfig, frozenset[str]]]) -> list[TrainConfig]:
    """The trainings in `wanted` that must be finished so that the missing numbers can be measured:
    those with missing numbers, the runs that these start from or learn from, and the target of the
    metric `transfer`. The order is kept.
    """
    needed = set[str]()
    for one, metrics in reversed(wanted):  # what a training starts from comes before it
        missing = metrics - measure.numbers(one.run_id).keys()
        if missing or one.run_id in needed:
            needed |= {one.run_id, *sweeps.sources(one)}
        if "transfer" in missing:
            needed.add(claim.config(setup, *claim.unseen(one.seed)).run_id)
    return [one for one, _ in wanted if one.run_id in needed]


def write() -> None:
    """Compute the verdicts from the saved numbers and write them into the file of the Claims page
    (`FILE`), the README and docs/claims.md.
    """
    found: JSON = {
        "pilots": {setup.data: setup.pilot for setup in claim.setups()},
        "rows": [_json(row) for row in rows()],
    }
    write_file(FILE, to_bytes(found))
    written.write(result.found(), table())


def _json(row: Row) -> JSON:
    numbers = asdict(row.verdict)
    return {
        "name": row.claim.name,
        "about": row.claim.about,
        "label": method_label(row.claim.about),
        "claim": row.claim.claim,
        "says": row.expectation.says,
        "data": row.setup.data,
        "metric": row.expectation.metric,
        "measured": METRICS[row.expectation.metric][0],
        "command": f"python -m robustviz claims {row.setup.data}",
        "text": row.verdict.text,
        **{
            name: finite_or_none(value) if isinstance(value, float) else value
            for name, value in numbers.items()
        },
    }
