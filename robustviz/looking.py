"""`look`: an attack on one image, its CAM maps and its features, for a network in a notebook,
without a run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from html import escape
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from robustviz import cam, registry
from robustviz.attacks import PGD, Attack
from robustviz.data.given import read
from robustviz.inputs import check_images, check_labels, logits_of
from robustviz.nets import Classifier
from robustviz.nets.attackable import attackable, device_of
from robustviz.nets.wrapped import wrap
from robustviz.process import default_threads, threads
from robustviz.runs.folder import Run
from robustviz.stats import Floats
from robustviz.training.evaluation import attack_name
from robustviz.types import UserError, check_eps, eps_text, harmless, parse_number
from robustviz.views.attention.overlay import enlarged, tinted
from robustviz.views.drawing import uri
from robustviz.views.pictures import delta, gain, png

SIDE = 160  # side of a displayed image in pixels
MOST = 8  # the most features that are drawn
MAPS = {"grad_cam": cam.grad_cam, "layer_cam": cam.layer_cam}


@dataclass(frozen=True, eq=False)
class Look:
    """The result of `look`. `x` and `x_adv`: the untouched and the attacked image, (C, H, W) in [0,
    1]. `y`: the class that was given, or the predicted one. `probs` (K,): the softmax output for
    the untouched image; `heat` (h, w): its raw, signed CAM map for class `y`; `features` (D,): its
    features. `probs_adv`, `heat_adv` and `features_adv`: the same for the attacked image.

    `other`: the class other than `y` with the highest logit for the attacked image. `push` (D,):
    the change of each feature under attack times the derivative, at the attacked image, of logit
    `other` minus logit `y`; with a linear last layer these products add up to the change of that
    difference. `eps`: the attack's ε in pixel units. `classes`: the class names. `words`: the
    attack and its ε, such as `PGD-20 within ε 8/255`.
    """

    x: Floats
    x_adv: Floats
    y: int
    probs: Floats
    probs_adv: Floats
    heat: Floats
    heat_adv: Floats
    features: Floats
    features_adv: Floats
    push: Floats
    other: int
    eps: float
    classes: tuple[str, ...]
    words: str

    @property
    def fooled(self) -> bool:
        """Whether the attacked image is classified as another class than `y`."""
        return int(self.probs_adv.argmax()) != self.y

    @property
    def text(self) -> str:
        """Two sentences: what the prediction is before and after the attack, and which feature's
        change adds most to logit `other` minus logit `y`.
        """
        before, after = (int(each.argmax()) for each in (self.probs, self.probs_adv))
        first = f"{self.words}: {self.classes[before]} ({self.probs[before]:.0%}) " + (
            f"becomes {self.classes[after]} ({self.probs_adv[after]:.0%})."
            if before != after
            else f"stays, with {self.probs_adv[after]:.0%}."
        )
        most = int(self.push.argmax())
        return (
            f"{first} Feature {most} contributes most to {self.classes[self.other]} over"
            f" {self.classes[self.y]}: {self.push[most]:+.3g} of {self.push.sum():+.3g}."
        )

    def __repr__(self) -> str:
        return f"Look: {self.text}"

    def _repr_html_(self) -> str:
        """The images, the two sentences and a chart of the features as HTML, which a notebook
        shows.
        """
        most = float(max(np.abs(self.heat).max(), np.abs(self.heat_adv).max())) or 1.0
        name = escape(self.classes[self.y])
        tiles = [
            _tile([uri(png(self.x, SIDE))], _said(self, self.probs, "untouched")),
            _tile([uri(png(self.x_adv, SIDE))], _said(self, self.probs_adv, "attacked")),
            _tile(
                [uri(png(delta(self.x, self.x_adv, self.eps), SIDE))],
                f"the change, ×{gain(self.eps):.3g}",
            ),
            *(
                _tile(
                    [uri(png(picture, SIDE)), uri(tinted(_smooth(heat), most))],
                    f"{when}: evidence for {name}",
                )
                for picture, heat, when in (
                    (self.x, self.heat, "untouched"),
                    (self.x_adv, self.heat_adv, "attacked"),
                )
            ),
        ]
        return (
            f'<div style="font:14px/1.4 sans-serif"><p>{escape(self.text)}</p>'
            f'<div style="display:flex;flex-wrap:wrap;gap:12px">{"".join(tiles)}</div>'
            f"<p>On the maps, red is evidence for {name}, teal against it; both have one scale.</p>"
            f"{_bars(self)}</div>"
        )


def look(
    net: nn.Module | Run,
    x: Any,
    y: Any = None,
    *,
    eps: float | str | None = None,
    attack: str | Attack = "pgd",
    map: str = "grad_cam",
    classes: Sequence[str] | None = None,
    seed: int = 0,
) -> Look:
    """Attack one image and show what changes: the prediction, the CAM map and the features. The
    result displays itself in a notebook; nothing is written, and `net` is left unchanged.

    `net`: a run, or any module that gives logits for images in [0, 1]; its layers are found
    automatically (to choose them, call `robustviz.wrap(module, maps="layer3")` first). `x`: one
    image, grey or RGB: (C, H, W) or (1, C, H, W), floats in [0, 1] or uint8, or a PIL image. `y`:
    its class; None: the predicted one. `eps`: the radius in pixel units, also as "8/255"; None: the
    attack's own or, if it has none, the run's. `attack`: a registered name or an Attack; "pgd" has
    20 steps. `map`: "grad_cam" or "layer_cam". `classes`: the class names; None: the run's. If
    there are none, or not one for each logit, the names are "class 0" and so on. `seed`: for the
    attack's random numbers. Raises UserError for arguments that do not fit.
    """
    if map not in MAPS:
        raise UserError(registry.unknown("map", map, MAPS), code=2)
    ours, usual, names = _network(net, x := _one(x))
    with threads(default_threads()), attackable(ours, fused=False) as ready:
        x = x.to(device_of(ready))
        with torch.no_grad():
            logits = logits_of(ready, x)
        label = logits.argmax(1) if y is None else read(y).reshape(-1).to(x.device)
        label = check_labels(label, 1, logits.shape[1], x)
        one = _bound(attack, eps, usual)
        rng = torch.Generator(device=x.device).manual_seed(seed)
        x_adv = one(ready, x, label, rng)
        heat, heat_adv = MAPS[map](ready, torch.cat([x, x_adv]), label.repeat(2)).cpu().numpy()
        features, push, probs, other = _moved(ready, torch.cat([x, x_adv]), int(label))
    count = logits.shape[1]
    called = [harmless(each) for each in classes or names or ()]
    called = called if len(called) == count else [f"class {number}" for number in range(count)]
    printed = attack_name(registry.encode(one), count)
    radius = float(one.eps or 0)
    return Look(
        x=x[0].cpu().numpy(),
        x_adv=x_adv[0].cpu().numpy(),
        y=int(label),
        probs=probs[0],
        probs_adv=probs[1],
        heat=heat,
        heat_adv=heat_adv,
        features=features[0],
        features_adv=features[1],
        push=push,
        other=other,
        eps=radius,
        classes=tuple(called),
        words=f"{printed} within ε {eps_text(radius)}",
    )


def _one(picture: Any) -> Tensor:
    """The image `picture` as (1, C, H, W) float32 in [0, 1]. Raises UserError for several images,
    for another number of channels than one or three, and as `read` and `check_images`.
    """
    x = read(picture)
    x = x.float() / 255 if x.dtype == torch.uint8 else x
    x = check_images(x[None] if x.ndim == 3 else x).float()
    if len(x) != 1 or x.shape[1] not in (1, 3):
        raise UserError(
            f"look needs one image (C,H,W), grey or RGB, but this has shape {tuple(x.shape)}:"
            " choose one, for example x[0]."
        )
    return x


def _network(net: nn.Module | Run, x: Tensor) -> tuple[Classifier, float | None, tuple[str, ...]]:
    if isinstance(net, Run):
        return net.net(), net.eps, net.classes
    if isinstance(net, Classifier):
        return net, None, ()
    return wrap(net, shape=tuple(x.shape[1:])), None, ()


def _bound(attack: str | Attack, eps: float | str | None, usual: float | None) -> Attack:
    """The attack with its ε: `eps` if given, else the attack's own, else `usual`, the ε of the run.
    Raises UserError if all three are missing, and for an `eps` that is not valid.
    """
    one: Attack = (
        attack
        if isinstance(attack, Attack)
        else PGD(steps=20)
        if attack == "pgd"
        else registry.get("attack", attack)()
    )
    if eps is not None:
        return replace(one, eps=check_eps(parse_number(eps), one.norm))
    if one.eps is None and usual is None:
        raise UserError('The attack has no ε: set it, for example eps="8/255".')
    return one if usual is None else one.bound(usual)


def _moved(net: Classifier, both: Tensor, y: int) -> tuple[Floats, Floats, Floats, int]:
    """What changes inside the network from the untouched to the attacked image (`both`, two rows).

    Returns the features (2, D), `push` (D,) as explained in `Look`, the softmax outputs (2, K), and
    the wrong class with the highest logit under attack.
    """
    with torch.enable_grad():
        # the pixels require a gradient, because no weight does
        _, features, logits = net.parts(both.clone().requires_grad_())
        others = logits[1].detach().clone()
        others[y] = -torch.inf
        other = int(others.argmax())
        slope = torch.autograd.grad((logits[:, other] - logits[:, y])[1], features)[0][1]
    features = features.detach().flatten(1)
    push = slope.flatten() * (features[1] - features[0])
    probs = logits.detach().softmax(1)
    return features.cpu().numpy(), push.cpu().numpy(), probs.cpu().numpy(), other


def _said(one: Look, probs: Floats, when: str) -> str:
    best = int(probs.argmax())
    return f"{when}: {'✓' if best == one.y else '✗'} {escape(one.classes[best])} {probs[best]:.0%}"


def _smooth(heat: Floats) -> Floats:
    return enlarged(heat, max(32, heat.shape[0]), max(32, heat.shape[1]))


def _tile(layers: Sequence[str], caption: str) -> str:
    """HTML of images stacked on top of each other, the lowest in grey, with a caption. A single
    image keeps its colours. `caption` must be escaped already.
    """
    images = "".join(
        f'<img src="{each}" alt="" style="position:absolute;inset:0;width:100%;height:100%;'
        f"image-rendering:{'auto' if number else 'pixelated'}"
        f'{";filter:grayscale(1)" if len(layers) > 1 and not number else ""}">'
        for number, each in enumerate(layers)
    )
    return (
        f'<figure style="margin:0;width:{SIDE}px"><div role="img" aria-label="{caption}"'
        f' style="position:relative;width:{SIDE}px;height:{SIDE}px">{images}</div>'
        f"<figcaption>{caption}</figcaption></figure>"
    )


def _bars(one: Look) -> str:
    """The `MOST` features with the largest push, positive or negative, as an SVG bar chart with a
    caption; empty if no feature has a push.
    """
    chosen = np.abs(one.push).argsort()[::-1][:MOST]
    most = float(np.abs(one.push[chosen]).max()) if chosen.size else 0.0
    if not most:
        return ""
    rows = []
    for row, number in enumerate(chosen):
        wide, value = 150 * abs(one.push[number]) / most, one.push[number]
        left = 260 if value >= 0 else 260 - wide
        rows.append(
            f'<rect x="{left:.1f}" y="{row * 18 + 3}" width="{wide:.1f}" height="12"'
            f' fill="{"#B2182B" if value < 0 else "#00707A"}"/>'
            f'<text x="4" y="{row * 18 + 14}">feature {number}</text>'
            f'<text x="420" y="{row * 18 + 14}">{value:+.3g}</text>'
        )
    what = (
        f"What the change of each feature adds to the logit of {one.classes[one.other]} minus"
        f" that of {one.classes[one.y]}; the largest {len(chosen)} of {len(one.push)} features"
    )
    return (
        f'<p>{escape(what)}:</p><svg role="img" aria-label="{escape(what)}" width="480"'
        f' height="{len(chosen) * 18}" font-size="12" fill="currentColor">{"".join(rows)}</svg>'
    )
