"""The method of networks that were trained elsewhere and imported; it cannot train anything."""

from dataclasses import dataclass

from robustviz.data import Dataset
from robustviz.methods.base import Method, Plan
from robustviz.nets.base import Classifier
from robustviz.registry import register
from robustviz.types import UserError


@register("method/imported", offered=False)
@dataclass(frozen=True)
class Imported(Method):
    """A network that was trained elsewhere and imported with its weights."""

    label = "Imported"
    group = "imported"
    select = "last"
    paper = "None of robustviz"
    text = (
        "The network was trained elsewhere and imported with its weights. Only its label says"
        " how it was trained."
    )

    def check(self, config: Plan, split: Dataset, net: Classifier) -> None:
        raise UserError(
            "An imported network is shown and attacked, not trained: choose a method to train one,"
            " see: python -m robustviz list methods",
            code=2,
        )
