"""The base classes of all training methods: settings, and one loss per stage of the training.
A method has no state; the trainer holds everything that changes. `loss(net, batch, aux)` returns
terms that are already weighted: the trainer adds them up and logs them. Settings that change during
training depend on `batch.progress`.
"""

from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, Protocol, Self

import torch.nn.functional as F
from torch import Tensor, nn

from robustviz.attacks import Attack
from robustviz.data import Dataset, Source
from robustviz.nets.attackable import attackable
from robustviz.nets.base import Classifier
from robustviz.registry import Spec, option
from robustviz.types import Batch, UserError

# From this many input values in a batch, bf16 is used; with twice as many (128 digits) a step is a
# quarter faster.
ENOUGH = 64 * 64
Terms = dict[str, Tensor]
Group = Literal["defence", "no adversarial training", "red team", "imported"]


class TrainedNet(Protocol):
    """A network that was trained before, as a method sees it.

    `shape`: number of classes, channels, side of the images in pixels; `classes`: the names of the
    classes, () if unknown; `weights`: the hash of its weights, "" if there are none yet.
    """

    @property
    def name(self) -> str: ...
    @property
    def architecture(self) -> str: ...
    @property
    def shape(self) -> tuple[int, int, int]: ...
    @property
    def classes(self) -> tuple[str, ...]: ...
    @property
    def weights(self) -> str: ...

    def net(self) -> nn.Module: ...


class FindRun(Protocol):
    """Finds a network that was trained before, by the name that a setting gives.

    If `name` is None, it finds the shipped network of architecture `net` with standard training on
    `data`. `role` says in messages what the network is needed for. Raises UserError if there is
    none.
    """

    def __call__(
        self, name: str | None, *, data: Source | None = None, net: str = "", role: str = ""
    ) -> TrainedNet: ...


class Plan(Protocol):
    """What a method may know of the training it is used in: data, architecture, ε and batch size.

    `eps` and `batch_size` are None if they are not set.
    """

    @property
    def data(self) -> Source: ...
    @property
    def net(self) -> str: ...
    @property
    def eps(self) -> float | None: ...
    @property
    def batch_size(self) -> int | None: ...


Loss = Callable[[Classifier, Batch, nn.Module | None], Terms]


def check_terms(terms: Any) -> Terms:
    """Returns `terms`, which a method's loss returned, unchanged. Raises UserError unless they are
    a dictionary of scalar tensors by name.
    """
    if not isinstance(terms, dict):
        raise UserError(
            "A method's loss must return a dictionary of named terms, such as {'ce': …}, and this"
            f" one returned a {type(terms).__name__}."
        )
    for name, term in terms.items():
        if not isinstance(term, Tensor):
            raise UserError(
                f"The loss term {name} must be a tensor, so that it has a gradient, and is a"
                f" {type(term).__name__}."
            )
        if term.shape != ():
            raise UserError(
                f"The loss term {name} has shape {tuple(term.shape)} and must be one number: take"
                " its mean."
            )
    return terms


@dataclass(frozen=True)
class Stage:
    """A part of a training with its own loss; optimiser and schedule restart with each stage.

    The `share_of_epochs` of all stages add up to 1. `trainable` selects the parameters for the
    optimiser, by default all. With `new_head` the stage starts with a new, randomly initialised
    linear head. Modules named in `frozen_eval` stay in eval mode, so their batch-norm statistics do
    not change.
    """

    name: str
    share_of_epochs: float
    loss: Loss
    trainable: Callable[[Classifier], Iterable[nn.Parameter]] = nn.Module.parameters
    new_head: bool = False
    frozen_eval: tuple[str, ...] = ()


