"""What comes of giving one quarter of the image a smaller radius in training.

A study of many trainings gives this, not a run: there is no spec to ask a run with.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from robustviz.stats import Floats
from robustviz.views.result import Result


@dataclass(frozen=True)
class Quadrants(Result):
    """What it costs to give one quarter of the image a smaller radius in training, for each
    quarter, over seeds.

    `names` (V): the four quadrants in the order of reading, then the controls that are there
    (`full`, `low`: one radius everywhere). `clean`, `robust` (V,S): accuracy of each network,
    fractions. `clean_interval`, `robust_interval` (V,3): mean and 95 % t-interval over seeds.
    `clean_lead`, `robust_lead` (4,3): by how much the best quadrant is ahead of each, mean and
    t-interval of the differences seed by seed, 95 % for all six pairs together; NaN for the best
    one itself.
    """

    names: list[str]
    clean: Floats
    robust: Floats
    clean_interval: Floats
    robust_interval: Floats
    clean_lead: Floats
    robust_lead: Floats

    def best(self, kind: str) -> tuple[int, bool]:
        """The quadrant with the highest mean of `clean` or `robust`, and whether it is decidedly
        ahead of all others.
        """
        lead = self.clean_lead if kind == "clean" else self.robust_lead
        at = int(np.isnan(lead[:, 0]).argmax())
        return at, bool((np.delete(lead[:, 1], at) > 0).all())
