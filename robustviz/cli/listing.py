"""The command `list`: the registered methods, attacks, data sets and so on, and the runs."""

import argparse
import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any, Literal, get_args, get_origin

from robustviz import plugins, registry
from robustviz.cli.terminal import Command, about, show
from robustviz.runs import folder, queue
from robustviz.training.evaluation import Evaluation
from robustviz.training.ladder import Worst, headline
from robustviz.types import JSON, UserError, shown


def do(args: argparse.Namespace) -> int:
    """Show the list that `args.what` names; if `args.of` is given, the settings of the method,
    attack, data set or probe with this key instead. Returns the exit status 0. Raises UserError for
    an unknown key, and for `args.of` with a list whose entries have no settings.
    """
    if args.of:
        rows = _settings_of(args.what, args.of)
        lines = [_line(row) for row in rows] or [f"{args.of} has no settings."]
    elif args.what == "runs":
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
    """A registered class as a row: its key, label and description, and for a method its group."""
    cls = registry.get(kind, key)
    return {
        "key": key,
        "label": str(getattr(cls, "label", key)),
        "text": str(getattr(cls, "text", "")) or (cls.__doc__ or "").strip().splitlines()[0],
    } | ({"group": str(cls.group)} if kind == "method" else {})


ROOTS = {"method": "method.", "data": "data."}  # prefix of a setting's path in `train --set`


def _settings_of(what: str, key: str) -> list[JSON]:
    """The settings of one registered class, one row for each, including those of nested classes.
    Raises UserError if there is no such class, and for nets, runs and presets, which have no
    settings.
    """
    kind = what.removesuffix("s")
    if kind not in registry.ROOMS or kind == "net":
        raise UserError(f"`list {what}` takes no name.", code=2)
    cls = registry.get(kind, key)
    return list(_settings(cls(), ROOTS.get(kind, "")))


def _settings(thing: Any, path: str) -> Iterator[JSON]:
    for name, option in registry.options(type(thing)).items():
        value, full = getattr(thing, name), f"{path}{name.removesuffix('_')}"
        if option.kind == "name":
            continue
        if dataclasses.is_dataclass(value) and isinstance(value, registry.Spec):
            yield {"setting": full, "default": value.key, "help": option.help}
            yield from _settings(value, f"{full}.")
        else:
            yield _setting(thing, name, full)


def _setting(thing: Any, name: str, full: str) -> JSON:
    hint = registry.without_none(registry.hints(type(thing))[name])[0]
    value, option = getattr(thing, name), registry.options(type(thing))[name]
    choices = get_args(hint) if get_origin(hint) is Literal else option.choices
    return {"setting": full, "default": value, "low": option.low, "high": option.high} | {
        "choices": list(choices),
        "help": option.help,
    }


def _line(row: JSON) -> str:
    """A setting as one line: its name and default, its allowed values, and its help text."""
    low, high = (None if (end := row.get(each)) is None else shown(end) for each in ("low", "high"))
    ends = f"{low} to {high}" if low and high else f"from {low}" if low else f"up to {high}"
    span = f"[{ends}] " if low or high else ""
    choices = f"[{', '.join(map(str, row['choices']))}] " if row.get("choices") else ""
    default = "" if row["default"] is None else shown(row["default"])
    default = default.lower() if isinstance(row["default"], bool) else default
    return f"{row['setting']}={default}  {span}{choices}{row['help']}"


def _own() -> list[dict[str, str]]:
    """The data sets that the user added, as rows like those of `_entry`."""
    from robustviz.data import own

    return [
        {"key": each.name, "label": "Your own", "text": each.place} for each in own.every().values()
    ]


def _measured(one: Evaluation) -> str:
    return (
        f"clean {one.clean_acc:.3f}, {one.printed} {one.robust_acc:.3f} at eps {one.eps:.4f}"
        f" (n={one.n})"
    )


def _together(found: Worst | None, shown: Evaluation, every: Sequence[Evaluation]) -> str:
    """The end of a run's note: the accuracy under all attacks of `found` together; empty if `found`
    is None. `shown` is the evaluation at the beginning of the note. If `found` is about other
    images than `shown`, the text says so, because the two numbers cannot be compared; it then
    begins with the accuracy under the attack of `shown` on the images of `found`, if `every` has
    it.
    """
    if found is None:
        return ""
    said = f"{found.acc:.3f} under all {len(found.attacks)} attacks together"
    if found.images == shown.images:
        return f", {said}"
    alike = [(one.images, one.eps, one.printed) for one in every]
    same = (found.images, found.eps, shown.printed)
    alone = f"{shown.printed} {every[alike.index(same)].robust_acc:.3f}, " if same in alike else ""
    return f"; on another set of {found.n} images: {alone}{said}"


def summary(run: folder.Run) -> JSON:
    """What a list of runs shows about `run`: its id, path, state (`shipped` for a run that came
    with robustviz), data, method and net. If it was evaluated with PGD-20 at its ε, also the
    accuracies, n and ε of that evaluation, and as `worst` the accuracy under all attacks together
    (None if there was only one). `note`: a text for people with these or other accuracies, an error
    of the training, or a plug-in that is missing or has changed; left out if there is nothing to
    say. For a damaged run: only id and path, the state `damaged`, and as note what is wrong.
    """
    out: JSON = {"run": run.id} | about(run)
    try:
        info, status, evaluation = run.info, run.status(), run.evaluation()
        every = run.evaluations()
        worst = headline(every, run.eps)
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
            "note": _measured(evaluation) + _together(worst, evaluation, every),
            "worst": worst.to_json() if worst else None,
        }
    elif status.get("error"):
        out["note"] = str(status["error"])
    elif every:  # measured, but not yet as tables show it: PGD-20 at the run's ε
        out["note"] = _measured(every[-1])
    said = run.lacks or plugins.changed(info.get("plugins", ()))
    return out | ({"note": f"{said} {out.get('note', '')}".strip()} if said else {})


COMMANDS = (
    Command(
        "list",
        do,
        "list methods, attacks, data sets, networks, presets, probes or runs",
        {
            "what": {
                "choices": ("methods", "attacks", "data", "nets", "presets", "probes", "runs")
            },
            "of": {"nargs": "?", "metavar": "NAME", "help": "its settings: `list methods trades`"},
        },
    ),
)
