"""The commands `pause`, `stop` and `remove`: control running trainings, and delete run folders."""

import argparse

from robustviz.cli.terminal import RUN, Command, about, show
from robustviz.runs import folder, queue


def stop(args: argparse.Namespace) -> int:
    """Stop a training, by force if it does not end by itself, and show its state. Returns the exit
    status 0. Raises UserError if the run is neither queued nor running.
    """
    run = folder.open_run(args.run)
    state = queue.stop(run)
    return show(args, {"run": run.id} | about(run) | {"state": state}, f"{run.id} is {state}")


def pause(args: argparse.Namespace) -> int:
    """Pause a training, wait at most ten seconds until it has paused, and show its state. Returns
    the exit status 0, also if it has not paused by then.
    """
    run = folder.open_run(args.run)
    state = queue.pause(run)
    said = {
        "paused": f"{run.id} is paused; go on with: python -m robustviz resume {run.id}",
        "running": f"{run.id} is asked to pause: it does so at the next step of its training",
    }.get(state, f"{run.id} is {state}")
    return show(args, {"run": run.id} | about(run) | {"state": state}, said)


def remove(args: argparse.Namespace) -> int:
    """Delete a folder of the user's runs, even if it is damaged. Returns the exit status 0. Raises
    UserError for a shipped run, and for one that is being trained.
    """
    path = folder.home() / args.run
    run = (
        # A damaged folder must be removable too, so this checks less than open_run.
        folder.Run(path)
        if folder.ID.fullmatch(args.run) and path.is_dir()
        else folder.open_run(args.run)
    )
    queue.remove(run)
    return show(args, {"removed": run.id} | about(run), f"{run.id} is removed")


COMMANDS = (
    Command("pause", pause, "pause a running training; resume goes on with it", RUN),
    Command("stop", stop, "stop a running training", RUN),
    Command("remove", remove, "delete a run folder", RUN),
)
