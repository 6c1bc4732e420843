"""B5: what PART's masks cost: an epoch of PART against one of PGD-AT, both ours."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from benchmarks.harness import Gate, Outcome, Racer, Time, race
from robustviz.config import TrainConfig
from robustviz.methods import PART, PGDAT
from robustviz.methods.base import Method, Stage
from robustviz.training import Training

LIMIT = 1.08


def outcomes(device: str, rounds: int) -> Iterator[Outcome]:
    """Eight steps a turn from the second half of the training, when PART's masks are in use."""

    def runner(method: Method) -> Racer:
        training = Training(TrainConfig(data="shapes", method=method, device=device))  # type: ignore[arg-type]
        stage: Stage = training.plan[0][0]
        training._enter(stage, fresh=True)
        batches: list[Tensor] = [part for part in training._batches() if len(part) == training.config.batch_size]

        def steps() -> None:
            for _ in range(8):
                training.batch = (training.batch + 1) % len(batches)
                training._step(stage, batches[training.batch], 0.01, 0.9)

        return Racer(method.label, steps)

    times: tuple[Time, ...] = race([runner(PART()), runner(PGDAT())], rounds or 9, device)
    one = Outcome("B5", "8 steps of PART, masks included", "shapes, small_resnet, batch 64, PGD-10", times)
    middle, least = (1 / ratio for ratio in one.ratio(times[1]))
    gate = Gate(f"PART takes {middle:.3f} (median), {least:.3f} (minima) of PGD-AT's time; at most {LIMIT}", min(middle, least) <= LIMIT)
    yield Outcome(one.key, one.what, one.setting, times, {}, (gate,))
