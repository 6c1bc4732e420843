"""What a running training reports, and what a callback can return to it ("go", "pause" or "stop");
importing this needs no torch.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from robustviz.types import JSON, UserError

if TYPE_CHECKING:
    from robustviz.training.loop import Training

Answer = Literal["go", "pause", "stop"]
ANSWERS: tuple[Answer, ...] = ("go", "pause", "stop")


@dataclass(frozen=True)
class Tick:
    """The position of a training and whether it trains or validates now (`phase`): `batch` of
    `batches` are finished in `epoch` (from 0) of `epochs`.
    """

    epoch: int
    epochs: int
    batch: int
    batches: int
    phase: Literal["train", "validate"]


@dataclass(frozen=True)
class EpochRecord:
    """The results of one epoch, counted from 1. `stage` is the name of the training's stage;
    `losses` holds each loss term's mean over the epoch; accuracies are in [0, 1], on `n_val`
    validation images, `robust_acc` under PGD-10 at the run's ε; `seconds` includes validation; `lr`
    is the learning rate of the last batch; `best`: whether this epoch is the best so far by the
    run's setting `select` (a tie counts as best); `training`: the training itself, for callbacks.
    """

    epoch: int
    stage: str
    losses: dict[str, float]
    clean_acc: float
    robust_acc: float
    n_val: int
    seconds: float
    lr: float
    best: bool
    training: Training = field(repr=False, compare=False)

    def to_json(self) -> JSON:
        """Returns a dictionary of plain values, one line of `metrics.jsonl`; with the number of
        `processes` if there were several.
        """
        size = self.training.world.size
        return {
            name: getattr(self, name) for name in self.__dataclass_fields__ if name != "training"
        } | ({"processes": size} if size > 1 else {})


class Diverged(UserError):
    """Raised when the loss became NaN or infinite."""


def tolerance_note(recorded: JSON, now: JSON) -> str:
    """Returns a sentence if a resumed training may not give bit-identical results, else an empty
    text. `recorded` and `now` are the circumstances then and now: dictionaries like `versions` in
    `config.json`, with `device` and `processes` added.
    """
    differing = [
        name
        for name in ("torch", "platform", "processor", "device", "processes")
        # older runs did not record the processor
        if recorded.get(name, now.get(name) if name == "processor" else None) != now.get(name)
    ] + (["GPU arithmetic"] if "cuda" in (recorded.get("device"), now.get("device")) else [])
    return (
        "The resumed training may differ slightly, because these changed or vary:"
        f" {', '.join(differing)}."
        if differing
        else ""
    )
