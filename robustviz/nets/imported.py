"""The architecture of imported runs: each says in its `config.json` what it is made of."""

from robustviz.nets.base import Classifier, PerChannel
from robustviz.registry import register
from robustviz.types import UserError


@register("net/imported", offered=False)
class Imported(Classifier):
    """Made from what its run says of it, see `robustviz.import_run`; never without one."""

    label = "Imported"

    def __init__(
        self, classes: int, channels: int, size: int, mean: PerChannel, std: PerChannel
    ) -> None:
        raise UserError(
            "An imported network comes with its run's folder and is not made anew: choose another"
            " one to train, see: python -m robustviz list nets",
            code=2,
        )
