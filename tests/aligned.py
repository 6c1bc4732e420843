"""The shipped networks of model alignment, whatever they are called today."""

from __future__ import annotations

from robustviz.runs import folder


def aligned(target: str = "witness_soft", data: str = "digits") -> folder.Run:
    """The shipped source that was aligned to that target on these images."""
    every = (folder.Run(path) for path in sorted(folder.zoo().iterdir()))
    return next(
        run for run in every if run.data_key == data and run.info["method"].get("target") == target
    )


def origin(run: folder.Run) -> tuple[str, str]:
    """What an aligned network was made of: the source before and the witness."""
    return run.info["method"]["source"], run.info["method"]["witness"]
