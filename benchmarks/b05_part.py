"""B5: the cost of PART's masks: steps of our PART against steps of our PGD-AT, and against masks
made as the authors make them.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator

from torch import Tensor

from benchmarks import setting
from benchmarks.harness import OURS, Gate, Outcome, Racer, race
from robustviz import data
from robustviz.methods import PART, PGDAT
from robustviz.methods.base import Method
from robustviz.nets.base import Classifier
from robustviz.training.config import TrainConfig
from robustviz.training.loop import Training

LIMIT = 1.08
PEER = "PGD-AT, masks in PART's way, image by image"
WANTED = {"cuda": {PEER: 80.0}}


def outcomes(device: str, rounds: int) -> Iterator[Outcome]:
    """On a CPU the small network on shapes; on a GPU ResNet-18 on CIFAR-10 or on drawn images."""
    if device == "cpu":
        yield from steps("shapes", "small_resnet", 64, 8, device, rounds or 9, "shapes")
    else:
        source, _, words = setting.cifar10()
        yield from steps(source, "resnet18", 128, 8, device, rounds or 5, words)


def steps(
    source: str | data.Source, net: str, size: int, count: int, device: str, rounds: int, words: str
) -> Iterator[Outcome]:
    """Time `count` training steps in each turn, from the second half of a training.

    That is the part of the training in which PART uses its masks.
    """

    def stepper(method: Method) -> Stepper:
        return Stepper(
            TrainConfig(data=source, method=method, net=net, batch_size=size, device=device), count
        )  # type: ignore[arg-type]

    part, plain = stepper(PART()), stepper(PGDAT())
    label = f"{words}, {net}, batch {size}, PGD-10"
    racers = [Racer(OURS, part.run), Racer("PGD-AT, ours", plain.run)]
    try:
        racers.append(Racer(PEER, _image_by_image(stepper(PGDAT()))))
        note = (
            "The last row makes masks image by image and leaves the steps to our PGD-AT; the"
            f" authors do so for all images once an epoch, as here for {count * size}."
        )
    except ImportError as error:
        note = f"What makes masks in PART's way is not here ({error})."
    times = race(racers, rounds, device)
    one = Outcome(
        "B5", f"{count} steps of PART, masks included", label, times, WANTED.get(device, {})
    )
    middle, least = (1 / ratio for ratio in one.ratio(times[1]))
    gate = Gate(
        f"PART takes {middle:.3f} (median), {least:.3f} (minima) of PGD-AT's time; at most {LIMIT}",
        min(middle, least) <= LIMIT,
    )
    yield Outcome(one.key, one.what, one.setting, times, one.wanted, (gate,), note)


def _image_by_image(theirs: Stepper) -> Callable[[], None]:
    """A function that runs steps of PGD-AT, each after making masks of its images as PART's code
    does. Raises ImportError without torchcam.
    """
    from torchcam.methods import GradCAM as TorchCAM

    from benchmarks.b09_cam import image_by_image

    own = copy.deepcopy(theirs.training.net)
    assert isinstance(own, Classifier)

    def run() -> None:
        with TorchCAM(own, own.maps) as hooked:
            for index in theirs.next():
                image_by_image(
                    own,
                    hooked,
                    theirs.training.images[index].float() / 255,
                    theirs.training.y[index],
                )
                theirs.step(index)

    return run


class Stepper:
    """A training that runs `count` steps in each turn."""

    def __init__(self, config: TrainConfig, count: int) -> None:
        self.training, self.count = Training(config), count
        self.stage = self.training.plan[0][0]
        self.training._enter(self.stage, fresh=True)
        self.batches = [part for part in self.training._batches() if len(part) == config.batch_size]

    def next(self) -> Iterator[Tensor]:
        """The positions of the images in the next `count` batches, batch by batch."""
        for _ in range(self.count):
            self.training.batch = (self.training.batch + 1) % len(self.batches)
            yield self.batches[self.training.batch]

    def step(self, index: Tensor) -> None:
        self.training._step(self.stage, index, 0.01, 0.9)

    def run(self) -> None:
        for index in self.next():
            self.step(index)
