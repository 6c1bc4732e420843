"""A plug-in: one file with a training method, an attack, a network, a data set and a probe with its
figure and page. Copy it to your folder, change it, and name it:

    python -m robustviz train --plugin plugin_example.py --data stripes --method half_at
    python -m robustviz evaluate RUN --attack top_pgd --set share=0.2
    python -m robustviz probe RUN noise --out noise.csv
    python -m robustviz app
    python -m robustviz contracts --plugin plugin_example.py

docs/plugins.md explains plug-ins, docs/adding.md what else each kind of class can do.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robustviz import plugins
from robustviz.attacks.base import Attack
from robustviz.attacks.pgd import PGD
from robustviz.data.base import Dataset, Recipe, Source
from robustviz.data.splits import check_split, stratified_order
from robustviz.methods.base import Adversarial, Terms
from robustviz.nets.base import Classifier, Normalise, PerChannel, stem_stride
from robustviz.registry import option, register
from robustviz.runs.folder import Run
from robustviz.stats import Floats, Ints, wilson
from robustviz.types import JSON, Batch, eps_text
from robustviz.views.measure import images_of, meta_of, net_of, probe, radius
from robustviz.views.result import ProbeSpec, Result

if TYPE_CHECKING:
    import plotly.graph_objects as go


# An attack: a class with its settings and the methods in which it differs from its base class.


@register("attack/top_pgd")
@dataclass(frozen=True, kw_only=True)
class TopPGD(PGD):
    """As PGD, but a step moves only the `share` of an image's values with the largest gradients."""

    share: float = option(0.5, "Share of the values that a step moves.", low=0.01, high=1)

    label = "Top-PGD"
    text = "PGD whose steps change only the values that matter most to the loss."

    def direction(self, gradient: Tensor, before: Tensor | None) -> Tensor:
        size = gradient.abs()
        count = max(1, round(self.share * size[0].numel()))
        least = size.flatten(1).topk(count, dim=1).values[:, -1].view(-1, 1, 1, 1)
        return torch.where(size >= least, gradient, 0)


# A method: the loss of a batch, as named terms that are added up, logged and drawn.


@register("method/half_at")
@dataclass(frozen=True)
class HalfAT(Adversarial):
    """Cross-entropy of attacked images, and of clean ones with the weight `clean`."""

    attack: Attack = option(PGD, "The attack that makes the training images.")
    clean: float = option(0.5, "Weight of the clean images' part.", low=0, high=1)

    label = "Half-AT"
    paper = "an example of docs/plugins.md"
    text = "Trains on attacked images and, with less weight, on the images themselves."

    def loss(self, net: Classifier, batch: Batch, aux: nn.Module | None) -> Terms:
        attacked = F.cross_entropy(net(self.attacked(net, batch)), batch.y)
        clean = F.cross_entropy(net(batch.x), batch.y)
        return {"attacked": (1 - self.clean) * attacked, "clean": self.clean * clean}


# A network: head(pool(maps(x))), with the normalisation inside `maps`.


@register("net/pocket_cnn")
class PocketCNN(Classifier):
    """Two 3x3 convolutions (16, 32) with batch norm and ReLU, global average pooling, one linear
    layer.
    """

    label = "Pocket CNN (0.01 M)"

    def __init__(
        self, classes: int, channels: int, size: int, mean: PerChannel, std: PerChannel
    ) -> None:
        maps = nn.Sequential(
            Normalise(channels, mean, std),
            nn.Conv2d(channels, 16, 3, stem_stride(size), 1, bias=False),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.Conv2d(16, 32, 3, 1, 1, bias=False),
            nn.BatchNorm2d(32),
            nn.ReLU(),
        )
        super().__init__(maps, nn.Linear(32, classes))


# A data set: fixed splits of uint8 images, the same at every call.

COUNTS = {"train": 400, "val": 80, "test": 200}


@register("data/stripes")
@dataclass(frozen=True)
class Stripes(Source):
    """Stripes in four directions under grey noise, 1x16x16, drawn from a seed."""

    noise: float = option(0.2, "How strong the noise is.", low=0, high=1)

    label = "Stripes (16x16)"
    default_eps = 0.1
    at_hand = True
    recipe: ClassVar[Recipe] = {"epochs": 5, "batch_size": 50, "lr": 0.05, "net": "pocket_cnn"}

    def load(self, split: str, n: int | None = None) -> Dataset:
        """The split: images (N, 1, 16, 16)."""
        check_split(split)
        rng = torch.Generator().manual_seed(list(COUNTS).index(split))
        y = torch.arange(COUNTS[split]) % 4
        down, right = torch.meshgrid(torch.arange(16), torch.arange(16), indexing="ij")
        way = torch.stack([down, right, down + right, down - right]) % 4 < 2
        grey = 0.25 + 0.5 * way[y] + self.noise * torch.randn((len(y), 16, 16), generator=rng)
        images = (grey.clamp(0, 1) * 255).round().to(torch.uint8).unsqueeze(1)
        card = f"{len(y):,} drawn squares, 16x16 grey, striped in 4 directions, noise {self.noise}."
        names = ("level", "upright", "rising", "falling")
        whole = Dataset(self.key, split, images, y, names, card=card)
        return whole if n is None or split != "train" else whole.take(stratified_order(y)[:n])


