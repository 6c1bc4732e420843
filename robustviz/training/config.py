"""`TrainConfig`: all settings of one training (data, method, network, duration, learning rate,
device) in one frozen dataclass.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, cast

import torch

from robustviz import registry
from robustviz.data import AUGMENTATIONS, Digits, Source, source
from robustviz.methods import PGDAT
from robustviz.methods.base import FindRun, Method
from robustviz.process import default_threads
from robustviz.registry import Spec, option
from robustviz.training.order import TURNS, turns
from robustviz.training.start import resolved
from robustviz.types import JSON, UserError, check_eps, harmless, parse_number

# pixels per side; larger images get smaller batches, so that a step needs about as much memory
LARGE = 64
LEAST = 8  # smallest default batch size for such images
# Settings that do not change what is trained, only where it runs and how much is evaluated. They
# are not part of a run's name.
WHERE = ("device", "threads", "test_n")


@dataclass(frozen=True)
class TrainConfig(Spec):
    """All settings of one training, as a frozen dataclass. When the object is created, each setting
    that was left empty gets a default: the method's, else the data set's, else a general one. So a
    saved config shows what was used. Only `init` may stay None, and `device` may stay `auto`. Run
    folders store a config as `to_json` returns it.

    Raises UserError for an unknown network, data set, schedule, augmentation or device, for a value
    of the wrong type or out of range, and for `patience` together with `select=last`.
    """

    data: Source = option(Digits, "The images to learn from.")
    method: Method = option(PGDAT, "How the network is trained.")
    net: str = option("", "The architecture; empty: the data set's default.", kind="net")
    eps: float | None = option(
        None,
        "Attack radius for training, validation and evaluation, in [0, 1]; empty: the data set's.",
        kind="radius",
    )
    n_train: int | None = option(
        None, "How many training images; 0: all; empty: the data set's default.", low=0
    )
    epochs: int | None = option(
        None, "Number of epochs: how often every image is seen.", low=1, high=10_000
    )
    batch_size: int | None = option(
        None,
        "Batch size; empty: the data set's default, smaller for images above 64 pixels.",
        low=2,
        high=100_000,
        advanced=True,
    )
    lr: float | None = option(
        None,
        "Peak learning rate; empty: the data set's default, lower for images above 64 pixels.",
        low=0,
        high=100,
        advanced=True,
    )
    momentum: float = option(0.9, "Momentum of SGD.", low=0, high=0.9999, advanced=True)
    weight_decay: float = option(5e-4, "Weight decay of SGD.", low=0, high=1, advanced=True)
    schedule: str | None = option(
        None,
        "Learning-rate schedule. cyclic rises for the first 30% of the training, then falls;"
        " cyclic@1/2 peaks half-way. step divides it by 10 after 75% and 90%; step@1/2,3/4 after"
        " half and three quarters. Empty: cyclic, or the method's default.",
        advanced=True,
        kind="rule",
        choices=tuple(TURNS),
    )
    augment: str = option(
        "",
        "Random flips and shifts; empty: the data set's default.",
        advanced=True,
        kind="augmentation",
        choices=AUGMENTATIONS,
    )
    ema: float = option(
        0.0,
        "Weight averaging: decay of a running average of the weights, which is what is validated"
        " and kept; 0: none. Among others Gowal et al. 2020 (arXiv 2010.03593) use it in"
        " adversarial training.",
        low=0,
        high=0.99999,
        advanced=True,
    )
    precision: Literal["fp32", "bf16"] = option(
        "fp32", "Floating-point format of the training steps.", advanced=True
    )
    threads: int | None = option(
        None, "CPU threads; empty: physical cores minus one.", low=1, high=1024, advanced=True
    )
    device: str = option(
        "auto",
        "Where to train: auto, cpu, cuda, or one of several GPUs, as cuda:1.",
        advanced=True,
        kind="rule",
        choices=("auto", "cpu", "cuda"),
    )
    seed: int = option(
        0,
        "Fixes initial weights, data order, augmentation and attack noise.",
        low=0,
        high=2**31 - 1,
    )
    snapshots: int = option(
        0, "Keep the weights of every k-th epoch; 0: none.", low=0, advanced=True
    )
    select: Literal["robust", "clean", "last"] | None = option(
        None,
        "Which validation accuracy chooses the epoch whose weights are kept; last: the last one.",
        advanced=True,
    )
    init: str | None = option(
        None,
        "Weights to start from: a run, or a file of weights; empty: random weights. A head for"
        " another number of classes is initialised anew.",
        advanced=True,
        kind="starting run",
        later=True,
    )
    patience: int = option(
        0,
        "Early stopping: end after this many epochs without a better validation accuracy; 0: never."
        " If a training has stages, only the last one stops early.",
        low=0,
        high=10_000,
        advanced=True,
        later=True,
    )
    test_n: int = option(
        0,
        "How many test images the final evaluation uses; 0: all.",
        low=0,
        advanced=True,
        later=True,
    )

    def __post_init__(self) -> None:
        if isinstance(self.data, str):
            object.__setattr__(self, "data", source(self.data))
        super().__post_init__()
        recipe = {**self.data.recipe, **self.method.recipe}
        usual = recipe.get("batch_size", 128)
        batch = min(usual, max(LEAST, int(usual * (LARGE / max(LARGE, self.data.pixels)) ** 2)))
        # the default learning rate falls with the batch size, as smaller batches are noisier
        for name, value in {
            "net": self.net or recipe.get("net", "small_resnet"),
            "eps": check_eps(
                self.data.default_eps if self.eps is None else self.eps, norm_of(self)
            ),
            "n_train": (recipe.get("n_train") or 0) if self.n_train is None else self.n_train,
            "epochs": self.epochs or recipe.get("epochs", 20),
            "batch_size": self.batch_size or batch,
            "lr": (
                round(recipe.get("lr", 0.1) * (batch / usual), 6) if self.lr is None else self.lr
            ),
            "schedule": self.schedule or recipe.get("schedule", "cyclic"),
            "augment": self.augment or recipe.get("augment", "none"),
            "threads": self.threads or default_threads(),
            "select": self.select or self.method.select,
        }.items():
            object.__setattr__(self, name, value)
        turns(str(self.schedule))
        object.__setattr__(self, "device", named_device(self.device))
        if self.patience and self.select == "last":
            raise UserError(
                "patience needs a validation accuracy that can improve, and with select=last every"
                " epoch counts as better: set select to robust or clean.",
                code=2,
            )

    @property
    def bound_method(self) -> Method:
        """The method, with the ε of its attack set to this config's ε unless the attack has its
        own.
        """
        return self.method.bound(self.eps)  # type: ignore[arg-type]

    @property
    def run_id(self) -> str:
        """The default id of a run with this config, `<data>-<method>-<net>-s<seed>-<8 hex digits of
        a hash of the config>`: at most 64 characters of a-z, 0-9 and '-', because the part before
        the hash is cut off at 55. Device, threads and `test_n` do not change the id.
        """
        settings = registry.encode(self, naming=True)
        asked = {name: value for name, value in settings.items() if name not in WHERE}
        digest = hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:8]
        name = re.sub(
            r"[^a-z0-9]+",
            "-",
            f"{self.data.called}-{self.method.key}-{self.net}-s{self.seed}".lower(),
        ).strip("-")
        return f"{name[:55].rstrip('-')}-{digest}"

    def to_json(self) -> JSON:
        """Returns the config as plain JSON values, which `from_json` reads."""
        return dict(registry.encode(self))

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> TrainConfig:
        """Returns the config that `to_json` wrote. Raises UserError for unknown settings and values
        of a wrong type or out of range.
        """
        return registry.build(cls, data)

    @classmethod
    def make(
        cls,
        preset: str | None = None,
        flags: Mapping[str, Any] | None = None,
        sets: Sequence[tuple[str, Any]] = (),
    ) -> TrainConfig:
        """Returns the config that a person asked for. `sets` override `flags`, `flags` override the
        settings of the preset called `preset`, and everything else takes the defaults of the method
        and the data set. Flags that are None are ignored. If another data set (or method) than the
        preset's is asked for, the preset's settings that begin with `data.` (or `method.`) are
        dropped.

        `sets` are (dotted path, value) pairs; `attack.` is short for `method.attack.`. Their values
        are read by `read_value`. Raises UserError as `TrainConfig` does, and for an unknown preset
        or setting; the message then suggests the most similar known name.
        """
        from robustviz.training.presets import preset_settings

        given: JSON = dict(preset_settings(preset)) if preset else {}
        typed = {name: value for name, value in (flags or {}).items() if value is not None}
        # settings of the preset's data set or method do not apply if another one is chosen
        chosen = given | typed | {path: read_value(value) for path, value in sets}
        for room in ("data", "method"):
            if chosen.get(room) != given.get(room):
                given = {
                    path: value for path, value in given.items() if not path.startswith(f"{room}.")
                }
        given |= typed
        for path, value in sets:
            full = f"method.{path}" if path.startswith("attack.") else path
            given.pop(full, None)
            given[full] = read_value(value)
        top = {name: value for name, value in given.items() if "." not in name}
        if isinstance(top.get("data"), str):
            top["data"] = source(top["data"])
        # the data comes first, because other defaults depend on it
        for path in [path for path in given if path.startswith("data.")]:
            whole = registry.build(cls, {"data": top["data"]} if "data" in top else {})
            top["data"] = registry.with_value(whole, path, given.pop(path)).data
        # ε comes last: its range depends on the norm, which a dotted path may set
        eps = top.pop("eps", None)
        config = registry.build(cls, top)
        for path, value in given.items():
            if "." in path:
                config = registry.with_value(config, path, value)
        return config if eps is None else registry.with_value(config, "eps", eps)

    def on_this_machine(self, find_run: FindRun) -> TrainConfig:
        """Returns a copy of this config with everything filled in that depends on this machine: the
        device instead of `auto`, absolute paths of the data, the method's settings that refer to
        other runs (found with `find_run`), and in `init` a hash of the weights to start from.

        Raises UserError if CUDA is asked for but absent, if a run that is needed is missing, or if
        the weights named in `init` have changed.
        """
        return replace(
            self,
            data=self.data.placed(),
            method=self.method.resolved(self, find_run),
            init=resolved(self, find_run),
            device=pick_device(self.device),
        )


def norm_of(config: TrainConfig) -> Literal["linf", "l2"]:
    """Returns the norm of the attack in the config's method, "linf" or "l2"; "linf" for methods
    without an attack.
    """
    return cast(
        Literal["linf", "l2"], getattr(getattr(config.method, "attack", None), "norm", "linf")
    )


def named_device(name: str) -> str:
    """Returns `name` unchanged if it is auto, cpu, cuda, or a numbered GPU such as cuda:1. Raises
    UserError for anything else.
    """
    if not re.fullmatch(r"auto|cpu|cuda(:\d{1,3})?", name):
        raise UserError(
            f"There is no device called {harmless(repr(name))}. Known: auto, cpu, cuda, and one of"
            " several GPUs, as cuda:1.",
            code=2,
        )
    return name


def pick_device(asked: str) -> str:
    """Returns the device to use: for `auto` cuda if this machine has it, else cpu; for other names
    `asked` unchanged. Raises UserError for an unknown name and for a GPU that this machine lacks.
    """
    has = torch.cuda.is_available()
    number = named_device(asked).partition(":")[2]
    if asked.startswith("cuda") and not has:
        raise UserError(
            f"This machine has no usable CUDA device, and {asked} was asked for: use --device cpu,"
            " or install a CUDA build of torch.",
            code=2,
        )
    if number and int(number) >= (count := torch.cuda.device_count()):
        raise UserError(
            f"This machine has no {asked}: its GPUs are cuda:0 to cuda:{count - 1}.", code=2
        )
    return asked if asked != "auto" else "cuda" if has else "cpu"


def read_value(value: Any) -> Any:
    """Returns the value that a typed text stands for: the text read as JSON, else as a fraction
    `a/b` (a float), else the text itself. Anything but text is returned unchanged. Raises UserError
    for a fraction that is no number, such as `1/0`.
    """
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except json.JSONDecodeError:
        return parse_number(value) if re.fullmatch(r"\s*[\d.]+\s*/\s*[\d.]+\s*", value) else value
