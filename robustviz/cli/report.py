"""The command `report`: the table of evaluations."""

import argparse
import operator

from robustviz.cli import overlap, seeds, tables
from robustviz.cli.tables import Row
from robustviz.cli.terminal import Command, about, called, say, whose
from robustviz.runs import folder
from robustviz.runs.naming import SEEDS, apart
from robustviz.stats import wilson
from robustviz.training.evaluation import Evaluation, paired, summary
from robustviz.training.ladder import Worst, best_ladder, worst
from robustviz.types import JSON, UserError

RUNGS = ("FGSM", "PGD-20", "PGD-100×5", "CW-100", "AutoAttack")
EVERY = "every attack [95%]"  # accuracy under all attacks that were run on the same images
LADDER = ["run", "clean", *RUNGS, EVERY, "n", "doctor"]
# two evaluations can be compared if they agree in these fields
PROTOCOL = operator.attrgetter("printed", "eps", "n", "seed", "split")
EVALUATIONS = [
    *("run", "clean", "robust [95%]", "attack", EVERY, "ε", "n", "images", "seed", "doctor")
]
NONE = "No evaluations yet: train a run first."
APART = (
    "Not all rows of one data set were evaluated on the same images: compare only rows with equal"
    " `images` (in the table or in --json)."
)


def do(args: argparse.Namespace) -> int:
    """Show the table of evaluations, or the table that `--ladder`, `--seeds` or `--overlap` asks
    for. Returns the exit status 0. A run whose evaluations are damaged is reported on standard
    error and left out. Raises UserError for an unknown run, and for `--against` with `--ladder`.
    """
    if args.overlap:
        return overlap.do(args)
    if args.seeds:
        return seeds.do(args)
    runs = [folder.open_run(name) for name in args.run] if args.run else folder.all_runs()
    base = folder.open_run(args.against) if args.against else None
    if base and args.ladder:
        raise UserError(
            "--against compares one evaluation with another, so it does not go with --ladder.",
            code=2,
        )
    head = LADDER if args.ladder else EVALUATIONS + ([f"against {base.id}"] if base else [])
    every = [row for run in runs for row in _rows(run, base, ladder=args.ladder)]
    rows = tables.chosen(args, head, every)
    facts = [fact for fact, _ in rows]
    said = [fact["against"]["sentence"] for fact in facts if fact.get("against")]
    if said:
        say(SEEDS)
    met = {(fact["data"], fact.get("images")) for fact in facts}
    if len(met) > len({fact["data"] for fact in facts}):
        said.insert(0, APART)
    return tables.show(args, head, rows, said, tables.EMPTY if every else NONE)


def _rows(run: folder.Run, base: folder.Run | None, *, ladder: bool) -> list[Row]:
    try:
        every = run.evaluations()
        return _climbed(run, every) if ladder else [_row(run, each, every, base) for each in every]
    except UserError as error:
        say(f"{run.id}: {error}")  # a damaged run must not keep the others from being shown
        return []


def _span(k: int, n: int) -> str:
    return "{:.3f} [{:.3f}, {:.3f}]".format(k / max(n, 1), *wilson(k, n))


def _all(found: Worst | None) -> str:
    """The table cell with the accuracy under all attacks together, which `found` holds; `–` if
    there was at most one attack.
    """
    return _span(found.k, found.n) if found and found.several else "–"


def _row(
    run: folder.Run, evaluation: Evaluation, every: list[Evaluation], base: folder.Run | None
) -> Row:
    """One evaluation of a run as a table row, with the accuracy under all attacks in `every` that
    were run on the same images, and with the difference from `base` unless that is None.
    """
    together = worst(every, evaluation)
    clean, robust = (
        (f"; balanced {share:.3f}" for share in evaluation.balanced)
        if evaluation.balanced and evaluation.unequal
        else ("", "")
    )
    cells = [
        called(run),
        f"{evaluation.clean_acc:.3f}{clean}",
        _span(evaluation.robust_k, evaluation.n)
        + robust
        + (
            f"; cumulative {evaluation.cumulative_k / evaluation.n:.3f}"
            if evaluation.cumulative_k is not None and evaluation.rung > 1
            else ""
        ),
        evaluation.printed,
        _all(together),
        f"{evaluation.eps:.4f}",
        str(evaluation.n),
        evaluation.images[:6] or "–",
        str(evaluation.seed),
        evaluation.verdict,
    ]
    facts = whose(run) | evaluation.to_json()
    facts |= {"ok": evaluation.ok, "verdict": evaluation.verdict}
    facts |= together.to_json() if together else {}
    if base is None:
        return facts, cells
    difference, cell = _against(run, evaluation, base)
    return facts | {"against": difference}, [*cells, cell]


def _against(run: folder.Run, evaluation: Evaluation, base: folder.Run) -> tuple[JSON | None, str]:
    """The paired difference between an evaluation and that of `base` with the same protocol, as
    JSON and as the text of a table cell. If there is none, the JSON is None and the text says why.
    """
    if run.path == base.path:
        return None, "–"
    alike = [other for other in base.evaluations() if PROTOCOL(other) == PROTOCOL(evaluation)]
    if not alike:
        return None, "no matching evaluation"
    try:
        pairs = paired(evaluation, alike[0])
    except UserError as error:
        say(f"{run.id} against {base.id}, {evaluation.printed}: {error}")
        return None, "cannot be compared"
    return {
        "run": base.id,
        **about(base),
        **pairs.to_json(),
        "sentence": " ".join(
            [pairs.sentence(run.id, base.id), *apart(run, base, ("It", "the other"))]
        ),
    }, pairs.cell


def _climbed(run: folder.Run, every: list[Evaluation]) -> list[Row]:
    """A list with a single row: a run's best ladder at its own ε, or else its plain evaluation.
    Empty if it has neither.
    """
    best = best_ladder(every, run.eps)
    rungs = best.rungs if best else tuple(filter(None, [run.evaluation()]))
    if not rungs:
        return []
    together = worst(every, rungs[-1])
    cells = {
        name: " ".join(filter(None, (share, more)))
        for rung in rungs
        for share in [f"{rung.robust_acc:.3f}" if best else _span(rung.robust_k, rung.n)]
        # an attack's name may be followed by something unusual about it, such as ℓ2
        for name, _, more in [rung.printed.partition(" ")]
    }
    findings = [
        (f"{finding.name} ({rung.printed})", finding) for rung in rungs for finding in rung.doctor
    ]
    return [
        (
            whose(run) | (best or rungs[0]).to_json() | (together.to_json() if together else {}),
            [
                called(run),
                f"{rungs[0].clean_acc:.3f}",
                *(cells.get(name, "–") for name in RUNGS),
                _all(together),
                str(rungs[0].n),
                summary(findings),
            ],
        )
    ]


FLAG = {"action": "store_true"}
COMMANDS = (
    Command(
        "report",
        do,
        "the table of evaluations",
        {
            "run": {"metavar": "RUN", "nargs": "*"},
            "--ladder": FLAG | {"help": "one row for each run: accuracy under each attack"},
            "--overlap": FLAG
            | {"help": "how well each run's class activation maps lie on the true object (shapes)"},
            "--seeds": FLAG
            | {"help": "one row for each method and ε: means and intervals over seeds"},
            "--against": {
                "metavar": "BASE",
                "help": "the paired difference to this run, where both have the same evaluation",
            },
            **tables.ARGUMENTS,
        },
    ),
)
