"""The base classes of all training methods: settings, and one loss per stage of the training.
A method has no state; the trainer holds everything that changes. `loss(net, batch, aux)` returns
terms that are already weighted: the trainer adds them up and logs them. What changes in the course
of a training, such as a drop rate that rises, is computed from `batch.progress`.
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

# Attacks may compute in bf16 if a batch has at least this many values (64 images of 8×8 pixels).
# With twice as many, a step is a quarter faster.
ENOUGH = 64 * 64
Terms = dict[str, Tensor]
Group = Literal["defence", "no adversarial training", "red team", "imported"]


class TrainedNet(Protocol):
    """A network that was trained before, as a method sees it.

    `architecture`: the key of its architecture; `shape`: number of classes, channels, side of the
    images in pixels; `classes`: the names of the classes, () if unknown; `weights`: the hash of its
    weights, "" if there are none yet; `net()`: the network itself, with these weights.
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
    `data`. `role` says in error messages what the network is needed for. Raises UserError if there
    is no such network.
    """

    def __call__(
        self, name: str | None, *, data: Source | None = None, net: str = "", role: str = ""
    ) -> TrainedNet: ...


class Plan(Protocol):
    """What a method may know of the training it is used in: data, architecture, ε and batch size.

    `net` is the key of the architecture. `eps` and `batch_size` are None if they are not set.
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

    The `share_of_epochs` of all stages add up to 1. `trainable` selects the network's parameters
    that the stage trains, by default all; those of the network from `Method.aux` are trained in
    every stage. With `new_head` the head's weights are drawn anew when the stage starts. Modules
    named in `frozen_eval` stay in eval mode, so their batch-norm statistics do not change.
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
    # defaults of the training's settings that replace those of the data set; empty for a method
    # that trains from scratch
    recipe: ClassVar[Mapping[str, Any]] = {}

    @property
    def views(self) -> int:
        """The number of independently augmented views of each image that the loss needs; 0: none.

        The trainer puts them into `batch.views`. If the training has no augmentation, all views
        would be equal, so `batch.views` then has only one.
        """
        return 0

    @property
    def balanced(self) -> bool:
        """Whether each class that occurs in a batch must occur in it at least twice."""
        return False

    @property
    def compares(self) -> bool:
        """Whether the loss compares images of a batch with each other.

        If several processes train together, each compares only the images of its own part of the
        batch.
        """
        return False

    @property
    def objects(self) -> bool:
        """Whether the loss needs the true object masks in `batch.objects`."""
        return False

    def check(self, config: Plan, split: Dataset, net: Classifier) -> None:
        """Raises UserError, before training, if the settings do not fit the data or the network."""

    def resolved(self, config: Plan, find_run: FindRun) -> Self:
        """A copy of this method, with settings that name runs on this machine filled in.

        By default there are no such settings, and the method itself is returned. Raises UserError
        if a run is missing.
        """
        return self

    def loss(self, net: Classifier, batch: Batch, aux: nn.Module | None) -> Terms:
        """The weighted loss terms of a batch, by name; each is a scalar with gradient."""
        raise NotImplementedError

    def stages(self, config: Plan) -> tuple[Stage, ...]:
        """The stages of the training, in order; by default one, with `loss`, for all epochs."""
        return (Stage("train", 1.0, self.loss),)

    def network(self, net: Classifier) -> Classifier:
        """The untrained `net` with what this method adds to its architecture; by default nothing.

        `net` may be changed in place. New weights are drawn from torch's global generator. What is
        added may depend only on `net` and the method's settings, because this is also called before
        saved weights are loaded.
        """
        return net

    def initial(
        self, net: Classifier, config: Plan, split: Dataset, find_run: FindRun
    ) -> nn.Module | None:
        """Before training, loads the weights of an earlier run into `net`, in place.

        Returns a frozen network that is then passed to `loss` as `aux`, or None if there is none.
        By default this loads nothing and returns None. Raises UserError if a network found by
        `find_run` does not fit this data.
        """
        return None

    def aux(self, net: Classifier, config: Plan) -> nn.Module | None:
        """A helper network to pass to `loss`, e.g. a projector; by default None.

        It is trained together with `net`, but is not part of the saved network. Its weights are
        drawn from torch's global generator. Not called if `initial` returns a network.
        """
        return None

    def weight_perturbation(self, progress: float) -> float:
        """How far each weight tensor is moved before a step's gradient is computed.

        A fraction of the tensor's norm: γ of adversarial weight perturbation (AWP). 0, the default:
        the weights are not moved. `progress`: the finished share of the training, in [0, 1).
        """
        return 0.0

    def bound(self, eps: float) -> Self:
        """This method with its attack's ε set to `eps`, unless the attack has an ε of its own.

        A method without an attack is returned unchanged.
        """
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
        """The radius ε of each pixel, (N,1,H,W), or of each of its channels, (N,C,H,W).

        None, the default: the attack's own ε everywhere. `net` is the network under attack, as
        `attackable` yields it.
        """
        return None

    def attackable(self, net: Classifier, x: Tensor) -> AbstractContextManager[Classifier]:
        """A context that yields the network to attack with images like `x`.

        If `attack_mode` is eval, this is a copy of `net` in eval mode, which may compute in bf16
        (or `net` itself in eval mode, if it cannot be copied). If `attack_mode` is train, this is
        `net` itself in train mode. Inside the context its parameters require no gradient.
        """
        return attackable(
            net, self.attack_mode, bf16=self.attack.norm == "linf" and x.numel() >= ENOUGH
        )

    def attacked(self, net: Classifier, batch: Batch) -> Tensor:
        """The batch's images (N, C, H, W), attacked on their true labels; detached.

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
        """`ce_adv`: the cross-entropy on the attacked images; clean images are not used."""
        x_adv = batch.once(lambda: self.attacked(net, batch))
        return {"ce_adv": F.cross_entropy(net(x_adv), batch.y)}
