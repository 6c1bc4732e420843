"""The tour's last step: a network that learned the background. Its question and its screen are made
from the counts of the study of backgrounds (`python -m robustviz.views.tour.study`); no torch.
"""

from __future__ import annotations

from html import escape

from robustviz import paths
from robustviz.runs.files import read_json
from robustviz.stats import wilson
from robustviz.types import JSON, UserError
from robustviz.views.drawing import tile
from robustviz.views.screen import Control, Screen
from robustviz.views.tour.step import Step, choices

FILE = paths.ROOT / "checkpoints" / "claims" / "cue-shapes.json"
SIZE = 180  # pixels: width of a picture
GROUNDS = ("own", "other")


def read() -> JSON:
    """The content of the study of backgrounds. Raises UserError if it is missing or damaged."""
    return read_json(FILE)


def cell(study: JSON, method: str, cue: str) -> JSON | None:
    """The study's results, a dict, for a method's network of seed 0 that was trained with the
    background cue `on` or `off`; None if there are none.

    The dict has the number of images classified correctly on backgrounds of their own and of
    another class (`own`, `other`), and the same under attack (`own_attacked`, `other_attacked`).
    `own_said`, `other_said`: for each picture shown, the predicted class and its probability.
    """
    found = [
        each
        for each in study["cells"]
        if (each["method"], each["cue"], each["seed"]) == (method, cue, 0)
    ]
    return found[0] if found else None


def step() -> Step:
    """The step that asks on how many pictures a network is right when the backgrounds change.
    Raises UserError if the study is missing or damaged, or if it lacks a network for this step.
    """
    study = read()
    misled, plain = _pair(study)
    n, share = study["protocol"]["n"], study["protocol"]["cue"]["on"]
    options, right = choices(n, misled["other"])
    robust = cell(study, "fgsm_rs", "on")
    return Step(
        "mistake",
        "Mistake",
        f"A new network, C, learned the same shapes. But in {share:.0%} of its training pictures"
        f" the background gave the class away. On such pictures it is right on {misled['own']} of"
        f" {n:,}.",
        "The objects stay, each background becomes that of another class. On how many pictures is"
        " C right?",
        options,
        right,
        f"C is right on {misled['other']} of {n:,}: it learned the background. Trained with"
        f" uninformative backgrounds, a network is right on {plain['other']}."
        + (
            " Trained like C, but on attacked pictures (FGSM-RS), it is right on"
            f" {robust['other']}: adversarial training does not remove this cue."
            if robust
            else ""
        ),
        "train?train-recipe=shapes-cue-on",
        screen(study),
        reveals=1,
    )


def _pair(study: JSON) -> tuple[JSON, JSON]:
    misled, plain = (cell(study, "standard", cue) for cue in ("on", "off"))
    if not misled or not plain:
        raise UserError(
            f"There are no results of the background study yet: run {study['command']}."
        )
    return misled, plain


def screen(study: JSON) -> Screen:
    """The screen with test objects on changing backgrounds, each with the prediction of C, the
    network that learned the background. The slider switches between backgrounds of the object's own
    class and of another class. Raises UserError if the study lacks a network for this.
    """
    (misled, _), protocol = _pair(study), study["protocol"]
    robust = cell(study, "fgsm_rs", "on")
    tiles, moves = list[str](), dict[str, tuple[str, list[str]]]()
    for at, image in enumerate(study["images"]):
        said = [
            f"{name}: {share:.0%} {'✓' if name == image['class'] else '✗'}"
            for name, share in (misled[f"{ground}_said"][at] for ground in GROUNDS)
        ]
        key = f"ground-{at}"
        alt = f"Test image {at}, a {image['class']}"
        tiles.append(tile(escape(image["own"]), SIZE, alt, below=said[0], move=key))
        moves |= {
            f"{key}-src": ("src", [image[ground] for ground in GROUNDS]),
            f"{key}-below": ("text", said),
        }
    n, few = protocol["n"], protocol["n_attacked"]
    low, high = wilson(misled["other"], n)
    return Screen(
        [
            f"C is right on {misled[ground]} of {n:,} on backgrounds of {which}."
            for ground, which in zip(GROUNDS, ("their own class", "another class"), strict=True)
        ],
        f'<div class="tiles pairs">{"".join(tiles)}</div>',
        "The first test images on backgrounds of their own class or of another, with C's"
        " predictions.",
        [
            "Each object is classified twice; only texture and tint of the background change.",
            f"C's share on other backgrounds has a 95% interval of {100 * low:.0f} to"
            f" {100 * high:.0f}%: one network, over images.",
            f"Under {protocol['attack']} C is right on {misled['own_attacked']} of {few} on"
            " backgrounds of their own class.",
            *(
                [
                    "Trained on the same pictures by FGSM-RS, a network is right on"
                    f" {robust['own_attacked']} of {few} there, and on {robust['other_attacked']}"
                    " elsewhere."
                ]
                if robust
                else []
            ),
            f"Repeat it with `{study['command']}`; train C with `--preset shapes-cue-on`.",
        ],
        Control("Backgrounds", ["of their own class", "of another class"], 0, "ground"),
        moves,
    )
