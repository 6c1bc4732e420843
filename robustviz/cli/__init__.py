"""`python -m robustviz …`: everything the pages do, for a terminal and for scripts.

With `--json` standard output holds machine-readable output only; progress always goes to standard
error. Exit status: 0 done, 1 failed, 2 wrong usage; a failure is one clear line, never a traceback.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from robustviz import registry
from robustviz.runs import folder, queue
from robustviz.stats import wilson
from robustviz.training import world
from robustviz.training.evaluation import Evaluation, ladders, paired
from robustviz.types import UserError, parse_number
from robustviz.views.result import Result


def say(line: str) -> None:
    """Progress, for a person; never on standard output."""
    print(line, file=sys.stderr, flush=True)


def complain(line: str) -> None:
    """What went wrong, said once however many processes there are."""
    if world.reports_errors():
        say(line)


def show(args: argparse.Namespace, value: Any, text: str) -> None:
    """The answer: `value` as one line of JSON where asked for, else `text`."""
    print(json.dumps(value) if args.json else text, flush=True)


class Parser(argparse.ArgumentParser):
    """argparse with one clear line instead of the usage block."""

    def error(self, message: str) -> NoReturn:
        raise UserError(
            f"{message[0].upper()}{message[1:]}. See `python -m robustviz"
            f" {' '.join(self.prog.split()[3:])} --help`.".replace("  ", " "),
            code=2,
        )


def number(text: str) -> float:
    """An argparse type: `0.15` or `8/255`."""
    return parse_number(text)


def setting(text: str) -> tuple[str, str]:
    """An argparse type: `PATH=VALUE`."""
    path, equals, value = text.partition("=")
    if not equals or not path:
        raise UserError(
            f"--set takes PATH=VALUE, for example method.beta=6; {text!r} is not that.", code=2
        )
    return path.strip(), value


# One function a command: (parsed arguments) -> exit status.


def do_list(args: argparse.Namespace) -> int:
    rows: list[dict[str, Any]] = []
    if args.what == "runs":
        queue.sweep()
        rows = [_summary(run) for run in folder.all_runs(damaged=True)]
        text = (
            "\n".join(f"{row['run']:<44} {row['state']:<12} {row.get('note', '')}" for row in rows)
            or "No runs yet."
        )
    elif args.what == "presets":
        from robustviz.training.presets import PRESETS

        rows = [
            {"key": name, "text": preset.text, "settings": dict(preset.settings)}
            for name, preset in PRESETS.items()
        ]
        text = "\n".join(f"{row['key']:<24} {row['text']}" for row in rows)
    else:
        kind = args.what.removesuffix("s") if args.what != "data" else "data"
        for key in registry.keys(kind):
            cls = registry.get(kind, key)
            text = str(getattr(cls, "text", "")) or (cls.__doc__ or "").strip().splitlines()[0]
            rows.append(
                {"key": key, "label": getattr(cls, "label", key), "text": text}
                | ({"group": cls.group} if kind == "method" else {})
            )
        columns = [name for name in ("key", "label", "group") if name in rows[0]]
        wide = {name: max(len(str(row[name])) for row in rows) for name in columns}
        text = "\n".join(
            "  ".join([*(f"{row[name]:<{wide[name]}}" for name in columns), str(row["text"])])
            for row in rows
        )
    show(args, rows, text)
    return 0


def _summary(run: folder.Run) -> dict[str, Any]:
    """What a list of runs says about one."""
    try:
        info, status = run.info, run.status()
        found = run.evaluation()
    except UserError as error:
        return {"run": run.id, "path": str(run.path), "state": "damaged", "note": str(error)}
    state = "shipped" if run.shipped else status.get("state")
    out: dict[str, Any] = {
        "run": run.id,
        "path": str(run.path),
        "state": state,
        "data": run.data_key,
        "method": run.method_key,
        "net": info.get("net"),
    }
    if found is not None:
        out |= {
            "clean_acc": found.clean_acc,
            "robust_acc": found.robust_acc,
            "n": found.n,
            "eps": found.eps,
        }
        out["note"] = (
            f"clean {found.clean_acc:.3f}, {found.printed} {found.robust_acc:.3f} at eps"
            f" {found.eps:.4f} (n={found.n})"
        )
    elif status.get("error"):
        out["note"] = str(status["error"])
    return out


def do_train(args: argparse.Namespace) -> int:
    from robustviz.training.config import TrainConfig
    from robustviz.training.loop import check

    here = world.join()
    names = ("data", "method", "net", "epochs", "seed", "eps", "device")
    flags = {name: getattr(args, name) for name in names if getattr(args, name) is not None}
    config = TrainConfig.make(args.preset, flags, args.set).on_this_machine()
    with here.main_first():
        # What is wrong with data, network or method is said before a run folder exists; the
        # training finds the images in memory.
        check(config, here)
        run = folder.create(config, name=args.name, folder=Path(args.out) if args.out else None)
    return _train(args, run, here)


def do_resume(args: argparse.Namespace) -> int:
    here = world.join()
    run = folder.open_run(args.run)
    if run.shipped:
        raise UserError(
            f"{run.id} came with robustviz and is finished; train one of your own.", code=2
        )
    return _train(args, run, here)


def _train(args: argparse.Namespace, run: folder.Run, here: world.World) -> int:
    from robustviz.runs import worker

    if here.main:
        say(
            f"{run.id} is trained already; this is what it gave."
            if run.status().get("state") in folder.OVER
            else f"run {run.path}"
        )
    ended = worker.execute(run, say, here)
    if not here.main:
        return 0
    if ended != "done":
        show(
            args,
            {"run": str(run.path), "state": ended},
            f"{run.id} is {ended}; go on with: python -m robustviz resume {run.id}",
        )
        return 0
    found = run.evaluation()
    if found is None:
        from robustviz.training.evaluate import evaluate

        found = evaluate(run)
    seconds = float(run.status().get("seconds") or 0.0)
    value = {
        "run": str(run.path),
        "id": run.id,
        "clean_acc": found.clean_acc,
        "robust_acc": found.robust_acc,
        "n": found.n,
        "eps": found.eps,
        "attack": found.attack,
        "seconds": seconds,
        "epochs": len(run.records()),
    }
    show(
        args,
        value,
        f"{run.id}: clean {found.clean_acc:.4f}, {found.printed} {found.robust_acc:.4f} at eps"
        f" {found.eps:.4f} (test, n={found.n}), {seconds:.0f} s",
    )
    return 0


def do_evaluate(args: argparse.Namespace) -> int:
    from robustviz.training.evaluate import evaluate, norm_of

    if args.seed < 0 or (args.n is not None and args.n < 1):
        raise UserError("--seed must be 0 or more, and --n 1 or more.", code=2)
    run = folder.open_run(args.run)
    if args.attack == "ladder":
        return _ladder(args, run)
    cls = registry.get("attack", args.attack)
    attack = registry.build(
        cls, {"norm": norm_of(run.config)} | ({"steps": 20} if args.attack == "pgd" else {})
    )
    for name in ("eps", "steps", "restarts"):
        if (value := getattr(args, name)) is not None:
            attack = _with(attack, name, value)
    for name, text in args.set:
        from robustviz.training.config import read_value

        attack = _with(attack, name.removeprefix("attack."), read_value(text))
    found = evaluate(run, attack, n=args.n, seed=args.seed, device=args.device)
    lines = [
        f"{run.id}: clean {found.clean_acc:.4f} ({found.clean_k}/{found.n}), robust"
        f" {found.robust_acc:.4f} ({found.robust_k}/{found.n})"
    ]
    lines += [f"  {found.printed} at eps {found.eps:.4f} seed {found.seed} on {found.split}"]
    lines += [
        f"  {'ok ' if finding.ok else 'FAULT '}{finding.name}: {finding.text}"
        for finding in found.doctor
    ]
    lines += [f"  {found.note}"] if found.note else []
    show(args, {"run": str(run.path)} | found.to_json(), "\n".join(lines))
    return 0


def _with(attack: Any, name: str, value: Any) -> Any:
    """The attack with one setting changed; one clear sentence where it has no such setting."""
    known = registry.hints(type(attack))
    if name.partition(".")[0] not in known:
        choice = ", ".join(one for one in known if one not in ("norm", "targeted"))
        raise UserError(
            f"The attack {attack.key} has no setting called {name}; it has {choice}.", code=2
        )
    return registry.with_value(attack, name, value)


def _ladder(args: argparse.Namespace, run: folder.Run) -> int:
    from robustviz.training.evaluate import ladder

    if args.steps is not None or args.restarts is not None or args.set:
        raise UserError(
            "The ladder's attacks are fixed, so that runs can be compared: leave out --steps,"
            " --restarts and --set.",
            code=2,
        )
    # Each rung is shown when it is done: the last one may take an hour.
    found = ladder(
        run,
        eps=args.eps,
        n=args.n,
        seed=args.seed,
        device=args.device,
        say=say if args.json else lambda line: show(args, None, line),
    )
    lines = [
        f"Clean {found.rungs[0].clean_k} of {found.n}. {found.verdict}",
        *([found.rungs[-1].note] if found.rungs[-1].note else []),
    ]
    show(args, {"run": str(run.path)} | found.to_json(), "\n".join(lines))
    return 0


def do_probe(args: argparse.Namespace) -> int:
    run = folder.open_run(args.run)
    spec = registry.get("probe", args.probe)()
    from robustviz.training.config import read_value

    for path, text in args.set:
        words = registry.is_text(spec, path)  # a class of digits is called 3
        spec = registry.with_value(spec, path, text if words else read_value(text))
    out = Path(args.out or f"{run.id}-{args.probe}.npz")
    table = out.suffix.lower() == ".csv"
    if table and spec.result.rows is Result.rows:
        raise UserError(
            f"The probe {args.probe} gives no table: give --out a name that ends in .npz.", code=2
        )
    result = spec(run)
    folder.write_file(out, result.to_csv() if table else result.to_npz())
    value = {
        "run": str(run.path),
        "probe": args.probe,
        "spec": registry.encode(spec),
        "out": str(out),
        "summary": result.meta.get("summary", ""),
    }
    show(args, value, f"{result.meta.get('summary', args.probe)}\n{out}")
    return 0


def do_report(args: argparse.Namespace) -> int:
    if args.overlap:
        return _overlap(args)
    chosen = [folder.open_run(name) for name in args.run] if args.run else folder.all_runs()
    base = folder.open_run(args.against) if args.against else None
    if base and args.ladder:
        raise UserError(
            "--against compares one evaluation with another, so it does not go with --ladder.",
            code=2,
        )
    found: list[tuple[folder.Run, list[Evaluation]]] = []
    for run in chosen:
        try:
            found.append((run, run.evaluations()))
        except UserError as error:
            say(f"{run.id}: {error}")  # one damaged run must not hide the others
    rows = [
        row
        for run, every in found
        for row in ([_compact(run, every)] if args.ladder else _rows(run, every, base))
    ]
    head = (
        ["run", "clean", "FGSM", "PGD-20", "PGD-100×5", "AutoAttack", "n", "doctor"]
        if args.ladder
        else [
            "run",
            "clean",
            "robust [95 %]",
            "attack",
            "ε",
            "n",
            "seed",
            "doctor",
            *([f"against {base.id}"] if base else []),
        ]
    )
    rows = [row for row in rows if row]
    lines = [
        f"| {' | '.join(head)} |",
        "|---" * len(head) + "|",
        *(f"| {' | '.join(row.pop('cells'))} |" for row in rows),
    ]
    compared = [row["against"]["sentence"] for row in rows if row.get("against")]
    text = "\n".join([*lines, *([""] if compared else []), *compared])
    show(args, rows, text if rows else "No evaluations yet: train a run first.")
    return 0


def _overlap(args: argparse.Namespace) -> int:
    """How well each run's class activation maps lie on the true object; without RUN, the shipped
    runs on shapes with the usual network.
    """
    from robustviz.probes import OverlapSpec
    from robustviz.views.attention.result import MAPS, OVERLAPS, Overlap

    if args.ladder or args.against:
        raise UserError(
            "--overlap is a table of its own: leave out --ladder and --against.", code=2
        )
    usual = [
        run
        for run in folder.all_runs()
        if run.shipped and (run.data_key, run.architecture) == ("shapes", "small_resnet")
    ]
    chosen = [folder.open_run(name) for name in args.run] if args.run else usual
    if not chosen:
        raise UserError("There is no shipped run on shapes: name the runs.")
    spec, lines, rows, found = OverlapSpec(), [], list[dict[str, Any]](), list[Overlap]()
    for run in chosen:
        try:
            found.append(spec(run))
        except UserError as error:  # one run without object masks must not hide the others
            if len(chosen) == 1:
                raise
            say(f"{run.id}: {error}")
            continue
        each = {
            measure: {kind: found[-1].interval(measure, row) for row, kind in enumerate(MAPS)}
            for measure in OVERLAPS
        }
        blind = {
            measure: float((found[-1].chance if measure == "iou" else found[-1].area).mean())
            for measure in OVERLAPS
        }
        facts = {
            measure: (
                {
                    kind: dict(zip(("mean", "low", "high"), value, strict=True))
                    for kind, value in one.items()
                }
                | {"chance": blind[measure]}
            )
            for measure, one in each.items()
        }
        rows.append(
            _whose(run)
            | facts
            | {
                name: found[-1].meta[name]
                for name in ("n", "cam", "rule", "of", "eps", "steps", "seed")
            }
        )
        cells = [
            run.id,
            *(
                "{:.3f} [{:.3f}, {:.3f}]".format(*each[measure][kind])
                for measure in ("iou", "pointing")
                for kind in MAPS
            ),
        ]
        lines.append(f"| {' | '.join([*cells, str(found[-1].meta['n'])])} |")
    if not rows:
        raise UserError("None of these runs can be measured.")
    head = [
        "run",
        *(
            f"{name} {kind} [95 %]"
            for name in ("IoU", "pointing")
            for kind in ("clean", "attacked", "random weights")
        ),
        "n",
    ]
    meta, chance = found[0].meta, (float(found[0].chance.mean()), float(found[0].area.mean()))
    note = (
        f"Means over the first n test images; {meta['cam']} of the {meta['of']} class, mask"
        f" {meta['rule']}, PGD-{meta['steps']} at each run's ε, seed {meta['seed']}. IoU: Student's"
        f" t; pointing: Wilson. A blind guess gets about {chance[0]:.3f} and {chance[1]:.3f}."
    )
    show(
        args,
        rows,
        "\n".join([f"| {' | '.join(head)} |", "|---" * len(head) + "|", *lines, "", note]),
    )
    return 0


def _whose(run: folder.Run) -> dict[str, Any]:
    return {
        "run": run.id,
        "data": run.data_key,
        "method": run.method_key,
        "train_seed": run.info.get("seed"),
    }


def _rows(
    run: folder.Run, every: list[Evaluation], base: folder.Run | None
) -> list[dict[str, Any]]:
    """One row an evaluation; `cells` is what a person reads."""
    out: list[dict[str, Any]] = []
    for found in every:
        row = _whose(run) | found.to_json() | {"ok": found.ok}
        low, high = wilson(found.robust_k, found.n)
        together = (
            f"; cumulative {found.cumulative_k / found.n:.3f}"
            if found.cumulative_k is not None and found.rung > 1
            else ""
        )
        cells = [
            run.id,
            f"{found.clean_acc:.3f}",
            f"{found.robust_acc:.3f} [{low:.3f}, {high:.3f}]{together}",
            found.printed,
            f"{found.eps:.4f}",
            str(found.n),
            str(found.seed),
            found.verdict,
        ]
        if base:
            against = _against(run, found, base)
            row["against"] = against[0]
            cells.append(against[1])
        out.append(row | {"cells": cells})
    return out


def _against(
    run: folder.Run, found: Evaluation, base: folder.Run
) -> tuple[dict[str, Any] | None, str]:
    """The paired difference to the base's evaluation under the same protocol, for machines and for
    people.
    """
    if run.path == base.path:
        return None, "–"
    asked = (found.printed, found.eps, found.n, found.seed, found.split)
    other = next(
        (
            one
            for one in base.evaluations()
            if (one.printed, one.eps, one.n, one.seed, one.split) == asked
        ),
        None,
    )
    if other is None:
        return None, "not measured alike"
    try:
        pairs = paired(found, other)
    except UserError as error:
        say(f"{run.id} against {base.id}, {found.printed}: {error}")
        return None, "cannot be compared"
    return {"run": base.id} | pairs.to_json() | {
        "sentence": pairs.sentence(run.id, base.id)
    }, pairs.cell


def _compact(run: folder.Run, every: list[Evaluation]) -> dict[str, Any]:
    """One row for a run's ladder at its own ε, the one with most rungs and then most images; else
    of what there is.
    """
    own = [one for one in ladders(every) if one.eps == run.eps and one.rungs[-1].seed == 0]
    best = max(own, key=lambda one: (len(one.rungs), one.n), default=None)
    plain = run.evaluation()
    rungs = best.rungs if best else (plain,) if plain else ()
    if not rungs:
        return {}
    by_name = {rung.printed.partition(" ")[0]: rung for rung in rungs}

    def cell(name: str) -> str:
        if name not in by_name:
            return "–"
        rung = by_name[name]
        low, high = wilson(rung.robust_k, rung.n)
        last = f" [{low:.3f}, {high:.3f}]" if rung is rungs[-1] else ""
        return (
            f"{rung.robust_acc:.3f}{last} {rung.printed.partition(' ')[2]}".rstrip()
        )  # what is unusual: targets, ℓ2

    failed = dict.fromkeys(
        f"{finding.name} ({rung.printed})"
        for rung in rungs
        for finding in rung.doctor
        if not finding.ok
    )
    cells = [
        run.id,
        f"{rungs[0].clean_acc:.3f}",
        *(cell(name) for name in ("FGSM", "PGD-20", "PGD-100×5", "AutoAttack")),
        str(rungs[0].n),
        f"FAULT: {', '.join(failed)}" if failed else "no fault found",
    ]
    facts = best.to_json() if best else rungs[0].to_json()
    return _whose(run) | facts | {"cells": cells}


def do_stop(args: argparse.Namespace) -> int:
    run = folder.open_run(args.run)
    state = queue.stop(run)
    show(args, {"run": run.id, "state": state}, f"{run.id} is {state}")
    return 0


def do_remove(args: argparse.Namespace) -> int:
    path = folder.home() / args.run
    # A damaged folder must be removable too, so this asks less than open_run does.
    run = (
        folder.Run(path)
        if folder.ID.fullmatch(args.run) and path.is_dir()
        else folder.open_run(args.run)
    )
    if queue.alive(run.status()) and run.status().get("state") == "running":
        raise UserError(f"The run {run.id} is running; stop it first.")
    folder.remove(run)
    show(args, {"removed": run.id}, f"{run.id} is removed")
    return 0


def do_app(args: argparse.Namespace) -> int:
    from robustviz.ui.launch import launch

    return launch(port=args.port, browser=False if args.no_browser else None)


def do_check(args: argparse.Namespace) -> int:
    from robustviz.check import check

    facts = check(tell=say if args.json else print)
    if args.json:
        print(json.dumps(facts, default=str))
    return 0 if facts.get("ready") else 1


def parser() -> argparse.ArgumentParser:
    """The command line's grammar."""
    top = Parser(
        prog="python -m robustviz",
        description=(
            "Train small image models with adversarial-robustness methods, and see what each one"
            " does."
        ),
    )
    commands = top.add_subparsers(
        dest="command", required=True, metavar="COMMAND", parser_class=Parser
    )

    def command(name: str, do: Any, help: str) -> argparse.ArgumentParser:
        one = commands.add_parser(name, help=help, description=help)
        one.add_argument(
            "--json", action="store_true", help="machine-readable output on standard output"
        )
        one.set_defaults(do=do)
        return one

    one = command("list", do_list, "list what can be chosen, or the runs")
    one.add_argument(
        "what", choices=["methods", "attacks", "data", "nets", "presets", "probes", "runs"]
    )

    one = command("train", do_train, "train a model and evaluate it")
    one.epilog = (
        "Several GPUs of one machine: torchrun --standalone --nproc-per-node N -m robustviz train …"
        " They share every batch; batch norm, and a loss that compares images, see each one's part"
        " of it. resume goes on with as many, or with another number."
    )
    one.add_argument("--data", help="digits, shapes, …, folder:PATH (default: digits)")
    one.add_argument("--method", help="see `list methods` (default: pgd_at)")
    one.add_argument("--net", help="see `list nets`")
    one.add_argument("--epochs", type=int)
    one.add_argument("--seed", type=int)
    one.add_argument("--eps", type=number, help="attack radius in pixel units, like 0.15 or 8/255")
    one.add_argument("--device", choices=["auto", "cpu", "cuda"])
    one.add_argument("--preset", help="see `list presets`")
    one.add_argument(
        "--set",
        type=setting,
        action="append",
        default=[],
        metavar="PATH=VALUE",
        help="any setting, like method.beta=6",
    )
    one.add_argument("--out", metavar="DIR", help="the folder that gets the run folder")
    one.add_argument("--name", metavar="ID", help="the run's id")

    one = command(
        "resume", do_resume, "go on with a run that was paused, stopped, interrupted or failed"
    )
    one.add_argument("run", metavar="RUN")

    one = command(
        "evaluate", do_evaluate, "measure a run's accuracy under attack on its test split"
    )
    one.add_argument("run", metavar="RUN")
    one.add_argument(
        "--attack",
        default="pgd",
        help=(
            "see `list attacks` (default: pgd with 20 steps); ladder: FGSM, PGD-20, PGD-100×5 and"
            " AutoAttack"
        ),
    )
    one.add_argument("--eps", type=number)
    one.add_argument("--steps", type=int)
    one.add_argument("--restarts", type=int)
    one.add_argument(
        "--set",
        type=setting,
        action="append",
        default=[],
        metavar="FIELD=VALUE",
        help="any setting of the attack, like loss=dlr",
    )
    one.add_argument("--n", type=int, help="the first n images of a seed-0 stratified permutation")
    one.add_argument("--seed", type=int, default=0)
    one.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")

    one = command(
        "probe",
        do_probe,
        "compute the numbers behind a view and write them as .npz, a table as .csv too",
    )
    one.add_argument("run", metavar="RUN")
    one.add_argument("probe", metavar="PROBE", help="see `list probes`")
    one.add_argument("--out", metavar="FILE.npz")
    one.add_argument(
        "--set",
        type=setting,
        action="append",
        default=[],
        metavar="FIELD=VALUE",
        help="any setting of the probe, like n=100",
    )

    one = command("report", do_report, "the table of evaluations")
    one.add_argument("run", metavar="RUN", nargs="*")
    one.add_argument(
        "--ladder",
        action="store_true",
        help="one row a run: accuracy under each attack of the ladder",
    )
    one.add_argument(
        "--overlap",
        action="store_true",
        help="how well each run's class activation maps lie on the true object (shapes)",
    )
    one.add_argument(
        "--against",
        metavar="BASE",
        help="the difference to this run, image by image, where both were measured alike",
    )

    one = command("stop", do_stop, "stop a running training")
    one.add_argument("run", metavar="RUN")
    one = command("remove", do_remove, "delete a run folder")
    one.add_argument("run", metavar="RUN")
    one = command("app", do_app, "start the dashboard")
    one.add_argument("--port", type=int)
    one.add_argument("--no-browser", action="store_true")
    command("check", do_check, "say whether this machine is ready")
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit status."""
    try:
        args = parser().parse_args(argv)
        if world.launched() and args.command not in ("train", "resume"):
            raise UserError(
                f"torchrun is for train and resume, which share their work: run {args.command}"
                " without it.",
                code=2,
            )
        return int(args.do(args))
    except UserError as error:
        complain(f"robustviz: {error}")
        return error.code
    except BrokenPipeError:  # somebody piped us into `head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        complain(
            "robustviz: interrupted; a training goes on with `python -m robustviz resume RUN`."
        )
        return 1
    except ModuleNotFoundError as error:
        complain(
            f"robustviz: the package {error.name} is not installed; install it, or everything with:"
            " pip install -r requirements.txt"
        )
        return 1
    except MemoryError:
        complain("robustviz: the memory is full; use fewer images or a smaller batch.")
        return 1
    except Exception as error:
        complain(
            f"robustviz: unexpected {type(error).__name__}: {error}. Please report it;"
            " ROBUSTVIZ_DEBUG=1 shows where."
        )
        if os.environ.get("ROBUSTVIZ_DEBUG"):
            raise
        return 1
