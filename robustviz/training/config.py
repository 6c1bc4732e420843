"""One training in one frozen dataclass: the data, the method, the network, how long, how fast, on
what.
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

# pixels; images that are larger come in smaller batches, so that a step takes about the same memory
LARGE = 64
LEAST = 8  # images in such a batch
# where it runs, and how long it is examined, is no part of what was asked, nor of a run's name
WHERE = ("device", "threads", "test_n")


@dataclass(frozen=True)
class TrainConfig(Spec):
    """Everything that decides what a training computes. None means "the data set's default" and is
    filled in at once, so a config read later says what was used. `registry.encode` and `from_json`
    carry it through a run folder.

    Raises UserError for an unknown name, a value of the wrong type or out of range.
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
    epochs: int | None = option(None, "How often every training image is seen.", low=1, high=10_000)
    batch_size: int | None = option(
        None,
        "Images a step; empty: the data set's default, fewer of images above 64 pixels.",
        low=2,
        high=100_000,
        advanced=True,
    )
    lr: float | None = option(
        None,
        "Highest learning rate; empty: the data set's, lower for images above 64 pixels.",
        low=0,
        high=100,
        advanced=True,
    )
    momentum: float = option(0.9, "Momentum of SGD.", low=0, high=0.9999, advanced=True)
    weight_decay: float = option(5e-4, "Weight decay of SGD.", low=0, high=1, advanced=True)
    schedule: str | None = option(
        None,
        "How the learning rate moves. cyclic rises for 30 %, then falls; cyclic@1/2 peaks half-way."
        " step falls to a tenth at 75 and 90 %; step@1/2,3/4 there; empty: cyclic, or the method's"
        " own.",
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
        "fp32", "Number format of the training steps.", advanced=True
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
        None, "Which validation figure picks the best epoch.", advanced=True
    )
    init: str | None = option(
        None,
        "The network to go on from: a run, or a file of weights; empty: fresh weights. A head for"
        " another number of classes is drawn anew.",
        advanced=True,
        kind="starting run",
        later=True,
    )
    patience: int = option(
        0,
        "Stop early: after so many epochs without a better validation figure; 0: never. Of a"
        " training in stages the last one stops.",
        low=0,
        high=10_000,
        advanced=True,
        later=True,
    )
    test_n: int = option(
        0,
        "How many test images the evaluation at the end takes; 0: all.",
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
        # noisier steps are shorter
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
                "patience asks for a better validation figure, and select=last takes every epoch"
                " for better: set select to robust or clean.",
                code=2,
            )

    @property
    def bound_method(self) -> Method:
        """The method with this config's ε in its attack, where that has none of its own."""
        return self.method.bound(self.eps)  # type: ignore[arg-type]

    @property
    def run_id(self) -> str:
        """`<data>-<method>-<net>-s<seed>-<8 hex of the config>`; at most 64 plain characters."""
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
        """Plain JSON values, readable by `from_json`."""
        return dict(registry.encode(self))

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> TrainConfig:
        """The config that `to_json` wrote. Raises UserError for unknown or ill-typed settings."""
        return registry.build(cls, data)

    @classmethod
    def make(
        cls,
        preset: str | None = None,
        flags: Mapping[str, Any] | None = None,
        sets: Sequence[tuple[str, Any]] = (),
    ) -> TrainConfig:
        """A config from what a person typed; precedence: the data set's defaults < preset < flags <
        sets.

        `sets` are (dotted path, value) pairs; `attack.` stands for `method.attack.`. Text values
        are read as JSON, else as `a/b`, else as text. Raises UserError naming the nearest setting.
        """
        from robustviz.training.presets import preset_settings

        given: JSON = dict(preset_settings(preset)) if preset else {}
        typed = {name: value for name, value in (flags or {}).items() if value is not None}
        for room in ("data", "method"):  # another method than the preset's cannot take its settings
            if typed.get(room, given.get(room)) != given.get(room):
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
        # first: other defaults follow from the data
        for path in [path for path in given if path.startswith("data.")]:
            whole = registry.build(cls, {"data": top["data"]} if "data" in top else {})
            top["data"] = registry.with_value(whole, path, given.pop(path)).data
        # last: whether it fits depends on the norm, which a dotted path may set
        eps = top.pop("eps", None)
        config = registry.build(cls, top)
        for path, value in given.items():
            if "." in path:
                config = registry.with_value(config, path, value)
        return config if eps is None else registry.with_value(config, "eps", eps)

    def on_this_machine(self, find_run: FindRun) -> TrainConfig:
        """This config with the device decided, the data's path made absolute, with what its method
        takes from runs that `find_run` finds, and with the very weights named that it begins from.

        Raises UserError where CUDA is asked for and absent, and where such a run is missing.
        """
        return replace(
            self,
            data=self.data.placed(),
            method=self.method.resolved(self, find_run),
            init=resolved(self, find_run),
            device=pick_device(self.device),
        )


def norm_of(config: TrainConfig) -> Literal["linf", "l2"]:
    """The norm in which the run's method was attacked; linf for methods without an attack."""
    return cast(
        Literal["linf", "l2"], getattr(getattr(config.method, "attack", None), "norm", "linf")
    )


def named_device(name: str) -> str:
    """`name` itself, once it is known to be auto, cpu, cuda, or a GPU's number as cuda:1. Raises
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
    """`auto` as what this machine has: cpu or cuda; a named GPU as it is. Raises UserError for what
    is no device, and where such a one is absent.
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
    """A typed text as a value: JSON, else `a/b` as a number, else the text itself."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except json.JSONDecodeError:
        return parse_number(value) if re.fullmatch(r"\s*[\d.]+\s*/\s*[\d.]+\s*", value) else value