# A probe: its settings (the spec), its numbers (the result), the function that measures, its figure,
# and a page of the menu. Streamlit and Plotly are imported inside the functions that need them.


@dataclass(frozen=True)
class Noise(Result):
    """Accuracy under random noise on `n` images. `eps` (E,): the radii; `k` (E,): how many of the
    images are right at each radius.
    """

    eps: Floats
    k: Ints
    n: int

    def rows(self) -> list[JSON]:
        """One row for each radius."""
        return [
            {"eps": float(eps), "right": int(k), "n": self.n}
            for eps, k in zip(self.eps, self.k, strict=True)
        ]


@register("probe/noise")
@dataclass(frozen=True)
class NoiseSpec(ProbeSpec[Noise]):
    """Accuracy of the first `n` test images with noise of ±ε in every pixel, at five radii up to
    four times the run's ε.
    """

    n: int = option(100, "How many test images.", low=1)
    seed: int = option(0, "Seed of the noise.", low=0)

    result = Noise


@probe(NoiseSpec)
def noise(run: Run, spec: NoiseSpec) -> Noise:
    """Accuracy under noise of ±ε in every pixel."""
    split, net = images_of(run), net_of(run)
    few = split.take(torch.arange(min(spec.n, len(split))))
    rng = torch.Generator().manual_seed(spec.seed)
    sign = torch.randint(0, 2, few.x.shape, generator=rng) * 2 - 1
    radii = np.linspace(0, 4 * radius(run), 5)
    with torch.no_grad():
        answers = [net((few.x + float(eps) * sign).clamp(0, 1)).argmax(1) for eps in radii]
    right = np.array([int((answer == few.y).sum()) for answer in answers])
    summary = (
        f"{right[0]} of {len(few)} right untouched, {right[-1]} with noise of"
        f" {eps_text(float(radii[-1]))}"
    )
    return Noise(radii, right, len(few), meta=meta_of(run, split, seed=spec.seed, summary=summary))


@plugins.figure("noise")
def curve(results: Noise | Mapping[str, Noise], *, template: str = "robustviz_light") -> go.Figure:
    """Accuracy against the size of the noise with 95% bands, one or two networks."""
    from robustviz.views.theme import COLOURS, DASHES, band, blank, finish, lines, named

    several, colour = named(results, ""), COLOURS[template]
    figure = blank(template, "Accuracy under random noise")
    for (name, result), side in zip(several.items(), "ab", strict=False):
        x = result.eps * 255
        interval = np.array([wilson(int(k), result.n) for k in result.k])
        band(figure, x, interval[:, 0], interval[:, 1], colour[side])
        figure.add_scatter(
            x=x,
            y=result.k / result.n,
            name=name,
            line={"color": colour[side], "dash": DASHES[side], "width": 3},
            hovertemplate="±%{x:.0f}/255: %{y:.0%}<extra></extra>",
        )
    figure.update_xaxes(title="noise in grey levels (of 255)", rangemode="tozero")
    figure.update_yaxes(range=[0, 1.02], tickformat=".0%", title="still right")
    said = "  \n".join(lines(several, lambda result: f"{result.meta['summary']}."))
    return finish(figure, "Accuracy under random noise.", next(iter(several.values())).meta, said)


@plugins.page("noise", "Noise", "Does noise that nobody chose fool a network?")
def page() -> None:
    """Draw the Noise page: a slider for the seed, and the curves of networks A and B."""
    import streamlit as st

    from robustviz.ui import header, shell, widgets
    from robustviz.ui.widgets import Frame

    here = header.open("Does noise that nobody chose fool a network?")
    seed = st.slider("Seed of the noise", 0, 9, **shell.linked("noise-seed", 0, range(10)))
    spec = NoiseSpec(seed=seed)
    if results := widgets.measured(here, spec, "the noise"):
        widgets.draw(curve, results, Frame("noise", spec))
    shell.reset_button()
