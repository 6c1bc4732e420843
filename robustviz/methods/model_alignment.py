"""Model Alignment: fine-tunes an attacker's network to the soft labels of a witness network. Images
that fool the fine-tuned network then fool other networks more often. It is not a defence.
"""

from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, Self

import torch
import torch.nn.functional as F
from torch import nn

from robustviz import losses
from robustviz.data import Dataset
from robustviz.methods.base import FindRun, Method, Plan, Terms, TrainedNet
from robustviz.nets.base import Classifier
from robustviz.registry import option, register
from robustviz.types import Batch, UserError


@register("method/model_alignment")
@dataclass(frozen=True)
class ModelAlignment(Method):
    """T²·KL(softmax(witness/T) ‖ softmax(source/T)) + ce_weight·CE(source, y).

    This is the loss with which the source network is fine-tuned, averaged over the images; the
    witness is frozen.

    Source: Ma et al. 2024 (ECCV, arXiv 2311.18495) and the authors' `src/align.py` and
    `src/args.py`: T = 4, and of their two weights 1 for the witness (`lambda_kd`) and 0 for the
    true labels (`lambda_cls`, here `ce_weight`), so that labels are not used. Differs: plain
    momentum instead of Nesterov's; by default 3 epochs at learning rate .01 and the data set's
    weight decay; theirs (1 epoch of ImageNet, 1e-3, 1e-4) are in the preset cifar10-alignment, on
    CIFAR-10. `target=witness_hard` (cross-entropy with the witness's prediction) and `target=label`
    (cross-entropy with the true class) are controls with the same budget: they show what alignment
    adds to mere further training. The two differ only on training images that the witness gets
    wrong. The default witnesses get none of them wrong; those of the shipped runs on digits and
    shapes do, because they were trained on part of the images.
    """

    source: str | None = option(
        None,
        "Run whose network is fine-tuned; empty: the shipped Small ResNet with standard training"
        " on this data.",
        kind="starting run",
    )
    witness: str | None = option(
        None,
        "Run whose soft labels are learned; empty: the shipped Small CNN with standard training"
        " on this data.",
        kind="run",
    )
    temperature: float = option(
        4.0,
        "Temperature T: higher values make the witness's soft labels less confident.",
        low=0.1,
        high=100,
    )
    target: Literal["witness_soft", "witness_hard", "label"] = option(
        "witness_soft",
        "What the source is trained on: the witness's soft labels or, as controls, its predicted"
        " class or the true class.",
    )
    ce_weight: float = option(
        0.0,
        "Weight of an added cross-entropy on the true class; 0, as published: the labels are not"
        " used. No effect if the true class is the target.",
        low=0,
        high=100,
        advanced=True,
        later=True,
    )

    label = "Model alignment"
    group = "red team"
    paper = "Ma et al.: Improving adversarial transferability via model alignment (ECCV 2024)"
    text = (
        "An attacker's technique, not a defence: it fine-tunes the attacker's own network to a"
        " witness's soft labels, so that attacks made on it transfer better to other networks."
        " The witness never changes."
    )
    choices = (
        "Some summaries call it a defence that smooths the witness; the paper and its code"
        " freeze the witness and attack. T = 4 is the code's, as is a weight of 0 for the true"
        " labels. The controls witness_hard and label differ only on training images that the"
        " witness gets wrong: choose a witness that was trained on part of them."
    )
    select = "last"
    # settings for fine-tuning, not for training from scratch
    recipe: ClassVar[dict[str, Any]] = {"epochs": 3, "lr": 0.01, "schedule": "cosine"}

    def resolved(self, config: Plan, find_run: FindRun) -> Self:
        """A copy of this method with the names of source and witness filled in.

        A name that is not set becomes that of the shipped network with standard training on this
        data: Small ResNet as source, Small CNN as witness. Raises UserError if a run is missing.
        """
        return replace(
            self,
            source=find_run(self.source, data=config.data, net="small_resnet", role="source").name,
            witness=find_run(self.witness, data=config.data, net="small_cnn", role="witness").name,
        )

    def initial(
        self, net: Classifier, config: Plan, split: Dataset, find_run: FindRun
    ) -> nn.Module:
        """Loads the source's weights into `net` and returns the frozen witness, in eval mode.

        Raises UserError if source or witness is missing, has no weights or does not fit this data,
        if the source's architecture is not that of `net`, and if the source has a projection before
        its head.
        """
        source, witness = find_run(self.source), find_run(self.witness)
        _check("source", source, split)
        _check("witness", witness, split)
        if source.architecture != config.net:
            raise UserError(
                f"The source {self.source} is a {source.architecture}, but this training is for"
                f" {config.net}: choose the net {source.architecture}.",
                code=2,
            )
        weights = source.net().state_dict()
        if weights.keys() != net.state_dict().keys():
            raise UserError(
                f"The source {self.source} has a projection layer before its head, which a"
                f" {config.net} does not have: choose another source.",
                code=2,
            )
        net.load_state_dict(weights)
        return witness.net().eval().requires_grad_(False)

    def loss(self, net: Classifier, batch: Batch, aux: nn.Module | None) -> Terms:
        assert aux is not None, "the trainer hands over the witness"
        logits = net(batch.x)
        if self.target == "label":
            return {"ce": F.cross_entropy(logits, batch.y)}
        with torch.no_grad():
            witness = aux(batch.x)
        terms = (
            {"ce_witness": F.cross_entropy(logits, witness.argmax(dim=1))}
            if self.target == "witness_hard"
            else {"kl_witness": losses.kl(witness, logits, self.temperature)}
        )
        if self.ce_weight:
            terms["ce"] = self.ce_weight * F.cross_entropy(logits, batch.y)
        return terms


def _check(role: str, run: TrainedNet, split: Dataset) -> None:
    """Raises UserError unless `run` has weights and was trained on images with the shape and the
    classes of `split`. The classes' names are compared only if the run recorded them.
    """
    want = (len(split.classes), split.images.shape[1], split.images.shape[-1])
    if not run.weights:
        raise UserError(
            f"The {role} {run.name} has no trained weights yet: let it finish an epoch, or choose"
            f" another {role}."
        )
    if run.shape != want or (run.classes and run.classes != tuple(split.classes)):
        raise UserError(
            f"The {role} {run.name} was trained on other classes than {split.key}'s: choose another"
            f" {role}."
            if run.shape == want
            else f"The {role} {run.name} was trained on {run.shape[0]} classes of"
            f" {run.shape[1]}×{run.shape[2]}×{run.shape[2]} images, but {split.key} has"
            f" {want[0]} of {want[1]}×{want[2]}×{want[2]}: choose a {role} trained on this"
            " data."
        )