@dataclass(frozen=True)
class Method(Spec):
    """Base class of all training methods. A subclass adds its settings as fields, and `loss`."""

    kind = "method"

    label: ClassVar[str]
    group: ClassVar[Group] = "defence"
    paper: ClassVar[str]
    text: ClassVar[str]
    choices: ClassVar[str] = ""
    select: ClassVar[Literal["robust", "clean", "last"]] = "robust"
    # set only if the method needs other settings than a training from scratch with the data set's
    # defaults
    recipe: ClassVar[Mapping[str, Any]] = {}

    @property
    def views(self) -> int:
        """The number of independently augmented views of each image that the loss needs; 0: none.

        The trainer puts them into `batch.views`. If the training has no augmentation, all views
        would be equal, so it puts only one there.
        """
        return 0

    @property
    def balanced(self) -> bool:
        """Whether each class that occurs in a batch must occur in it at least twice."""
        return False

    @property
    def compares(self) -> bool:
        """Whether the loss compares images of a batch with each other.

        In training on several processes every process then compares only its own part of the batch.
        """
        return False

    @property
    def objects(self) -> bool:
        """Whether the loss needs the true object masks in `batch.objects`."""
        return False

    def check(self, config: Plan, split: Dataset, net: Classifier) -> None:
        """Raises UserError, before training, if the settings do not fit the data or the network."""

    def resolved(self, config: Plan, find_run: FindRun) -> Self:
        """This method with settings filled in that depend on this machine, e.g. on shipped runs."""
        return self

    def loss(self, net: Classifier, batch: Batch, aux: nn.Module | None) -> Terms:
        """The weighted loss terms of a batch, by name; each is a scalar with gradient."""
        raise NotImplementedError

    def stages(self, config: Plan) -> tuple[Stage, ...]:
        """The stages of the training, by default one."""
        return (Stage("train", 1.0, self.loss),)

    def network(self, net: Classifier) -> Classifier:
        """The untrained `net` with what this method adds to its architecture.

        New weights are drawn from torch's global generator. The architecture may depend on the
        method's settings only, because this is also called before saved weights are loaded.
        """
        return net

    def initial(
        self, net: Classifier, config: Plan, split: Dataset, find_run: FindRun
    ) -> nn.Module | None:
        """Loads earlier weights into the untrained `net`; returns a frozen network to use as `aux`.

        By default this loads nothing and returns None. Raises UserError if a network found by
        `find_run` does not fit this data.
        """
        return None

    def aux(self, net: Classifier, config: Plan) -> nn.Module | None:
        """A helper network to pass to `loss`, e.g. a projector; by default None.

        Not called if `initial` returns a network. The helper is not part of the trained network.
        """
        return None

    def weight_perturbation(self, progress: float) -> float:
        """How far each weight tensor is moved before a step's gradient, as a fraction of its norm.

        This is γ of adversarial weight perturbation (AWP); 0: the weights are not moved.
        `progress`: the finished share of the training, in [0, 1).
        """
        return 0.0

    def bound(self, eps: float) -> Self:
        """This method with `eps` filled in for its attack, unless that has an `eps` of its own."""
        return self


@dataclass(frozen=True)
class Adversarial(Method):
    """Base class of methods that train on attacked batches."""

    attack: Attack = option(Attack, "The attack that makes the training images.")
    attack_mode: Literal["eval", "train"] = option(
        "eval", "Mode of the network, and so of batch norm, while it is attacked.", advanced=True
    )
    awp: float = option(
        0.0,
        "γ of adversarial weight perturbation (AWP): the gradient is computed after the weights"
        " were moved to raise the loss, by this share of each tensor's norm; 0: no AWP. Its"
        " authors use .01 with PGD-AT, .005 with TRADES.",
        low=0,
        high=1,
        advanced=True,
        later=True,
    )
    awp_warmup: float = option(
        0.0,
        "Share of the training before AWP begins; its authors use 0 with PGD-AT and .05 with"
        " TRADES.",
        low=0,
        high=1,
        advanced=True,
        later=True,
    )

    def weight_perturbation(self, progress: float) -> float:
        return self.awp if progress >= self.awp_warmup else 0.0

    def bound(self, eps: float) -> Self:
        return replace(self, attack=self.attack.bound(eps))

    def budget(self, net: Classifier, batch: Batch) -> Tensor | None:
        """The radius of each pixel, (N,1,H,W), or of each of its channels, (N,C,H,W).

        None: the attack's own ε everywhere.

        `net` is the network under attack, as `attackable` yields it.
        """
        return None

    def attackable(self, net: Classifier, x: Tensor) -> AbstractContextManager[Classifier]:
        """A context that yields the network to attack with images like `x`.

        If `attack_mode` is eval, it is a copy (if `net` can be copied), which may compute in bf16;
        if it is train, it is `net` itself.
        """
        return attackable(
            net, self.attack_mode, bf16=self.attack.norm == "linf" and x.numel() >= ENOUGH
        )

    def attacked(self, net: Classifier, batch: Batch) -> Tensor:
        """The batch's images (N, C, H, W), attacked on their true labels.

        `net` is unchanged, except that `attack_mode=train` updates its running statistics.
        """
        with self.attackable(net, batch.x) as fast:
            return self.attack.maximise(
                self.attack.objective(fast, batch.y),
                batch.x,
                eps=self.budget(fast, batch),
                rng=batch.rng,
            )

    def loss(self, net: Classifier, batch: Batch, aux: nn.Module | None) -> Terms:
        """The cross-entropy on attacked images only."""
        x_adv = batch.once(lambda: self.attacked(net, batch))
        return {"ce_adv": F.cross_entropy(net(x_adv), batch.y)}
