"""What each process that torchrun starts for test_world.py does: `torchrun … together.py PLAN`,
where PLAN is JSON.

Everything is small, as in the other tests: splits of a dozen images, a network without batch norm,
and none of the checks of the doctor (`evaluate.examine`).
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from conftest import Blink
from safetensors.torch import save_file
from torch import nn

from robustviz import cli, data, registry
from robustviz.methods import Standard
from robustviz.nets.base import Classifier, Normalise
from robustviz.runs import worker
from robustviz.training import config, evaluate, loop, world

# Two processes share each batch of 33 images as 16 and 17.
BASE = {
    "data": "digits",
    "n_train": 66,
    "batch_size": 33,
    "epochs": 2,
    "threads": 1,
    "device": "cpu",
}


class Plain(Classifier):
    """A network without batch norm: an image's logits do not depend on the other images of the
    batch.
    """

    key = "plain"

    def __init__(
        self,
        classes: int,
        channels: int,
        size: int,
        mean: Sequence[float] | None,
        std: Sequence[float] | None,
    ) -> None:
        super().__init__(
            nn.Sequential(
                Normalise(channels, mean, std), nn.Conv2d(channels, 4, 3, 2, 1), nn.ReLU()
            ),
            nn.Linear(4, classes),
        )


def small(take: int = 12) -> None:
    """Registers two test networks, and limits the validation and test splits to `take` images."""
    registry.keys("net")
    registry._table["net"] |= {"plain": Plain, "blink": Blink}
    whole = data.load
    data.load = lambda source, split="train", n=None: whole(source, split, n).take(
        take if split != "train" else 10**6
    )
    evaluate.examine = lambda *a, **k: ()


def finished(settings: dict[str, Any], here: world.World = world.ALONE) -> loop.Training:
    """Runs a training to its end and returns it."""
    found = loop.Training(config.TrainConfig.make(None, BASE | settings), here)
    for _ in found.epochs():
        pass
    return found


def scene(plan: dict[str, Any]) -> int:
    """Runs the trainings of `plan`, then the command line if the plan has arguments for it. Returns
    the exit code.
    """
    rank, here = int(os.environ["RANK"]), world.join()
    out = Path(plan["out"])
    for name, settings in plan.get("trainings", {}).items():
        tensors, plain = finished(settings, here).state()
        save_file(tensors, out / f"{name}-{rank}.safetensors")
        (out / f"{name}-{rank}.json").write_text(json.dumps(plain))
    if rank == plan.get("fails"):
        Standard.loss = {"error": _raise, "kill": _kill, "nan": _nan}[plan["how"]]
    if wish := plan.get("wish"):  # Request this while the first epoch is trained.
        worker.HEARTBEAT = 0.0
        before = worker._Heartbeat.__call__

        def ask(self: worker._Heartbeat, tick: loop.Tick) -> loop.Answer:
            if (tick.epoch, tick.batch) == (0, 1):
                self.run.ask(wish)
            return before(self, tick)  # type: ignore[no-any-return]

        worker._Heartbeat.__call__ = ask  # type: ignore[method-assign]
    return cli.main(plan["argv"]) if "argv" in plan else 0


def _raise(*args: object) -> None:
    raise MemoryError


def _kill(*args: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _nan(self: Standard, net: nn.Module, batch: Any, aux: nn.Module | None) -> dict[str, Any]:
    return {"ce": net(batch.x).sum() * float("nan")}


if __name__ == "__main__":
    small()
    raise SystemExit(scene(json.loads(sys.argv[1])))
