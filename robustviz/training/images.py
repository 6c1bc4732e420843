"""Collects per-image results of an evaluation: predictions for the clean and the attacked image,
and the size of the perturbation.
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
    """Collects the per-image results of `evaluate.measure`, when its argument `seen` is this
    object's `see`. Each field is a list of tensors (B,) on the CPU, one per block, in the
    stratified order of the evaluated images: the predicted classes of the `clean` and `attacked`
    images, and the size of each perturbation (`linf`, `l2`) in pixel units.
    """

    clean: list[Tensor] = field(default_factory=list)
    attacked: list[Tensor] = field(default_factory=list)
    linf: list[Tensor] = field(default_factory=list)
    l2: list[Tensor] = field(default_factory=list)

    def see(self, x: Tensor, shown: Tensor, clean: Tensor, attacked: Tensor) -> None:
        """Add one block: clean images (B,C,H,W), the attacked images `shown` to the network, and
        its predictions (B,) for both.
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
        """Returns one row per evaluated image, in the order of `split`, which must be the whole
        split: the image's index there (`image`), its `file` (empty if it has none), the class names
        `label` (true), `clean` and `attacked` (predicted; empty for NaN outputs), whether the
        predictions are right (`clean_right`, `attacked_right`), and the size of the perturbation,
        `linf` and `l2`, in pixel units.
        """
        names, y = (*split.classes, ""), split.y.tolist()  # NaN outputs are predicted as −1
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
