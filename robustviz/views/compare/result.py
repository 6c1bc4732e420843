"""The spec and result for networks shown side by side."""

from __future__ import annotations

from dataclasses import dataclass

from robustviz.registry import option, register
from robustviz.stats import Floats, Ints
from robustviz.views.result import ProbeSpec, Result


@dataclass(frozen=True)
class Alongside(Result):
    """How one training run's networks classify the same n test images, in F frames.
    A frame is the network at one of the epochs whose weights were stored; the last frame has the
    best weights, those that the run chose as its result.

    `epochs` (F,): the epoch of each frame, from 1, and 0 for the best weights; `index`, `y` (n,):
    index in the test split and class of each image; `pred`, `pred_adv` (F, n): the predicted
    classes, clean and under an attack on that frame's network; `clean`, `adversarial` (F, n, 2):
    the features, all projected onto one plane, that of the last frame's clean class centres. Only
    the first s images are stored as pictures: `x` (s, C, H, W) and `x_adv` (F, s, C, H, W), uint8;
    `heat` (F, s, h, w): the signed class activation map of the clean image for its true class, with
    h = w = 0 if the network has none.
    """

    epochs: Ints
    index: Ints
    y: Ints
    pred: Ints
    pred_adv: Ints
    clean: Floats
    adversarial: Floats
    x: Ints
    x_adv: Ints
    heat: Floats


@register("probe/alongside")
@dataclass(frozen=True)
class AlongsideSpec(ProbeSpec[Alongside]):
    """Some test images as classified by a run's best weights and at its earlier epochs.
    The images are the one with index `index` and the first n − 1 others of the test split. If the
    weights of more than `frames` epochs were stored, `frames` of them are used, evenly spaced. The
    attack is PGD in linf with the run's ε, or the data's default ε if the run was trained in l2.
    """

    index: int = option(0, "Number of the first image.", low=0, kind="image")
    n: int = option(60, "Number of test images on the feature map.", low=1)
    shown: int = option(6, "Number of these images shown as pictures.", low=1, high=20)
    frames: int = option(6, "Maximum number of kept epochs.", low=0, high=50)
    steps: int = option(10, "Steps of PGD.", low=1, high=1000)
    seed: int = option(0, "Seed of the attack's noise.", low=0, high=2**32 - 1)

    result = Alongside
