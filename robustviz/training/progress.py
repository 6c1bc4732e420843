"""What a training says of itself while it runs, and what it is told."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from robustviz.types import JSON, UserError

Answer = Literal["go", "pause", "stop"]
ANSWERS: tuple[Answer, ...] = ("go", "pause", "stop")


@dataclass(frozen=True)
class Tick:
    """Where a training is: after `batch` of `batches` in `epoch` (from 0) of `epochs`, and what it
    does now.
    """

    epoch: int
    epochs: int
    batch: int
    batches: int
    phase: Literal["train", "validate"]


class Diverged(UserError):
    """The loss is no longer a number."""


def tolerance_note(recorded: JSON, now: JSON) -> str:
    """A sentence where a resume cannot promise the same bits, else empty. Both are version tables
    of `config.json`.
    """
    differing = [
        name
        for name in ("torch", "platform", "device", "processes")
        if recorded.get(name) != now.get(name)
    ] + (["GPU arithmetic"] if "cuda" in (recorded.get("device"), now.get("device")) else [])
    return (
        f"Resuming approximately, not bit for bit: {', '.join(differing)} changed or vary."
        if differing
        else ""
    )
