"""What an evaluation found of each image: the answers, untouched and attacked, and how far the
attack went.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from robustviz.data import Dataset
from robustviz.data.splits import stratified_order
from robustviz.types import JSON


@dataclass
class Images:
    """Collects block by block what `measure` tells of each image, in the order of `--n`: answers
    (N,), untouched and attacked, and how far each attacked image is from the untouched one.
    """

    clean: list[Tensor] = field(default_factory=list)
    attacked: list[Tensor] = field(default_factory=list)
    linf: list[Tensor] = field(default_factory=list)
    l2: list[Tensor] = field(default_factory=list)

    def see(self, x: Tensor, shown: Tensor, clean: Tensor, attacked: Tensor) -> None:
        """A block of images (B,C,H,W), the attacked ones that the network was shown, and its
        answers to both, (B,).
        """
        way = (shown - x).detach().flatten(1).double()
        for kept, new in (
            (self.clean, clean),
            (self.attacked, attacked),
            (self.linf, way.abs().amax(1)),
            (self.l2, way.norm(dim=1)),
        ):
            kept.append(new.cpu())

    def rows(self, split: Dataset) -> list[JSON]:
        """A row an image, in the order of the split that was evaluated (`split` is the whole of
        it): `image`, its number there, `file`, where it is from one, `label` and the answers
        `clean` and `attacked` by the classes' names, whether these are right, and the distances
        `linf` and `l2` in pixel units.
        """
        names, y = split.classes, split.y.tolist()
        columns = [torch.cat(each).tolist() for each in (self.clean, self.attacked)]
        ways = [torch.cat(each).tolist() for each in (self.linf, self.l2)]
        numbers = stratified_order(split.y).tolist()[: len(columns[0])]
        return sorted(
            (
                {
                    "image": number,
                    "file": split.names[number] if split.names else "",
                    "label": names[y[number]],
                    "clean": names[clean],
                    "attacked": names[attacked],
                    "clean_right": clean == y[number],
                    "attacked_right": attacked == y[number],
                    "linf": linf,
                    "l2": l2,
                }
                for number, clean, attacked, linf, l2 in zip(numbers, *columns, *ways, strict=True)
            ),
            key=lambda row: int(row["image"]),
        )
