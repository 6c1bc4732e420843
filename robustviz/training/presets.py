"""Named training settings: lessons that fit a laptop, and published recipes as far as the papers
state them.

A preset gives only what it means to fix; everything else comes from the data set. Flags and `--set`
override it. Of a published recipe the text says after "Differs:" what is ours. All of them train on
what the validation split leaves of the official training images, and shift images by repeating the
edge, where the usual code pads with black.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from robustviz.registry import unknown
from robustviz.types import UserError


@dataclass(frozen=True)
class Preset:
    """A recipe: a sentence that says what it is and where it is from, and its settings by dotted
    path.
    """

    text: str
    settings: Mapping[str, Any]


FALLS = "the rate falls at 75 and 90 % of the training"
RAW = "the network normalises its input, theirs does not"

# What the published code of PART has in common (methods.md §1).
_PART = {
    "method": "part",
    "method.eps_low": 7 / 255,
    "method.warmup": 0.25,
    "net": "resnet18",
    "n_train": 0,
    "eps": 8 / 255,
    "epochs": 80,
    "batch_size": 128,
    "lr": 0.01,
    "schedule": "step",
}
_PART_DIFFERS = (
    "Differs: each mask is of the very image attacked, at its true class and from the heat itself;"
    f" {FALLS}, theirs in the last epoch; {RAW}."
)

LESSONS: dict[str, Preset] = {
    "shapes-taster": Preset(
        "CPU lesson, under a minute: FGSM-RS on drawn shapes.",
        {"data": "shapes", "method": "fgsm_rs", "epochs": 12, "lr": 0.1},
    ),
    "shapes-pgd-at": Preset(
        "CPU lesson: PGD-AT on drawn shapes.", {"data": "shapes", "method": "pgd_at"}
    ),
    "shapes-part": Preset(
        "CPU lesson: PART on drawn shapes; pixels that matter less get 7/8 of ε.",
        {"data": "shapes", "method": "part"},
    ),
    "shapes-part-oracle": Preset(
        "CPU lesson: PART on drawn shapes with the true object as the mask. What would a perfect"
        " class-activation map give?",
        {"data": "shapes", "method": "part", "method.rule": "oracle"},
    ),
    "shapes-part-zero": Preset(
        "CPU lesson: PART on drawn shapes with ε_low = 0: pixels that matter less are not attacked"
        " at all. What does that cost?",
        {"data": "shapes", "method": "part", "method.eps_low": 0.0},
    ),
    "shapes-afa": Preset(
        "CPU lesson: adversarial feature alignment (AFA) on drawn shapes.",
        {"data": "shapes", "method": "afa"},
    ),
    "shapes-supcon-all": Preset(
        "CPU lesson: CE + SupCon + margin on drawn shapes, no adversarial training.",
        {"data": "shapes", "method": "supcon_margin"},
    ),
    "shapes-model-alignment": Preset(
        "CPU lesson, red team: an ordinary network on drawn shapes is fine-tuned to another one's"
        " soft labels. Do its attacks transfer better?",
        {"data": "shapes", "method": "model_alignment"},
    ),
    "digits-pgd-at": Preset(
        "CPU lesson: PGD-AT on 8×8 digits.", {"data": "digits", "method": "pgd_at"}
    ),
    "digits-fgsm-at": Preset(
        "CPU lesson: FGSM-AT on 8×8 digits. Does accuracy under PGD fall to zero (catastrophic"
        " overfitting)?",
        {"data": "digits", "method": "fgsm_at"},
    ),
    "digits-trades": Preset(
        "CPU lesson: TRADES on 8×8 digits.", {"data": "digits", "method": "trades"}
    ),
    "digits-mart": Preset("CPU lesson: MART on 8×8 digits.", {"data": "digits", "method": "mart"}),
    "digits-alp": Preset(
        "CPU lesson: adversarial logit pairing (ALP) on 8×8 digits.",
        {"data": "digits", "method": "alp"},
    ),
    "digits-aalp": Preset(
        "CPU lesson: adaptive adversarial logit pairing (AALP) on 8×8 digits, with guided dropout"
        " and a weight for each pair.",
        {"data": "digits", "method": "aalp"},
    ),
    "digits-part": Preset(
        "CPU lesson: PART on 8×8 digits; pixels that matter less get 7/8 of ε.",
        {"data": "digits", "method": "part"},
    ),
    "digits-afa": Preset(
        "CPU lesson: adversarial feature alignment (AFA) on 8×8 digits, its classifier learned"
        " beside the features.",
        {"data": "digits", "method": "afa"},
    ),
    "digits-afa-slf": Preset(
        "CPU lesson: AFA on 8×8 digits in two stages: features first, then a linear head on clean"
        " images (SLF).",
        {"data": "digits", "method": "afa", "method.head": "SLF"},
    ),
    "digits-afa-trades": Preset(
        "CPU lesson: AFA and TRADES together on 8×8 digits.",
        {"data": "digits", "method": "afa_trades"},
    ),
    "digits-supcon-ce": Preset(
        "CPU lesson, the first of four: CE alone on 8×8 digits, to compare SupCon and margin with.",
        {
            "data": "digits",
            "method": "supcon_margin",
            "method.supcon_weight": 0.0,
            "method.margin_weight": 0.0,
            "method.pairs": True,
        },
    ),
    "digits-supcon": Preset(
        "CPU lesson, the second of four: CE + SupCon on 8×8 digits.",
        {"data": "digits", "method": "supcon_margin", "method.margin_weight": 0.0},
    ),
    "digits-supcon-margin": Preset(
        "CPU lesson, the third of four: CE + margin on 8×8 digits.",
        {"data": "digits", "method": "supcon_margin", "method.supcon_weight": 0.0},
    ),
    "digits-supcon-all": Preset(
        "CPU lesson, the last of four: CE + SupCon + margin on 8×8 digits. Look at FGSM and PGD"
        " side by side.",
        {"data": "digits", "method": "supcon_margin"},
    ),
    "digits-model-alignment": Preset(
        "CPU lesson, red team: an ordinary network on 8×8 digits is fine-tuned to another one's"
        " soft labels. Do its attacks transfer better?",
        {"data": "digits", "method": "model_alignment"},
    ),
}

PUBLISHED: dict[str, Preset] = {
    "cifar10-fast-at": Preset(
        "Wong et al. 2020, CIFAR-10, for a GPU: FGSM-RS with PreAct-ResNet-18, 15 epochs, rate up"
        " to .2. Differs: the shortcuts of their blocks read the raw input.",
        {
            "data": "cifar10",
            "method": "fgsm_rs",
            "method.attack_mode": "train",
            "net": "preact_resnet18",
            "n_train": 0,
            "epochs": 15,
            "batch_size": 128,
            "lr": 0.2,
            "augment": "crop_flip",
        },
    ),
    "cifar10-trades": Preset(
        "Zhang et al. 2019 (TRADES), CIFAR-10, for a GPU: WRN-34-10, β = 6, 76 epochs. Differs:"
        f" {FALLS}, theirs in epoch 75; {RAW}.",
        {
            "data": "cifar10",
            "method": "trades",
            "method.beta": 6.0,
            "method.bn": "official",
            "net": "wrn_34_10",
            "n_train": 0,
            "eps": 0.031,
            "method.attack.step_size": 0.007,
            "epochs": 76,
            "batch_size": 128,
            "lr": 0.1,
            "weight_decay": 2e-4,
            "schedule": "step",
            "augment": "crop_flip",
        },
    ),
    "cifar10-mart": Preset(
        "Wang et al. 2020 (MART), CIFAR-10, for a GPU: ResNet-18, β = 5, rate .01, weight decay"
        " .0035, 120 epochs. Differs: batches of 128 and PGD in 10 steps of 2/255 are ours;"
        f" {FALLS}; {RAW}.",
        {
            "data": "cifar10",
            "method": "mart",
            "method.beta": 5.0,
            "net": "resnet18",
            "n_train": 0,
            "epochs": 120,
            "batch_size": 128,
            "lr": 0.01,
            "weight_decay": 3.5e-3,
            "schedule": "step",
            "augment": "crop_flip",
        },
    ),
    "cifar10-part": Preset(
        "Zhang et al. 2024 (PART), CIFAR-10, for a GPU: ResNet-18, ε_low = 7/255, 80 epochs, the"
        f" first 20 plain. {_PART_DIFFERS}",
        {
            "data": "cifar10",
            **_PART,
            "method.attack.step_size": 2 / 255,
            "weight_decay": 2e-4,
            "augment": "crop_flip",
        },
    ),
    "svhn-part": Preset(
        "Zhang et al. 2024 (PART), SVHN, for a GPU: steps of 1/255, weight decay .0035, no"
        f" augmentation. {_PART_DIFFERS}",
        {
            "data": "svhn",
            **_PART,
            "method.attack.step_size": 1 / 255,
            "weight_decay": 3.5e-3,
            "augment": "none",
        },
    ),
    "tiny-imagenet-part": Preset(
        "Zhang et al. 2024 (PART), Tiny-ImageNet, for a GPU: ResNet-18 with their settings of"
        f" CIFAR-10. {_PART_DIFFERS} Their settings for this data could not be read.",
        {
            "data": "tiny_imagenet",
            **_PART,
            "method.attack.step_size": 2 / 255,
            "weight_decay": 2e-4,
            "augment": "crop_flip",
        },
    ),
    "cifar100-supcon-margin": Preset(
        "Wang, Nayyem, Rakin 2024 (SupCon and margin), CIFAR-100, for a GPU: ResNet-18 without"
        " augmentation, where the paper sees most gain. Differs: weights, τ, m and 100 epochs are"
        " ours, because theirs are not public; 32×32 images, theirs are enlarged.",
        {
            "data": "cifar100",
            "method": "supcon_margin",
            "net": "resnet18",
            "n_train": 0,
            "epochs": 100,
            "lr": 0.1,
            "schedule": "cosine",
            "augment": "none",
        },
    ),
    "cifar10-afa": Preset(
        "Park et al. 2024 (AFA), CIFAR-10, for a GPU: features first, then a linear head. Differs:"
        " our reading throughout, because only the idea could be read: ResNet-18, batches of 256,"
        " rate .1 cosine, τ = .1, 100 epochs, the head on clean images (SLF).",
        {
            "data": "cifar10",
            "method": "afa",
            "method.head": "SLF",
            "net": "resnet18",
            "n_train": 0,
            "epochs": 100,
            "batch_size": 256,
            "lr": 0.1,
            "weight_decay": 5e-4,
            "schedule": "cosine",
            "augment": "crop_flip",
        },
    ),
    "cifar10-afa-trades": Preset(
        "Park et al. 2024 (AFA with TRADES), CIFAR-10, for a GPU: β = 6, λ = 1. Differs: theirs"
        " adds images from a diffusion model; ResNet-18, batches of 256, rate .1 cosine, τ = .1 and"
        " 100 epochs are ours.",
        {
            "data": "cifar10",
            "method": "afa_trades",
            "method.align_weight": 1.0,
            "net": "resnet18",
            "n_train": 0,
            "epochs": 100,
            "batch_size": 256,
            "lr": 0.1,
            "weight_decay": 5e-4,
            "schedule": "cosine",
            "augment": "crop_flip",
        },
    ),
    "cifar10-alp": Preset(
        "Kannan et al. 2018 (ALP), CIFAR-10, for a GPU: λ = .5, attack towards the least likely"
        " class, averaged weights. Differs: theirs is on ImageNet at ε = 16/255 with RMSProp and"
        " label smoothing; ResNet-18, rate .1 cosine and 100 epochs are ours.",
        {
            "data": "cifar10",
            "method": "alp",
            "method.weight": 0.5,
            "method.targets": "least_likely",
            "net": "resnet18",
            "n_train": 0,
            "epochs": 100,
            "batch_size": 128,
            "lr": 0.1,
            "weight_decay": 1e-4,
            "schedule": "cosine",
            "augment": "crop_flip",
            "ema": 0.9999,
        },
    ),
    "cifar10-aalp": Preset(
        "Wu et al. 2020 (AALP), CIFAR-10, for a GPU. Differs: our reading throughout, because only"
        " the two ideas could be read: λ = .5, ResNet-18, rate .1 cosine, 100 epochs.",
        {
            "data": "cifar10",
            "method": "aalp",
            "method.weight": 0.5,
            "net": "resnet18",
            "n_train": 0,
            "epochs": 100,
            "batch_size": 128,
            "lr": 0.1,
            "weight_decay": 5e-4,
            "schedule": "cosine",
            "augment": "crop_flip",
        },
    ),
    "cifar10-alignment": Preset(
        "Ma et al. 2024 (model alignment, red team), CIFAR-10, for a GPU: T = 4, rate .001 cosine,"
        " 1 epoch. Needs two ordinary networks trained on CIFAR-10, as source and witness. Differs:"
        " theirs is on ImageNet; ResNet-18; plain momentum for Nesterov's.",
        {
            "data": "cifar10",
            "method": "model_alignment",
            "method.temperature": 4.0,
            "net": "resnet18",
            "n_train": 0,
            "epochs": 1,
            "batch_size": 128,
            "lr": 1e-3,
            "weight_decay": 1e-4,
            "schedule": "cosine",
            "augment": "crop_flip",
        },
    ),
}

PRESETS = LESSONS | PUBLISHED


def preset_settings(name: str) -> Mapping[str, Any]:
    """The settings of a preset. Raises UserError naming the nearest one."""
    if name not in PRESETS:
        raise UserError(unknown("preset", name, PRESETS), code=2)
    return PRESETS[name].settings
