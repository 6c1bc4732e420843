"""`list`: what can be chosen, and the runs."""

import argparse

from robustviz import plugins, registry
from robustviz.cli.terminal import Command, about, show
from robustviz.runs import folder, queue
from robustviz.training.ladder import headline
from robustviz.types import JSON, UserError


def do(args: argparse.Namespace) -> int:
    """Show the list that was asked for."""
    if args.what == "runs":
        queue.sweep()
        rows = [summary(run) for run in folder.all_runs(damaged=True)]
        lines = [f"{row['run']:<44} {row['state']:<12} {row.get('note', '')}" for row in rows]
    elif args.what == "presets":
        from robustviz.training.presets import PRESETS

        rows = [
            {"key": name, "text": preset.text, "settings": dict(preset.settings)}
            for name, preset in PRESETS.items()
        ]
        lines = [f"{row['key']:<24} {row['text']}" for row in rows]
    else:
        kind = args.what.removesuffix("s")
        rows = [_entry(kind, key) for key in registry.keys(kind)]
        rows += _own() if kind == "data" else []
        wide = {name: max(len(row[name]) for row in rows) for name in rows[0] if name != "text"}
        lines = [
            "  ".join([*(f"{row[name]:<{width}}" for name, width in wide.items()), row["text"]])
            for row in rows
        ]
    return show(args, rows, "\n".join(lines) or "No runs yet.")


def _entry(kind: str, key: str) -> dict[str, str]:
    """A registered thing: its key, its name, what it is, and which group a method belongs to."""
    cls = registry.get(kind, key)
    return {
        "key": key,
        "label": str(getattr(cls, "label", key)),
        "text": str(getattr(cls, "text", "")) or (cls.__doc__ or "").strip().splitlines()[0],
    } | ({"group": str(cls.group)} if kind == "method" else {})


def _own() -> list[dict[str, str]]:
    """The data sets of the user's own, in the same words."""
    from robustviz.data import own

    return [
        {"key": each.name, "label": "Your own", "text": each.place} for each in own.every().values()
    ]


def summary(run: folder.Run) -> JSON:
    """What a list of runs says about one."""
    out: JSON = {"run": run.id} | about(run)
    try:
        info, status, evaluation = run.info, run.status(), run.evaluation()
        worst = headline(run.evaluations(), run.eps)
    except UserError as error:
        return out | {"state": "damaged", "note": str(error)}
    out |= {
        "state": "shipped" if run.shipped else status.get("state"),
        "data": run.data_name,
        "method": run.method_key,
        "net": info.get("net"),
    }
    if evaluation is not None:
        out |= {
            "clean_acc": evaluation.clean_acc,
            "robust_acc": evaluation.robust_acc,
            "n": evaluation.n,
            "eps": evaluation.eps,
            "note": (
                f"clean {evaluation.clean_acc:.3f}, {evaluation.printed}"
                f" {evaluation.robust_acc:.3f} at eps {evaluation.eps:.4f} (n={evaluation.n})"
                + (f", under every attack run {worst.acc:.3f} (n={worst.n})" if worst else "")
            ),
            "worst": worst.to_json() if worst else None,
        }
    elif status.get("error"):
        out["note"] = str(status["error"])
    said = run.lacks or plugins.changed(info.get("plugins", ()))
    return out | ({"note": f"{said} {out.get('note', '')}".strip()} if said else {})


COMMANDS = (
    Command(
        "list",
        do,
        "list what can be chosen, or the runs",
        {"what": {"choices": ("methods", "attacks", "data", "nets", "presets", "probes", "runs")}},
    ),
)
