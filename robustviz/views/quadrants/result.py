"""The result of training with a smaller radius in one quarter of the image.

A study of many training runs measures it, so there is no spec for a single run.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from robustviz.stats import Floats
from robustviz.views.result import Result


@dataclass(frozen=True)
class Quadrants(Result):
    """Accuracy of networks trained with a smaller radius in one quarter of the image, over S seeds.

    `names` (V): the four quadrants in reading order, then those controls (`full`, `low`: one radius
    everywhere) that were measured with all S seeds. `clean`, `robust` (V, S): accuracy of each
    network in [0, 1]. `clean_interval`, `robust_interval` (V, 3): mean over seeds and the two ends
    of its 95% t-interval, cut to [0, 1]. `clean_lead`, `robust_lead` (4, 3): accuracy of the best
    quadrant minus that of each, as mean and t-interval of the differences paired by seed, at 95%
    for all six pairs together; NaN for the best quadrant itself.
    """

    names: list[str]
    clean: Floats
    robust: Floats
    clean_interval: Floats
    robust_interval: Floats
    clean_lead: Floats
    robust_lead: Floats

    def best(self, kind: str) -> tuple[int, bool]:
        """The index of the quadrant with the highest mean accuracy of a `kind`, `clean` or
        `robust`. Also returns whether it is clearly the best: the intervals of its leads over all
        others lie above 0.
        """
        lead = self.clean_lead if kind == "clean" else self.robust_lead
        at = int(np.isnan(lead[:, 0]).argmax())
        return at, bool((np.delete(lead[:, 1], at) > 0).all())
