"""robustviz trains small image models with adversarial-robustness methods and shows what each
method does.

Start with `open_run`, `train` and `TrainConfig`. Names are imported when first used, so that
`import robustviz` is cheap and the app's first page never loads torch.
"""

import pkgutil
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = [
    "TrainConfig",
    "as_run",
    "evaluate",
    "import_run",
    "look",
    "open_run",
    "train",
    "train_run",
    "wrap",
]

_HOMES = {
    "as_run": "robustviz.runs.loose:as_run",
    "look": "robustviz.looking:look",
    "open_run": "robustviz.runs.folder:open_run",
    "evaluate": "robustviz.training.anything:evaluate",
    "import_run": "robustviz.runs.imported:import_run",
    "train": "robustviz.training.loop:train",
    "train_run": "robustviz.runs.trained:train_run",
    "TrainConfig": "robustviz.training.config:TrainConfig",
    "wrap": "robustviz.nets.wrapped:wrap",
    # the old names of modules that have moved into `training`
    "config": "robustviz.training.config",
    "doctor": "robustviz.training.doctor",
    "presets": "robustviz.training.presets",
}

if TYPE_CHECKING:
    from robustviz import (
        attacks as attacks,
        callbacks as callbacks,
        cam as cam,
        data as data,
        export as export,
        figures as figures,
        inputs as inputs,
        losses as losses,
        measures as measures,
        methods as methods,
        nets as nets,
        probes as probes,
        registry as registry,
        runs as runs,
        stats as stats,
        terms as terms,
        training as training,
        types as types,
        views as views,
    )
    from robustviz.looking import look as look
    from robustviz.nets.wrapped import wrap as wrap
    from robustviz.runs.folder import open_run as open_run
    from robustviz.runs.imported import import_run as import_run
    from robustviz.runs.loose import as_run as as_run
    from robustviz.runs.trained import train_run as train_run
    from robustviz.training import config as config, doctor as doctor, presets as presets
    from robustviz.training.anything import evaluate as evaluate
    from robustviz.training.config import TrainConfig as TrainConfig
    from robustviz.training.loop import train as train
else:  # hidden from type checkers, which would otherwise accept any attribute name

    def __getattr__(name: str) -> Any:
        if name in _HOMES or name in _rooms():
            return pkgutil.resolve_name(_HOMES.get(name, f"robustviz.{name}"))
        raise AttributeError(f"module 'robustviz' has no attribute {name!r}")

    def __dir__() -> list[str]:
        return sorted({*_HOMES, *_rooms()})

    def _rooms() -> set[str]:
        """The names of all subpackages and modules of this package, without those that start with
        `_`.
        """
        return {name for _, name, _ in pkgutil.iter_modules(__path__) if not name.startswith("_")}
