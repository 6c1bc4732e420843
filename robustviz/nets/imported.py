"""The architecture of imported runs, which is described in the run's `config.json`."""

from robustviz.nets.base import Classifier, PerChannel
from robustviz.registry import register
from robustviz.types import UserError


@register("net/imported", offered=False)
class Imported(Classifier):
    """Holds the key of imported runs' architecture. Creating an instance raises UserError:
    `nets.known.network` makes the network of an imported run, and `robustviz.import_run` the run.
    """

    label = "Imported"

    def __init__(
        self, classes: int, channels: int, size: int, mean: PerChannel, std: PerChannel
    ) -> None:
        raise UserError(
            "An imported network is read from its run's folder and cannot be built anew: choose"
            " another one to train, see: python -m robustviz list nets",
            code=2,
        )
