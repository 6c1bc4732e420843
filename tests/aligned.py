"""Finds the shipped networks that were trained by model alignment, independently of their names."""

from __future__ import annotations

from robustviz.runs import folder


def aligned(target: str = "witness_soft", data: str = "digits") -> folder.Run:
    """Returns the shipped run on this data set that was aligned to the given target."""
    every = (folder.Run(path) for path in sorted(folder.zoo().iterdir()))
    return next(
        run for run in every if run.data_key == data and run.info["method"].get("target") == target
    )


def origin(run: folder.Run) -> tuple[str, str]:
    """Returns the run ids of an aligned network's source and witness."""
    return run.info["method"]["source"], run.info["method"]["witness"]
