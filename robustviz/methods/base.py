"""What a training method is: settings, and one loss a stage. It holds no state; the trainer owns
everything that moves.

`loss(net, batch, aux)` returns already-weighted terms; the trainer sums them, logs each and draws
each. Ramps and warm-ups read `batch.progress`.
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
from robustviz.types import Batch

# input values of a batch from which bf16 is tried; with twice as many (128 digits) a step is a
# quarter faster
ENOUGH = 64 * 64
Terms = dict[str, Tensor]
Group = Literal["defence", "no adversarial training", "red team", "imported"]


class TrainedNet(Protocol):
    """A network that was trained before, as a method sees it: what it is called, what it was
    trained on (classes, channels, pixels of a side; names of the classes), its weights' hash.
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
    """Finds a network that was trained before: by the name that a setting gives, or without one the
    shipped ordinary `net` for this data, wanted as `role`. Raises UserError for none.
    """

    def __call__(
        self, name: str | None, *, data: Source | None = None, net: str = "", role: str = ""
    ) -> TrainedNet: ...


class Plan(Protocol):
    """What a method may ask of the training that it takes part in: the images, the architecture, ε
    and the images of a step. Numbers that are left open are None.
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


@dataclass(frozen=True)
class Stage:
    """A part of a training with its own loss; optimiser and schedule restart with it.

    `share_of_epochs` of the stages add up to 1; `trainable` picks the parameters the optimiser
    sees, by default all; `new_head` draws a fresh linear head first; modules named in
    `frozen_eval` stay in eval mode (their batch-norm buffers rest).
    """

    name: str
    share_of_epochs: float
    loss: Loss
    trainable: Callable[[Classifier], Iterable[nn.Parameter]] = nn.Module.parameters
    new_head: bool = False
    frozen_eval: tuple[str, ...] = ()


@dataclass(frozen=True)
class Method(Spec):
    """Base of all methods. A subclass adds its settings as fields and writes `loss`."""

    kind = "method"

    label: ClassVar[str]
    group: ClassVar[Group] = "defence"
    paper: ClassVar[str]
    text: ClassVar[str]
    choices: ClassVar[str] = ""
    select: ClassVar[Literal["robust", "clean", "last"]] = "robust"
    # only where training from scratch on the data set's terms would be another thing
    recipe: ClassVar[Mapping[str, Any]] = {}

    @property
    def views(self) -> int:
        """How many independently augmented views of each image the loss wants in `batch.views`; 0:
        none. Where nothing augments they would be one image several times, and there is one.
        """
        return 0

    @property
    def balanced(self) -> bool:
        """Whether every class in a batch must come with at least two images."""
        return False

    @property
    def compares(self) -> bool:
        """Whether the loss compares images of a batch with each other: on several processes each
        sees its own part only.
        """
        return False

    @property
    def objects(self) -> bool:
        """Whether the loss wants the true object masks in `batch.objects`."""
        return False

    def check(self, config: Plan, split: Dataset, net: Classifier) -> None:
        """Raises UserError, before anything is trained, where these settings do not fit this data
        or this network.
        """

    def resolved(self, config: Plan, find_run: FindRun) -> Self:
        """This method with settings filled in that depend on what else this machine holds, e.g.
        shipped runs.
        """
        return self

    def loss(self, net: Classifier, batch: Batch, aux: nn.Module | None) -> Terms:
        """The weighted terms of one batch's loss, each a scalar with gradient."""
        raise NotImplementedError

    def stages(self, config: Plan) -> tuple[Stage, ...]:
        """The stages of the training, one by default."""
        return (Stage("train", 1.0, self.loss),)

    def network(self, net: Classifier) -> Classifier:
        """The fresh `net` with what this method adds to its architecture, drawn from torch's global
        generator. Whoever loads the weights asks too, so only the settings decide.
        """
        return net

    def initial(
        self, net: Classifier, config: Plan, split: Dataset, find_run: FindRun
    ) -> nn.Module | None:
        """What was trained before and is gone on with: changes to the fresh net, and a frozen
        network that takes the place of `aux`; none by default. Raises UserError where such a
        network does not fit this data.
        """
        return None

    def aux(self, net: Classifier, config: Plan) -> nn.Module | None:
        """A helper network, e.g. a projector, that the trainer owns; none by default."""
        return None

    def weight_perturbation(self, progress: float) -> float:
        """How far each weight tensor is moved for a step's gradient, as a share of its norm; 0:
        not at all. `progress` as in a batch.
        """
        return 0.0

    def bound(self, eps: float) -> Self:
        """This method with `eps` filled in where its attack, if it has one, has none of its own."""
        return self


@dataclass(frozen=True)
class Adversarial(Method):
    """Base of methods that attack each batch while training on it."""

    attack: Attack = option(Attack, "The attack that makes the training images.")
    attack_mode: Literal["eval", "train"] = option(
        "eval", "Batch-norm mode of the net while it is attacked.", advanced=True
    )
    awp: float = option(
        0.0,
        "γ of adversarial weight perturbation (AWP): the gradient is taken where the weights are"
        " worst, this share of each tensor's norm away; 0: none. Its authors take .01 with PGD-AT,"
        " .005 with TRADES.",
        low=0,
        high=1,
        advanced=True,
        later=True,
    )
    awp_warmup: float = option(
        0.0,
        "Share of the training without AWP; its authors begin at once with PGD-AT and after a"
        " twentieth with TRADES.",
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
        """A radius for each pixel, (N,1,H,W); None: the attack's own ε everywhere. `net` is what is
        attacked, see `attackable`.
        """
        return None

    def attackable(self, net: Classifier, x: Tensor) -> AbstractContextManager[Classifier]:
        """Inside, what is attacked in place of `net`: in eval mode a copy, perhaps in bf16; in
        train mode `net` itself.
        """
        return attackable(
            net, self.attack_mode, bf16=self.attack.norm == "linf" and x.numel() >= ENOUGH
        )

    def attacked(self, net: Classifier, batch: Batch) -> Tensor:
        """The batch's images, attacked by cross-entropy on the true labels; the net is left as it
        was.
        """
        with self.attackable(net, batch.x) as fast:
            return self.attack.maximise(
                self.attack.objective(fast, batch.y),
                batch.x,
                eps=self.budget(fast, batch),
                rng=batch.rng,
            )

    def loss(self, net: Classifier, batch: Batch, aux: nn.Module | None) -> Terms:
        """Cross-entropy on attacked images only."""
        x_adv = batch.once(lambda: self.attacked(net, batch))
        return {"ce_adv": F.cross_entropy(net(x_adv), batch.y)}
