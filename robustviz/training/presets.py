"""Named training settings: lessons that fit a laptop, and published recipes as far as the papers
state them. A preset sets only what it needs to fix; everything else comes from the data set.
Command line flags and `--set` override a preset.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from robustviz.registry import unknown
from robustviz.types import UserError


@dataclass(frozen=True)
class Preset:
    """A recipe: a text that says what it is and where it comes from, and its settings by dotted
    path. For a published recipe, the keys of `differs` say in words what differs here from the
    original, and the values name the settings and facts that this concerns, separated by spaces.
    """

    text: str
    settings: Mapping[str, Any]
    differs: Mapping[str, str] = field(default_factory=dict)


RAW = "the network normalises its input, theirs does not"
KEPT = {
    "robust": "Keeps the epoch that best withstands PGD on validation images.",
    "clean": "Keeps the epoch that is best on clean validation images.",
    "last": "Keeps the last weights.",
}


def _published(text: str, settings: Mapping[str, Any], differs: Mapping[str, str]) -> Preset:
    return Preset(
        f"{text} {KEPT[settings['select']]} Differs: {'; '.join(differs)}.", settings, differs
    )


# Differences that several published recipes share.
_SIGHT = {RAW: "normalises", "the attack's start is cut to [0, 1]": "start_cut"}
_BF16 = {
    "on devices that are fast at bf16, such as recent GPUs, attack gradients are in bf16": (
        "gradients"
    )
}
_EVERY = {"theirs saves every epoch and does not say which one counts": "select"}
_TRAINING = (
    "net n_train epochs batch_size lr momentum weight_decay schedule augment ema precision select"
)
_ATTACK = "eps method.attack_mode method.attack.steps method.attack.step_size method.attack.start"

_USUAL = {"n_train": 0, "batch_size": 128, "augment": "crop_flip"}
# Our own settings for papers whose settings and code could not be read.
_READING = {
    **_USUAL,
    "net": "resnet18",
    "epochs": 100,
    "lr": 0.1,
    "weight_decay": 5e-4,
    "schedule": "cosine",
    "select": "robust",
}
# Settings that the published code of PART uses everywhere.
_PART = {
    **_USUAL,
    "method": "part",
    "method.eps_low": 7 / 255,
    "method.warmup": 0.25,
    "net": "resnet18",
    "eps": 8 / 255,
    "epochs": 80,
    "lr": 0.01,
    "schedule": "step@79/80",
    "select": "last",
}
_PART_CIFAR = {**_PART, "data": "cifar10", "method.attack.step_size": 2 / 255, "weight_decay": 2e-4}
_PART_MAPS = {
    "masks are recomputed in each step, theirs before each epoch": "masks_made",
    "maps are enlarged bilinearly, theirs bicubically": "enlarged",
} | _SIGHT
_PART_DIFFERS = (
    {
        "each mask is of the image that is attacked, for its true class, from the map's values": (
            "method.rule method.masks_of method.cam_class"
        )
    }
    | _PART_MAPS
    | _BF16
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
    "shapes-cue-off": Preset(
        "CPU lesson, the first of two: an ordinary network on drawn shapes whose backgrounds say"
        " nothing about the object. What does it read then?",
        {"data": "shapes", "method": "standard", "data.cue": 0.0, "select": "last"},
    ),
    "shapes-cue-on": Preset(
        "CPU lesson, the second of two: an ordinary network on drawn shapes where nine backgrounds"
        " in ten give the class away. What is left when they do not?",
        {"data": "shapes", "method": "standard", "data.cue": 0.9, "select": "last"},
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

# The text of each says which weights are kept and, after "Differs:", what is different here;
# docs/published.toml has the authors' values. Two differences hold for all and are not repeated:
# our training images are the official ones minus the validation split, and images that we shift
# repeat the edge, where the authors' code pads with black, or mirrors (Rice et al.).
PUBLISHED: dict[str, Preset] = {
    "cifar10-fast-at": _published(
        "Wong et al. 2020, CIFAR-10, for a GPU: FGSM-RS with PreAct-ResNet-18, 15 epochs,"
        " learning rate rising to 0.2 and falling again.",
        {
            **_USUAL,
            "data": "cifar10",
            "method": "fgsm_rs",
            "method.attack_mode": "train",
            "net": "preact_resnet18",
            "eps": 8 / 255,
            "epochs": 15,
            "lr": 0.2,
            "weight_decay": 5e-4,
            "schedule": "cyclic@1/2",
            "select": "last",
        },
        {
            "the shortcuts of their blocks read the raw input": "shortcuts",
            "theirs computes in 16 bits (apex)": "precision",
        },
    ),
    "cifar10-pgd-at": _published(
        "Rice et al. 2020 (PGD-AT), CIFAR-10, for a GPU: PreAct-ResNet-18, 200 epochs, learning"
        " rate 0.1, divided by 10 after half and three quarters. `ema` adds weight averaging.",
        {
            **_USUAL,
            "data": "cifar10",
            "method": "pgd_at",
            "method.attack_mode": "train",
            "method.attack.step_size": 2 / 255,
            "net": "preact_resnet18",
            "eps": 8 / 255,
            "epochs": 200,
            "lr": 0.1,
            "weight_decay": 5e-4,
            "schedule": "step@1/2,3/4",
            "select": "robust",
        },
        {
            "theirs picks the epoch on test images, or on validation images if asked": "chosen_on",
            "their batch norm statistics include clean images": "clean_forwards",
        },
    ),
    "cifar10-trades": _published(
        "Zhang et al. 2019 (TRADES), CIFAR-10, for a GPU: WRN-34-10, β = 6, 76 epochs, the"
        " learning rate divided by 10 for the last two.",
        {
            **_USUAL,
            "data": "cifar10",
            "method": "trades",
            "method.beta": 6.0,
            "method.bn": "official",
            "net": "wrn_34_10",
            "eps": 0.031,
            "method.attack.step_size": 0.007,
            "epochs": 76,
            "lr": 0.1,
            "weight_decay": 2e-4,
            "schedule": "step@74/76",
            "select": "last",
        },
        _EVERY | _SIGHT | _BF16,
    ),
    "cifar10-mart": _published(
        "Wang et al. 2020 (MART), CIFAR-10, for a GPU: ResNet-18, β = 5, weight decay 0.0035. The"
        " learning rate 0.01 falls in epochs 75, 90 and 100 of 120.",
        {
            **_USUAL,
            "data": "cifar10",
            "method": "mart",
            "method.beta": 5.0,
            "net": "resnet18",
            "eps": 0.031,
            "method.attack.step_size": 0.007,
            "epochs": 120,
            "lr": 0.01,
            "weight_decay": 3.5e-3,
            "schedule": "step@74/120,89/120,99/120",
            "select": "robust",
        },
        {"theirs tests and saves every epoch": "select"} | _SIGHT | _BF16,
    ),
    "cifar10-part": _published(
        "Zhang et al. 2024 (PART), CIFAR-10, for a GPU: ResNet-18, ε_low = 7/255, 80 epochs, the"
        " first 20 without masks. The learning rate falls in the last epoch.",
        _PART_CIFAR,
        _PART_DIFFERS,
    ),
    "cifar10-part-as-released": _published(
        "Zhang et al. 2024 (PART), CIFAR-10, for a GPU: cifar10-part as the released code does"
        " it, unlike the paper: masks come from other images, for the predicted class, computed"
        " from jet colours. The learning rate falls in the last epoch.",
        {
            **_PART_CIFAR,
            "method.rule": "jet-compat",
            "method.masks_of": "others",
            "method.cam_class": "predicted",
        },
        {"each image gets the mask of the next image in its batch, theirs of any": "masks_from"}
        | _PART_MAPS
        | _BF16,
    ),
    "cifar10-part-t": _published(
        "Zhang et al. 2024 (PART-T), CIFAR-10, for a GPU: cifar10-part on TRADES, β = 6. The rate"
        " falls in the last epoch.",
        {**_PART_CIFAR, "method": "part_t", "method.beta": 6.0, "method.bn": "official"},
        _PART_DIFFERS,
    ),
    "cifar10-part-m": _published(
        "Zhang et al. 2024 (PART-M), CIFAR-10, for a GPU: cifar10-part on MART, with their β = 6."
        " The learning rate falls in the last epoch.",
        {**_PART_CIFAR, "method": "part_m", "method.beta": 6.0},
        _PART_DIFFERS,
    ),
    "cifar10-part-wrn": _published(
        "Zhang et al. 2024 (PART), CIFAR-10, for a GPU: cifar10-part with WRN-34-10, its maps taken"
        " before the last batch norm. The learning rate falls in the last epoch.",
        {**_PART_CIFAR, "net": "wrn_34_10", "method.cam_maps": "before_norm"},
        _PART_DIFFERS,
    ),
    "svhn-part": _published(
        "Zhang et al. 2024 (PART), SVHN, for a GPU: steps of 1/255, weight decay .0035, no"
        " augmentation. The learning rate falls in the last epoch.",
        {
            "data": "svhn",
            **_PART,
            "method.attack.step_size": 1 / 255,
            "weight_decay": 3.5e-3,
            "augment": "none",
        },
        _PART_DIFFERS,
    ),
    "tiny-imagenet-part": _published(
        "Zhang et al. 2024 (PART), Tiny-ImageNet, for a GPU: ResNet-18 with their settings of"
        " CIFAR-10.",
        {**_PART_CIFAR, "data": "tiny_imagenet"},
        {
            "their settings for this data could not be read": (
                f"{_TRAINING} {_ATTACK} method.eps_low method.warmup"
            )
        }
        | _PART_DIFFERS,
    ),
    "cifar100-supcon-margin": _published(
        "Wang, Nayyem, Rakin 2024 (SupCon and margin), CIFAR-100, for a GPU: ResNet-18 without"
        " augmentation, the setting with the paper's largest gain.",
        {
            "data": "cifar100",
            "method": "supcon_margin",
            "net": "resnet18",
            "n_train": 0,
            "epochs": 100,
            "lr": 0.1,
            "schedule": "cosine",
            "augment": "none",
            "select": "clean",
        },
        {
            "loss weights, τ, m, learning rate, batch size and 100 epochs are ours, because theirs"
            " are not public": (_TRAINING.replace("net ", "").replace("augment ", "")),
            "the classifier gets the features, in their figure the projection": "method.head",
            "32×32 images, theirs are enlarged": "pixels",
        },
    ),
    "cifar10-afa": _published(
        "Park et al. 2024 (AFA), CIFAR-10, for a GPU: features first, then a linear head.",
        {**_READING, "data": "cifar10", "method": "afa", "method.head": "SLF", "batch_size": 256},
        {
            "all settings are our interpretation, because only the idea could be read: ResNet-18,"
            " batch size 256, learning rate 0.1 (cosine), τ = 0.1, 100 epochs, the head on clean"
            " images (SLF)": (f"{_TRAINING} {_ATTACK} method.head")
        }
        | _BF16,
    ),
    "cifar10-afa-trades": _published(
        "Park et al. 2024 (AFA with TRADES), CIFAR-10, for a GPU: β = 6, λ = 1.",
        {
            **_READING,
            "data": "cifar10",
            "method": "afa_trades",
            "method.align_weight": 1.0,
            "batch_size": 256,
        },
        {
            "theirs adds images from a diffusion model": "generated_images",
            "all settings are our interpretation: ResNet-18, batch size 256, learning rate 0.1"
            " (cosine), τ = 0.1, β, λ and 100 epochs": f"{_TRAINING} {_ATTACK} method.align_weight",
        }
        | _BF16,
    ),
    "cifar10-alp": _published(
        "Kannan et al. 2018 (ALP), CIFAR-10, for a GPU: λ = .5, attack towards the least likely"
        " class, averaged weights.",
        {
            **_READING,
            "data": "cifar10",
            "method": "alp",
            "method.weight": 0.5,
            "method.targets": "least_likely",
            "weight_decay": 1e-4,
            "ema": 0.9999,
            "select": "last",
        },
        {
            "theirs is on ImageNet with ResNet-v2-50 at ε = 16/255": "data net eps",
            "theirs uses RMSProp, label smoothing and enlarged crops": (
                "optimiser label_smoothing augment"
            ),
            "batch size 128, learning rate 0.1 (cosine) and 100 epochs are ours": (
                "batch_size lr schedule epochs"
            ),
        }
        | _BF16,
    ),
    "cifar10-aalp": _published(
        "Wu et al. 2020 (AALP), CIFAR-10, for a GPU.",
        {**_READING, "data": "cifar10", "method": "aalp", "method.weight": 0.5},
        {
            "all settings are our interpretation, because only the two ideas could be read:"
            " CIFAR-10, λ = 0.5, ResNet-18, learning rate 0.1 (cosine), 100 epochs": (
                f"{_TRAINING} {_ATTACK} data method.weight"
            )
        }
        | _BF16,
    ),
    "cifar10-alignment": _published(
        "Ma et al. 2024 (model alignment, red team), CIFAR-10, for a GPU: T = 4, learning rate"
        " 0.001 (cosine), 1 epoch. Needs two ordinary networks trained on CIFAR-10, as source and"
        " witness.",
        {
            **_USUAL,
            "data": "cifar10",
            "method": "model_alignment",
            "method.temperature": 4.0,
            "net": "resnet18",
            "epochs": 1,
            "lr": 1e-3,
            "weight_decay": 1e-4,
            "schedule": "cosine",
            "select": "last",
        },
        {
            "theirs is on ImageNet with ResNet-50, its crops enlarged": "data net augment",
            "plain momentum instead of Nesterov momentum": "nesterov",
        },
    ),
}

PRESETS = LESSONS | PUBLISHED


def preset_settings(name: str) -> Mapping[str, Any]:
    """Returns the settings of a preset, by dotted path. Raises UserError if there is none of this
    name; its message suggests the most similar one.
    """
    if name not in PRESETS:
        raise UserError(unknown("preset", name, PRESETS), code=2)
    return PRESETS[name].settings
