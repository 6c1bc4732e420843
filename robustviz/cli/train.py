"""The commands `train` and `resume`: run a training in this terminal."""

import argparse
from pathlib import Path

from robustviz import plugins, registry
from robustviz.cli.data import named
from robustviz.cli.terminal import DEVICE, RUN, Command, about, number, say, settings, show
from robustviz.runs import folder, queue, worker
from robustviz.training import world
from robustviz.types import UserError, harmless

FLAGS = (
    *("data", "method", "net", "epochs", "seed", "eps", "device"),
    *("init", "patience", "test_n"),
)


def do(args: argparse.Namespace) -> int:
    """Train the network that the arguments describe, evaluate it, and show its accuracies; a run
    that is trained already is not trained again. If the training is paused or stopped, show that
    instead. Returns the exit status 0 in either case. Raises UserError, before a run folder is
    made, for settings, data or a network that do not fit.
    """
    from robustviz import data
    from robustviz.training.config import TrainConfig
    from robustviz.training.loop import check

    here = world.join()
    flags = {
        name: value for name, value in vars(args).items() if name in FLAGS if value is not None
    }
    if "data" in flags:
        flags["data"] = named(flags["data"])
    config = TrainConfig.make(args.preset, flags, args.set).on_this_machine(folder.find_run)
    with here.main_first():
        # Errors in data, network or method are reported before a run folder is made. The images
        # loaded for this check stay in the cache for the training.
        check(config, here)
        if here.main and registry.of_kind(type(config.data), "folder"):
            say(data.load(config.data, "train", config.n_train or None).card)
        place = Path(args.out) if args.out else None
        found = {"label": args.label} if args.label else None
        run = (
            queue.claim(config, name=args.name, place=place, found=found)
            if here.main
            else folder.create(config, name=args.name, folder=place, found=found)
        )
        if here.main and found and not harmless(args.label).startswith(run.label or "\n"):
            say(f"{run.id} was made before, and keeps its label: {run.label or 'none'}.")
    return _train(args, run, here)


def resume(args: argparse.Namespace) -> int:
    """Continue the training of a run, evaluate it, and show its accuracies. If the training is
    paused or stopped again, show that instead. Returns the exit status 0 in either case. Raises
    UserError for a run that was shipped or imported.
    """
    here = world.join()
    run = folder.open_run(args.run)
    if run.shipped:
        raise UserError(
            f"{run.id} came with robustviz and is finished; train one of your own.", code=2
        )
    if run.imported:
        raise UserError(
            f"{run.id} was imported, so there is no training to continue; evaluate it with:"
            f" python -m robustviz evaluate {run.id}",
            code=2,
        )
    return _train(args, run, here)


def _known(run: folder.Run) -> str:
    """The line to print for a run that is trained already. It also says whether the code of the
    run's plug-in has changed since.
    """
    other = plugins.changed(run.info.get("plugins", ()))
    new = f" {other} To train with the new code, choose another name: --name NAME." if other else ""
    return f"{run.id} is already trained; these are its results.{new}"


def _train(args: argparse.Namespace, run: folder.Run, here: world.World) -> int:
    from robustviz.training.evaluate import evaluate

    if here.main:
        say(_known(run) if run.status().get("state") in folder.OVER else f"run {run.path}")
    try:
        ended = worker.execute(run, say, here)
    except KeyboardInterrupt:
        go_on = f"interrupted; go on with: python -m robustviz resume {run.id}"
        raise KeyboardInterrupt(go_on) from None
    if not here.main:
        return 0
    facts = {"run": str(run.path)} | about(run)
    if ended != "done":
        return show(
            args,
            facts | {"state": ended},
            f"{run.id} is {ended}; go on with: python -m robustviz resume {run.id}",
        )
    evaluation = run.evaluation() or evaluate(run)
    seconds = float(run.status().get("seconds") or 0.0)
    return show(
        args,
        facts
        | {
            "clean_acc": evaluation.clean_acc,
            "robust_acc": evaluation.robust_acc,
            "n": evaluation.n,
            "eps": evaluation.eps,
            "attack": evaluation.attack,
            "seconds": seconds,
            "epochs": len(run.records()),
        },
        f"{run.id}: clean {evaluation.clean_acc:.4f}, {evaluation.printed}"
        f" {evaluation.robust_acc:.4f} at eps {evaluation.eps:.4f} (test, n={evaluation.n}),"
        f" {seconds:.0f} s",
    )


SETTINGS = (
    "SETTINGS: `list methods trades` has those of TRADES with their defaults and bounds, and `list"
    " attacks pgd`, `list data shapes` those of an attack and of a data set. "
)
SEVERAL_GPUS = (
    "Several GPUs of one machine: torchrun --standalone --nproc-per-node N -m robustviz train …"
    " Every batch is divided among the GPUs; batch norm, and losses that compare images, use the"
    " part on each GPU. resume works with any number of GPUs."
)
COMMANDS = (
    Command(
        "train",
        do,
        "train a network and evaluate it",
        {
            "--data": {
                "help": "digits, shapes, …, folder:PATH, FILE.csv, or a name that `data add` gave"
                " (default: digits)"
            },
            "--method": {
                "help": "see `list methods`, and `list methods NAME` for its settings"
                " (default: pgd_at)"
            },
            "--net": {"help": "see `list nets`"},
            "--epochs": {"type": int},
            "--seed": {"type": int},
            "--eps": {"type": number, "help": "attack radius in pixel units, like 0.15 or 8/255"},
            "--device": DEVICE,
            "--init": {
                "metavar": "RUN|FILE",
                "help": "start from the weights of a run or a file; a head of another size is"
                " initialised anew",
            },
            "--patience": {
                "type": int,
                "metavar": "K",
                "help": "stop after K epochs without a better validation accuracy",
            },
            "--test-n": {
                "type": int,
                "metavar": "N",
                "help": "evaluate on N test images at the end (default: all)",
            },
            "--preset": {"help": "see `list presets`"},
            **settings("PATH=VALUE", "any setting, like method.beta=6; see SETTINGS below"),
            "--out": {"metavar": "DIR", "help": "the folder in which the run folder is made"},
            "--name": {"metavar": "ID", "help": "the run's id"},
            "--label": {"metavar": "TEXT", "help": "what pages and tables call the network"},
        },
        SETTINGS + SEVERAL_GPUS,
    ),
    Command(
        "resume", resume, "go on with a run that was paused, stopped, interrupted or failed", RUN
    ),
)
