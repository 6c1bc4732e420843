"""Estimates how long a training run will take by running three of its training steps in the app's
own process, and checks whether it can start.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import threading
import time
from typing import Literal, cast

import streamlit as st

from robustviz import data, process, registry
from robustviz.attacks import PGD
from robustviz.memory import ANSWERS
from robustviz.runs import sweeps
from robustviz.training.config import TrainConfig, norm_of
from robustviz.training.evaluate import count_right, left
from robustviz.training.loop import Tick, Training, check

# A network with more than LARGE weights is timed on only FEW images: a step of ResNet-18 on 128
# images takes 4 GB, in the process that serves the pages of all users.
LARGE, FEW = 1_000_000, 8
LASTS = 300  # seconds that a measured time stays valid: the machine's load changes
# Two measurements at once would slow each other down.
_ONE_AT_A_TIME = threading.Lock()


def estimate(config: TrainConfig) -> str:
    """Sentences (Markdown) on how long the training will take, from timing three of its steps.
    The time is cached per config for up to `LASTS` seconds. If the images have to be read from a
    folder or downloaded, nothing is timed, and the text gives the number of epochs and, for a
    folder, of images.

    Raises UserError if the training cannot start. This is not checked if the images may have to be
    downloaded; then the job itself reports what is wrong.
    """
    if config.data.at_hand:
        seconds, batches = _seconds(json.dumps(config.to_json(), sort_keys=True))
        return (
            f"About **{duration(seconds)}** on this computer, including the final evaluation:"
            f" {config.epochs} epochs of {batches} steps, timed a moment ago. It takes longer while"
            " other work keeps the computer busy."
        )
    if registry.of_kind(type(config.data), "folder"):
        # report at once what is wrong with the folder
        images = data.load(config.data, "train", config.n_train or None)
        fits(dataclasses.replace(config, device="cpu"))
        return (
            f"{config.epochs} epochs of {len(images)} images. The time left is shown once it runs."
            f" {data.unequal(images)}".rstrip()
        )
    return (
        f"{config.epochs} epochs. The time left is shown once it runs. The job loads the images,"
        " and downloads them if necessary."
    )


def _seconds(settings: str) -> tuple[float, int]:
    slot = ANSWERS["seconds", settings, time.monotonic() // LASTS]
    with st.spinner("Timing three training steps …"):
        return cast("tuple[float, int]", slot.filled(lambda: _timed(settings)))


def _timed(settings: str) -> tuple[float, int]:
    """Seconds that a training run with its evaluation will take, and its number of steps per epoch.
    `settings`: the config as JSON text. The time is extrapolated from up to three training steps,
    of which the fastest counts, and PGD-10 on a few images, all timed here.
    """
    config = TrainConfig.from_json(json.loads(settings))
    large = sweeps.weights(config.net) > LARGE
    asked = int(config.batch_size or 1)
    batch = min(asked, FEW) if large else asked
    tried = dataclasses.replace(config, batch_size=batch)
    with _ONE_AT_A_TIME, process.threads(int(config.threads or 1)):
        training = Training(tried)
        times: list[float] = []

        def stop_soon(tick: Tick) -> Literal["go", "stop"]:
            times.append(time.perf_counter())
            return "stop" if len(times) > 3 else "go"

        list(training.epochs(stop_soon))
        few = training.val.take(min(FEW if large else 64, len(training.val)))
        x, y = few.x.to(training.device), few.y.to(training.device)
        started = time.perf_counter()
        count_right(training.net, x, y, PGD(eps=config.eps, steps=10, norm=norm_of(config)))
        image = (time.perf_counter() - started) / len(few)  # seconds per image under PGD-10
    step = min((b - a for a, b in itertools.pairwise(times)), default=0.0) * asked / batch
    batches = -(-len(training.y) // asked)
    epochs = (step * batches + image * len(training.val)) * int(config.epochs or 1)
    tested = len(data.load(config.data, "test"))
    return epochs + image * left(0, min(tested, config.test_n or tested)), batches


def fits(config: TrainConfig) -> None:
    """Checks that a training can start; raises UserError if not. Only success is cached."""

    def begins() -> bool:
        with _ONE_AT_A_TIME:
            check(config)
        return True

    with st.spinner("Checking the settings …"):
        ANSWERS["fits", json.dumps(config.to_json(), sort_keys=True)].filled(begins)


def duration(seconds: float) -> str:
    """A time in seconds as text: `45 s`, from 100 s on `12 min`, from 90 minutes on `1.6 h`."""
    long = f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
    return f"{seconds:.0f} s" if seconds < 100 else long
