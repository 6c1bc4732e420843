"""SIP-AT: adversarial training that leaves the salient pixels of an image unperturbed.
It is the opposite of PART.
"""

from dataclasses import dataclass

from torch import Tensor

from robustviz import cam
from robustviz.data import Dataset
from robustviz.methods.base import Plan
from robustviz.methods.part import PART
from robustviz.methods.pgd_at import PGDAT
from robustviz.nets.base import Classifier
from robustviz.registry import option, register
from robustviz.types import MAP_RULES, Batch, UserError


@register("method/sip_at")
@dataclass(frozen=True)
class SIPAT(PGDAT):
    """Cross-entropy on PGD images whose salient pixels are not perturbed.

    The radius is 0 on salient pixels, in the start and in each step, and ε elsewhere.

    Source: Redgrave, Czajka 2025 (arXiv 2501.09086), abstract, and the authors' code
    (`run_training.py` and `PGD_attack_generator.py` of Tim-Redgrave/SIP-Adversarial-Training;
    `train_model.py` of Tim-Redgrave/Temp_CVPR, in which a pixel is salient above half of its map's
    range); the paper's text could not be read. Differs: they store the maps before training (from
    people (CUB's birds), from boxes or from Grad-CAM), and the code does not say of which network.
    Here the map is the true object (`salience=oracle`, shapes) or Grad-CAM at the true class of the
    network in training, computed for the current batch; an image of which all or no pixels are
    salient is attacked everywhere. Steps are PGD-AT's, theirs 32 of 1/255 at ε = 8/255. If all
    pixels count as salient (`salience=ones`), this is PGD-AT, bit for bit.
    """

    salience: str = option(
        "heat>0.5",
        "Which pixels are not perturbed: heat>0.5 (Grad-CAM above half of its range), z>1, z>0,"
        " top20%, or oracle (shapes: the true object).",
        kind="rule",
        choices=(*MAP_RULES, "oracle"),
    )

    label = "SIP-AT (our reading)"
    paper = (
        "Redgrave, Czajka: Salient information preserving adversarial training improves clean and"
        " robust accuracy (2025)"
    )
    text = (
        "PGD-AT whose attack may change only the background: pixels that decide the class are"
        " not perturbed. The opposite of PART. Tested at the full ε everywhere."
    )
    choices = (
        "The authors use stored maps, drawn by people or by Grad-CAM. Here it is Grad-CAM of the"
        " network in training, or the true object on shapes. We could read all of their code,"
        " but not all of their paper."
    )

    @property
    def objects(self) -> bool:
        return self._part.objects

    @property
    def _part(self) -> PART:
        """PART with this method's attack and rule, used only to check them and to compute masks."""
        return PART(attack=self.attack, rule=self.salience)

    def check(self, config: Plan, split: Dataset, net: Classifier) -> None:
        super().check(config, split, net)
        if self.attack.norm != "linf":
            raise UserError(
                "SIP-AT gives salient pixels the radius 0, which is defined for linf only: set"
                " attack.norm=linf.",
                code=2,
            )
        self._part.check(config, split, net)

    def budget(self, net: Classifier, batch: Batch) -> Tensor:
        assert self.attack.eps is not None, "bound() fills it in"
        salient = self._part.mask(net, batch)
        everywhere = salient.flatten(1).all(dim=1)[:, None, None, None]
        return cam.budget_map(~salient | everywhere, self.attack.eps, 0.0)
