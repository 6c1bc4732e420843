"""The command `probe`: write the numbers behind a view to a file."""

import argparse
from pathlib import Path

from robustviz import figures, registry
from robustviz.cli import data
from robustviz.cli.terminal import RUN, Command, about, settings, show
from robustviz.runs import folder
from robustviz.types import UserError
from robustviz.views.result import ProbeSpec, Result


def do(args: argparse.Namespace) -> int:
    """Measure a run with one probe, and write the result to a file: as .npz, or as a table if
    `--out` ends in .csv. Returns the exit status 0. Raises UserError for a .csv if the probe has no
    table.
    """
    from robustviz.training.config import read_value
    from robustviz.views.measure import measure

    run = data.on(args.data, folder.open_run(args.run))
    spec: ProbeSpec[Result] = registry.get("probe", args.probe)()
    for path, text in args.set:
        # a text setting stays text even if it looks like a number, such as the class 3 of digits
        value = text if registry.is_text(spec, path) else read_value(text)
        spec = registry.with_value(spec, path, value)
    out = Path(args.out or f"{run.id}-{args.probe}.npz")
    table = out.suffix.lower() == ".csv"
    if table and spec.result.rows is Result.rows and not hasattr(figures, args.probe):
        raise UserError(_no_table(args.probe), code=2)
    result = measure(run, spec)
    folder.write_file(out, _table(args.probe, result) if table else result.to_npz())
    return show(
        args,
        {
            "run": str(run.path),
            **about(run),
            "probe": args.probe,
            "spec": registry.encode(spec),
            "out": str(out),
            "summary": result.meta.get("summary", ""),
        },
        f"{result.meta.get('summary', args.probe)}\n{out}",
    )


def _table(name: str, result: Result) -> bytes:
    """The result's own table as CSV or, if it has none, the numbers that its figure draws, as the
    page's download has them. Raises UserError if there are none.
    """
    if type(result).rows is not Result.rows:
        return result.to_csv()
    drawn: bytes = figures.csv(getattr(figures, name)(result))
    if not drawn.strip():
        raise UserError(_no_table(name), code=2)
    return drawn


def _no_table(name: str) -> str:
    return f"The probe {name} gives no table: give --out a name that ends in .npz."


COMMANDS = (
    Command(
        "probe",
        do,
        "compute the numbers behind a view and write them as .npz, a table as .csv too",
        {
            **RUN,
            **data.ELSEWHERE,
            "probe": {"metavar": "PROBE", "help": "see `list probes`"},
            "--out": {"metavar": "FILE.npz"},
            **settings("FIELD=VALUE", "any setting of the probe, like n=100"),
        },
    ),
)
