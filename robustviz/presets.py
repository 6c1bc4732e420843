"""Named training settings: lessons that fit a laptop, and published recipes as far as the papers state them.

A preset gives only what it means to fix; everything else comes from the data set. Flags and `--set` override it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from robustviz.registry import unknown
from robustviz.types import UserError


@dataclass(frozen=True)
class Preset:
    """A recipe: a sentence that says what it is and where it is from, and its settings by dotted path."""

    text: str
    settings: Mapping[str, Any]


PRESETS: dict[str, Preset] = {
    "shapes-taster": Preset(
        "CPU lesson, under a minute: FGSM-RS on drawn shapes.",
        {"data": "shapes", "method": "fgsm_rs", "epochs": 12, "lr": 0.1},
    ),
    "shapes-pgd-at": Preset("CPU lesson, a few minutes: PGD-AT on drawn shapes.", {"data": "shapes", "method": "pgd_at"}),
    "digits-pgd-at": Preset("CPU lesson, about a minute: PGD-AT on 8×8 digits.", {"data": "digits", "method": "pgd_at"}),
    "digits-trades": Preset("CPU lesson, about a minute: TRADES on 8×8 digits.", {"data": "digits", "method": "trades"}),
    "cifar10-fast-at": Preset(
        "Wong et al. 2020, CIFAR-10, for a GPU: FGSM-RS, 15 epochs. Differs: ResNet-18 for their PreAct-ResNet-18.",
        {
            "data": "cifar10", "method": "fgsm_rs", "method.attack_mode": "train", "net": "resnet18", "n_train": 0,
            "epochs": 15, "batch_size": 128, "lr": 0.2, "augment": "crop_flip",
        },
    ),
    "cifar10-trades": Preset(
        "Zhang et al. 2019, CIFAR-10, for a GPU: β = 6, 76 epochs. Differs: ResNet-18 for their WRN-34-10.",
        {
            "data": "cifar10", "method": "trades", "method.beta": 6.0, "method.bn": "official", "net": "resnet18", "n_train": 0,
            "eps": 0.031, "method.attack.step_size": 0.007, "epochs": 76, "batch_size": 128, "lr": 0.1,
            "weight_decay": 2e-4, "schedule": "step", "augment": "crop_flip",
        },
    ),
}  # fmt: skip


def preset_settings(name: str) -> Mapping[str, Any]:
    """The settings of a preset. Raises UserError naming the nearest one."""
    if name not in PRESETS:
        raise UserError(unknown("preset", name, PRESETS), code=2)
    return PRESETS[name].settings
