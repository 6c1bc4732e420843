"""Drawn images with known ground truth: which pixels are the object, which class the background
hints at, and how strong the fine pattern on the object is, which an attack of 8/255 can erase. For
photographs none of this is known. So here one can measure whether a saliency map lies on the
object, and whether a network relies on the background or on the fine pattern.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from PIL import Image, ImageDraw

from robustviz.data.base import Dataset, Recipe, Source
from robustviz.data.splits import SPLITS, check_split
from robustviz.registry import option, register

CLASSES = ("bolt", "cup", "fish", "heart", "house", "key", "moon", "star", "tree", "umbrella")
COUNTS = {"train": 2000, "val": 500, "test": 1000}
SUPERSAMPLING = 4
CHUNK = 256  # images rendered at once, which keeps temporary arrays below 100 MB

Array = np.ndarray
Points = Array  # (P, 2) float64, x to the right and y down; the object is about [-1, 1] wide
Part = tuple[Points, int]  # a filled outline and its grey: 255 adds to the object, 0 cuts a hole


def _polygon(*xy: tuple[float, float]) -> Points:
    return np.array(xy, dtype=np.float64)


def _ellipse(
    cx: float, cy: float, rx: float, ry: float, start: float = 0.0, stop: float = 360.0
) -> Points:
    angle = np.radians(np.linspace(start, stop, 33))
    return np.stack([cx + rx * np.cos(angle), cy + ry * np.sin(angle)], axis=1)


def _turned(parts: list[Part], degrees: float) -> list[Part]:
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return [(points @ np.array([[c, s], [-s, c]]), grey) for points, grey in parts]


def _heart() -> Points:
    t = np.linspace(0, 2 * math.pi, 49)
    y = -(13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t))
    return np.stack([16 * np.sin(t) ** 3 / 17, (y - 2.5) / 16], axis=1)


def _star() -> Points:
    angle = np.radians(np.arange(10) * 36 - 90)
    radius = np.where(np.arange(10) % 2 == 0, 1.08, 0.46)
    return np.stack([radius * np.cos(angle), radius * np.sin(angle) + 0.08], axis=1)


def _square(left: float, top: float, right: float, bottom: float) -> Part:
    return _polygon((left, top), (right, top), (right, bottom), (left, bottom)), 255


TRUNK = _square(-0.15, 0.6, 0.15, 1.05)
# For each class: the parts of its silhouette, and the parts drawn on it in a second tone.
OUTLINES: dict[str, tuple[list[Part], list[Part]]] = {
    "bolt": ([(_polygon((0.18, -1.1), (-0.66, 0.16), (-0.1, 0.16), (-0.36, 1.1), (0.66, -0.3),
                        (0.06, -0.3), (0.56, -1.1)), 255)], []),
    "cup": (
        [(_ellipse(0.5, 0.0, 0.5, 0.46), 255), (_ellipse(0.5, 0.0, 0.25, 0.22), 0),
         (_polygon((-0.85, -0.72), (0.5, -0.72), (0.36, 0.8), (-0.71, 0.8)), 255)],
        [(_ellipse(-0.175, -0.68, 0.66, 0.16), 255)],
    ),
    "fish": (
        [(_ellipse(-0.26, 0, 0.8, 0.52), 255),
         (_polygon((0.3, 0), (1.06, -0.6), (0.86, 0), (1.06, 0.6)), 255),
         (_polygon((-0.45, -0.42), (0.1, -0.78), (0.2, -0.36)), 255)],
        [(_ellipse(-0.66, -0.1, 0.13, 0.13), 255)],
    ),
    "heart": ([(_heart(), 255)], []),
    "house": (
        [_square(-0.72, -0.05, 0.72, 0.92), (_polygon((-1.0, 0.04), (0, -0.92), (1.0, 0.04)), 255),
         _square(0.4, -0.86, 0.66, -0.2)],
        [_square(-0.46, 0.3, -0.1, 0.92), _square(0.16, 0.26, 0.5, 0.58)],
    ),
    "key": (_turned([(_ellipse(-0.58, 0, 0.46, 0.46), 255), (_ellipse(-0.58, 0, 0.2, 0.2), 0),
                     _square(-0.2, -0.12, 1.05, 0.12), _square(0.42, 0, 0.62, 0.4),
                     _square(0.82, 0, 1.05, 0.5)], -40), []),
    "moon": ([(_ellipse(0, 0, 1.0, 1.0), 255), (_ellipse(0.46, -0.16, 0.82, 0.82), 0)], []),
    "star": ([(_star(), 255)], []),
    "tree": (
        [(_polygon((0, -1.05), (0.52, -0.38), (-0.52, -0.38)), 255),
         (_polygon((0, -0.66), (0.68, 0.14), (-0.68, 0.14)), 255),
         (_polygon((0, -0.2), (0.84, 0.68), (-0.84, 0.68)), 255), TRUNK],
        [(TRUNK[0] + np.array([0, 0.1]), 255)],
    ),
    "umbrella": (
        [(_ellipse(0, 0.02, 1.0, 0.92, 180, 360), 255),
         *((_ellipse(x, 0.04, 1 / 3, 0.17), 0) for x in (-2 / 3, 0, 2 / 3)),
         _square(-0.085, -0.4, 0.085, 0.84),
         (_polygon((0, -1.08), (0.09, -0.8), (-0.09, -0.8)), 255),
         (np.concatenate([_ellipse(-0.2, 0.8, 0.285, 0.285, 0, 180),
                          _ellipse(-0.2, 0.8, 0.13, 0.13, 180, 0)]), 255)],
        [(_ellipse(0, 0.02, 0.36, 0.9, 180, 360), 255)],
    ),
}  # fmt: skip

Texture = Callable[[Array, Array, Array, Array], Array]


def _edge(wave: Array, sharp: float = 2.2) -> Array:
    """`wave`, a sine, multiplied by `sharp` and clipped to [-1, 1], so that it gives stripes with
    edges about a pixel wide.
    """
    return np.clip(wave * sharp, -1, 1)


def _bricks(u: Array, v: Array, r: Array, cloud: Array) -> Array:
    row = np.floor(v * 1.1)
    along = (u * 0.6 + 0.5 * (row % 2)) % 1
    # distance to the nearest joint, in the same unit along both axes
    joint = np.minimum(0.5 - np.abs(v * 1.1 - row - 0.5), (0.5 - np.abs(along - 0.5)) * 1.8)
    return np.clip((joint - 0.12) * 12, -1, 1)


# Each function takes u, v (N, H, W), the rotated and shifted coordinates in periods, r (N, 4, 1, 1)
# uniform random numbers and a cloud field (N, H, W) in [-1, 1], and returns a texture (N, H, W) in
# [-1, 1]. All is float64, because float32 sines differ between processors in the last bit, and the
# pictures must be the same on all. Texture k is the background of class k; this order is arbitrary.
TURN = 2 * math.pi
FAMILIES: dict[str, Texture] = {
    "waves": lambda u, v, r, cloud: _edge(np.sin(TURN * (u + 0.28 * np.sin(TURN * v * 0.8)))),
    "checks": lambda u, v, r, cloud: _edge(
        2 * np.sin(math.pi * u * 1.2) * np.sin(math.pi * v * 1.2)
    ),
    "stripes": lambda u, v, r, cloud: _edge(np.sin(TURN * u)),
    "dots": lambda u, v, r, cloud: np.clip(
        2.5 * (np.cos(TURN * u) + np.cos(TURN * v) - 0.9), -1, 1
    ),
    "clouds": lambda u, v, r, cloud: cloud,
    "rings": lambda u, v, r, cloud: _edge(
        np.sin(TURN * np.sqrt((u + 2 * r[:, 0] - 1) ** 2 + (v + 2 * r[:, 1] - 1) ** 2 + 1e-9))
    ),
    "bricks": _bricks,
    "gradient": lambda u, v, r, cloud: np.clip((u * 0.5) / 1.6, -1, 1),
    "weave": lambda u, v, r, cloud: 0.5 * _edge(np.sin(TURN * u)) + 0.5 * _edge(np.sin(TURN * v)),
    "zigzag": lambda u, v, r, cloud: _edge(
        np.sin(TURN * (u + 0.55 * np.abs(2 * (v * 0.8 - np.floor(v * 0.8)) - 1)))
    ),
}


@register("data/shapes")
@dataclass(frozen=True)
class Shapes(Source):
    """Drawn objects on textured backgrounds, with true object masks: 10 classes, RGB.

    Train, val and test have 2,000 / 500 / 1,000 images. In train and val the background has, with
    probability `cue`, the texture and tint of the image's class, else random ones; in test it is
    always random, so a network that relies on the background loses accuracy there. `grain` is the
    amplitude, in [0, 1] pixel units, of a fine pattern on the object, which differs from class to
    class and is there in every split. This pattern is a useful but fragile feature: an attack of a
    few grey levels can erase or fake it, but cannot change the silhouette. Every image has its own
    random generator, seeded by (seed, split, index), so the first 2,000 of 5,000 training images
    are the same as with n = 2,000.

    Source: the two kinds of features follow Ilyas et al. 2019, arXiv 1905.02175.
    """

    label = "Shapes (drawn, with true masks)"
    default_eps = 8 / 255
    at_hand = True
    has_masks = True
    recipe: ClassVar[Recipe] = {
        "epochs": 20,
        "batch_size": 64,
        "lr": 0.05,
        "augment": "none",
        "n_train": 2000,
        "net": "small_resnet",
    }

    cue: float = option(
        0.15,
        "probability that the background shows the class in train and val (never in test)",
        low=0.0,
        high=1.0,
        train_only=True,
    )
    size: int = option(32, "height and width in pixels", low=16, high=128)
    seed: int = option(0, "a different seed draws different images", low=0, advanced=True)
    grain: float = option(
        6 / 255,
        "amplitude of the fine class-specific pattern on the object, in [0, 1]",
        low=0.0,
        high=0.2,
        advanced=True,
    )

    def load(self, split: str, n: int | None = None) -> Dataset:
        """The split, with images (N, 3, size, size) and object masks (N, 1, size, size).

        A mask is true where more than half of the pixel is object. `n` draws exactly that many
        training images; val and test keep their size.
        """
        return self._drawn(self._scenes(split, n), split)

    def swapped(self, own: bool) -> Dataset:
        """The test split with the same objects on other backgrounds.

        Each background has the texture and tint of the image's own class if `own`, else of a random
        other class. A network that is less accurate with `own` false than with `own` true depends
        on the background.
        """
        return self._drawn(self._test_scenes(own), "test")

    def _test_scenes(self, own: bool) -> list[_Scene]:
        scenes = self._scenes("test", None)
        for scene in scenes:
            # r[27] is the first random number that nothing else uses
            other = 0 if own else 1 + int(9 * scene.r[27])
            scene.dress((scene.label + other) % 10)
        return scenes

    def _drawn(self, scenes: list[_Scene], split: str) -> Dataset:
        chunks = (scenes[i : i + CHUNK] for i in range(0, len(scenes), CHUNK))
        parts = zip(*(_render(chunk, self.size, self.grain) for chunk in chunks), strict=True)
        images, masks = (torch.from_numpy(np.concatenate(part)) for part in parts)
        return Dataset(
            self.key,
            split,
            images,
            torch.tensor([scene.label for scene in scenes]),
            CLASSES,
            masks=masks,
            card=f"{len(scenes):,} drawn images, {self.size}x{self.size} RGB, of 10 classes of"
            " objects with their true masks, "
            + (
                f"of which about {self.cue:.0%} have the background of their class."
                if split != "test" and self.cue
                else "in any colours and textures."
            )
            + (
                f" The objects carry a fine pattern of {self.grain * 255:.0f}/255 that differs by"
                " class."
                if self.grain
                else ""
            ),
        )

    def backgrounds(self, split: str, n: int | None = None) -> torch.Tensor:
        """The index of each image's background texture in `FAMILIES`, (N,) int64.

        Texture k is that of class k. `split` and `n` are as in `load`.
        """
        return torch.tensor([scene.family for scene in self._scenes(split, n)])

    def _scenes(self, split: str, n: int | None) -> list[_Scene]:
        count = n if split == "train" and n is not None else COUNTS[check_split(split)]
        return [_Scene(self, split, i) for i in range(count)]


class _Scene:
    """All random numbers of one image, drawn from a generator of its own in a fixed order.

    `label` is its class, `family` the index of its background's texture, `tint` the hue of the
    background, in [0, 1].
    """

    def __init__(self, dials: Shapes, split: str, index: int) -> None:
        where = SPLITS.index(split)
        # each block of ten images has every class once, so the first n images are balanced
        turns, rng = (
            np.random.Generator(np.random.PCG64([dials.seed, where, *more]))
            for more in ((1, index // 10), (0, index))
        )
        self.label = int(turns.permutation(10)[index % 10])
        self.r = rng.random(32)
        self.cloud = rng.random((2, 9, 9))
        self.noise = rng.integers(-2, 3, (dials.size, dials.size))
        self.family, self.tint = int(self.r[1] * 10), self.r[2]
        if split != "test" and self.r[0] < dials.cue:
            self.dress(self.label)

    def dress(self, label: int) -> None:
        """Give the background the texture and tint of class `label`."""
        self.family = label
        # the tint also identifies the class: each has its own tenth of the colour circle
        self.tint = (label + 0.8 * self.r[2]) / 10


def _silhouette(scene: _Scene, size: int) -> tuple[Array, Array]:
    """How much of each pixel the object covers, and how much its parts in the second tone cover;
    both (size, size) uint8, where 255 is all.
    """
    r = scene.r
    big = size * SUPERSAMPLING
    half = 0.5 * big * (0.60 + 0.22 * r[3])
    angle = math.radians(44 * r[4] - 22)
    c, s = math.cos(angle) * half, math.sin(angle) * half
    mirror = -1.0 if r[5] < 0.5 else 1.0
    turn = np.array([[c * mirror, s * mirror], [-s, c]])
    centre = big / 2 + (2 * r[6:8] - 1) * (big * 0.5 - 1.02 * half)
    out = []
    for parts in OUTLINES[CLASSES[scene.label]]:
        canvas = Image.new("L", (big, big))
        pen = ImageDraw.Draw(canvas)
        for points, grey in parts:
            pen.polygon((points @ turn + centre).ravel().tolist(), fill=grey)
        out.append(np.asarray(canvas.reduce(SUPERSAMPLING)))
    return out[0], out[1]


def _hsl(hue: Array, saturation: Array, light: Array) -> Array:
    """RGB colours (N, 3) in [0, 1] from hue, saturation and lightness, all (N,) in [0, 1]."""
    k = (np.array([0.0, 8.0, 4.0]) + 12 * hue[:, None]) % 12
    reach = (saturation * np.minimum(light, 1 - light))[:, None]
    rgb: Array = light[:, None] - reach * np.clip(np.minimum(k - 3, 9 - k), -1, 1)
    return rgb


def _blur(a: Array) -> Array:
    """`a` (N, H, W) smoothed by the filter (1, 2, 1)/4 along both axes; the edges are repeated."""
    p = np.pad(a, ((0, 0), (1, 1), (1, 1)), mode="edge")
    p = (p[:, :-2] + 2 * p[:, 1:-1] + p[:, 2:]) / 4
    smooth: Array = (p[:, :, :-2] + 2 * p[:, :, 1:-1] + p[:, :, 2:]) / 4
    return smooth


def _wide(a: Array) -> Array:
    return a[:, None, None]


def _render(scenes: list[_Scene], size: int, grain: float) -> tuple[Array, Array]:
    """Draws images uint8 (N, 3, size, size), and their object masks, bool (N, 1, size, size)."""
    r = np.stack([scene.r for scene in scenes])
    cover = np.stack([_silhouette(scene, size) for scene in scenes]).astype(np.float64) / 255
    body, detail = cover[:, 0], cover[:, 1] * (cover[:, 0] > 0)
    # coordinates in [-1, 1]
    axis = (np.arange(size) + 0.5) / size * 2 - 1
    yy, xx = np.meshgrid(axis, axis, indexing="ij")
    # A dark object on a light background or the opposite: an attack of 8/255 cannot undo this
    # contrast.
    dark = r[:, 16] < 0.5

    # soft light from one side: a gradient over the whole object and a bevel at its edge
    soft = _blur(_blur(body))
    gy, gx = np.gradient(soft, axis=(1, 2))
    sun = 2 * math.pi * (0.55 + 0.4 * r[:, 25])
    bevel = _wide(np.cos(sun)) * gx + _wide(np.sin(sun)) * gy
    slope = _wide(np.cos(sun)) * xx + _wide(np.sin(sun)) * yy
    shade = 0.05 * slope - 0.45 * bevel - 0.10 * (1 - soft)
    fore = _hsl(
        _dial(r, 22),
        _dial(r, 23, 0.60, 0.95),
        np.where(dark, _dial(r, 18, 0.29, 0.43), _dial(r, 18, 0.55, 0.69)),
    )
    front = fore[:, :, None, None] + (shade + _wide(np.where(dark, 0.30, -0.30)) * detail)[:, None]
    if grain:
        front = front + grain * _grain(scenes, size, r[:, 26])[:, None]

    # a narrow shadow beside the object separates it from the background
    shadow = np.roll(soft, (1, 1), axis=(1, 2))
    back = _ground(scenes, r, dark, xx, yy) * (1 - 0.22 * (shadow * (1 - body))[:, None])

    rgb = np.rint((back * (1 - body[:, None]) + front * body[:, None]) * 255)
    noise = np.stack([scene.noise for scene in scenes])[:, None]
    return np.clip(rgb + noise, 0, 255).astype(np.uint8), (body > 0.5)[:, None]


def _dial(r: Array, i: int, low: float = 0.0, high: float = 1.0) -> Array:
    """Random number i of each image, `r[:, i]`, scaled from [0, 1] to [low, high]; (N,)."""
    return low + (high - low) * r[:, i]


def _ground(scenes: list[_Scene], r: Array, dark: Array, xx: Array, yy: Array) -> Array:
    """Backgrounds (N, 3, size, size): textures in two colours, in [0, 1] or slightly beyond."""
    angle, per = math.pi * r[:, 8], _dial(r, 9, 1.9, 3.1)
    # rotated coordinates, in periods of the texture
    u = _wide(per * np.cos(angle)) * xx + _wide(per * np.sin(angle)) * yy + _wide(r[:, 10])
    v = -_wide(per * np.sin(angle)) * xx + _wide(per * np.cos(angle)) * yy + _wide(r[:, 11])
    cloud = _cloud(scenes, len(xx))
    family = np.array([scene.family for scene in scenes])
    texture = np.zeros_like(u)
    for k, draw in enumerate(FAMILIES.values()):
        at = family == k
        if at.any():
            texture[at] = draw(u[at], v[at], r[at, 12:16, None, None], cloud[at])
    light = np.where(dark, _dial(r, 17, 0.58, 0.72), _dial(r, 17, 0.24, 0.37))
    tint = np.array([scene.tint for scene in scenes])
    ground = _hsl(tint, _dial(r, 19, 0.30, 0.60), light)
    other = _hsl((tint + _dial(r, 20, -0.08, 0.08)) % 1, _dial(r, 21, 0.3, 0.6), light + 0.2)
    swing = (other - ground) * _dial(r, 24, 0.35, 0.65)[:, None]
    back: Array = ground[:, :, None, None] + swing[:, :, None, None] * texture[:, None]
    return back + (0.03 * cloud)[:, None]


def _cloud(scenes: list[_Scene], size: int) -> Array:
    """Value noise of two octaves, (N, size, size) in [-1, 1], interpolated smoothly between grid
    points.
    """
    cloud = np.zeros((len(scenes), size, size))
    for octave, (knots, weight) in enumerate(((5, 0.7), (9, 0.3))):
        at = np.linspace(0, knots - 1, size)
        low = np.minimum(at.astype(np.int64), knots - 2)
        t = (at - low) ** 2 * (3 - 2 * (at - low))
        mix = np.zeros((size, knots))
        mix[np.arange(size), low] += 1 - t
        mix[np.arange(size), low + 1] += t
        cloud += weight * (
            mix @ np.stack([scene.cloud[octave, :knots, :knots] for scene in scenes]) @ mix.T
        )
    faded: Array = np.clip((cloud - 0.5) * 3.6, -1, 1)
    return faded


def _grain(scenes: list[_Scene], size: int, phase: Array) -> Array:
    """Fine patterns (N, size, size) in [-1, 1]: waves of 3 or 4.6 pixels, of which the direction
    and the wavelength together identify the class. `phase` (N,) is in periods.
    """
    label = np.array([scene.label for scene in scenes])
    direction = np.radians(36.0 * (label % 5))
    step = np.arange(size)
    along = _wide(np.cos(direction)) * step + _wide(np.sin(direction)) * step[:, None]
    length = np.where(label < 5, 3.0, 4.6)
    ripples: Array = np.sin(2 * math.pi * (along / _wide(length) + _wide(phase)))
    return ripples
