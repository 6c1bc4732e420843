"""The field's loss functions as pure tensor functions: logits or features in, a scalar or one
number per sample out.

The tests compare each with a slow, independent implementation and with golden numbers in float64,
because implementations differ in reductions and in the direction of a KL divergence.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from robustviz.types import UserError


def kl_per_sample(p_logits: Tensor, q_logits: Tensor, temperature: float = 1.0) -> Tensor:
    """T²·KL(softmax(p/T) ‖ softmax(q/T)) of each sample, (N,), at least 0; gradients flow through
    both.

    `p_logits`, `q_logits`: (N, K). Source: Hinton et al. 2015 (arXiv 1503.02531), whose factor T²
    keeps the scale of the gradients.
    """
    p = F.log_softmax(p_logits / temperature, dim=1)
    apart = p - F.log_softmax(q_logits / temperature, dim=1)
    return (p.exp() * apart).sum(dim=1) * temperature**2


def kl(p_logits: Tensor, q_logits: Tensor, temperature: float = 1.0) -> Tensor:
    """T²·KL(softmax(p/T) ‖ softmax(q/T)) of logits (N, K), summed over classes and averaged over
    samples ("batchmean"); a scalar.
    """
    return kl_per_sample(p_logits, q_logits, temperature).mean()


def trades(logits: Tensor, logits_adv: Tensor, y: Tensor, beta: float) -> Tensor:
    """The TRADES loss: CE(f(x), y) + β·KL(f(x) ‖ f(x')), both averaged over samples; a scalar. The
    clean output, the target of the KL term, is not detached.

    `logits`, `logits_adv`: (N, K) of the clean and the attacked images; `y`: (N,). Source: Zhang et
    al. 2019 (TRADES, arXiv 1901.08573), eq. 5, and the authors' `trades.py`.
    """
    return F.cross_entropy(logits, y) + beta * kl(logits, logits_adv)


def margin(logits: Tensor, y: Tensor) -> Tensor:
    """The margin max_{j≠y} z_j − z_y of each sample, (N,): above 0 where the network is wrong,
    below 0 where it is right, 0 for a tie.

    Source: Carlini and Wagner 2017 (arXiv 1608.04644), objective f6, without its confidence term.
    """
    others = logits.scatter(1, y[:, None], -torch.inf).amax(dim=1)
    return others - logits.gather(1, y[:, None]).squeeze(1)


def mart(logits: Tensor, logits_adv: Tensor, y: Tensor, beta: float) -> Tensor:
    """The MART loss BCE(p', y) + β·(1/N) Σ KL(p ‖ p')·(1 − p_y), a scalar. BCE is the boosted
    cross-entropy (`boosted_ce`); p and p' are the softmax outputs for the clean and the attacked
    images. Gradients flow through every factor.

    `logits`, `logits_adv`: (N, K) of the clean and the attacked images; `y`: (N,). Source: Wang et
    al. 2020 (MART, ICLR), eq. 9 and table 1, and the authors' `mart.py`.
    """
    return boosted_ce(logits_adv, y) + beta * misclassification_kl(logits, logits_adv, y)


def boosted_ce(logits: Tensor, y: Tensor) -> Tensor:
    """MART's boosted cross-entropy: −log p_y − log(1.0001 − max_{j≠y} p_j), averaged over samples;
    a scalar. `logits`: (N, K); p: their softmax; `y`: (N,).

    Source: Wang et al. 2020 (MART), eq. 7; the 1.0001 and the 1e-12 inside the logarithm are from
    the authors' code.
    """
    other = logits.softmax(dim=1).scatter(1, y[:, None], -1.0).amax(dim=1)
    return F.cross_entropy(logits, y) - torch.log(1.0001 - other + 1e-12).mean()


def misclassification_kl(logits: Tensor, logits_adv: Tensor, y: Tensor) -> Tensor:
    """MART's weighted KL term: (1/N) Σ KL(p ‖ p')·(1 − p_y), a scalar; p and p' are the softmax
    outputs of `logits` and `logits_adv`, both (N, K), of the clean and the attacked images. Images
    that the network misclassifies without an attack count most. Source: MART, eq. 8.
    """
    sure = logits.softmax(dim=1).gather(1, y[:, None]).squeeze(1)
    return (kl_per_sample(logits, logits_adv) * (1 - sure)).mean()


def logit_pairing(logits: Tensor, logits_adv: Tensor, weight: Tensor | None = None) -> Tensor:
    """The logit pairing loss: (1/N) Σ wᵢ · mean_K (zᵢ − z'ᵢ)², a scalar; mean_K is the mean over
    the K classes. Gradients flow through both logits, and through the weight if it requires them.

    `logits`, `logits_adv`: z and z', (N, K); `weight`: w, (N,), or None for ones. Source: Kannan et
    al. 2018 (ALP, arXiv 1803.06373), eq. 5, and the authors' code, where L is the mean square.
    """
    apart = (logits - logits_adv).pow(2).mean(dim=1)
    return (apart if weight is None else weight * apart).mean()


def supcon(
    z: Tensor, y: Tensor, temperature: float, base_temperature: float | None = None
) -> Tensor:
    """The supervised contrastive loss L_out of features `z` (N, D), which are normalised here, with
    labels `y` (N,); a scalar.

    The positives of a sample are all other samples of its class; its contrast set is all other
    samples. A sample without positives adds 0 and still counts in the mean over samples; fewer than
    two samples give 0. The loss is multiplied by `temperature`/`base_temperature`, or by 1 if
    `base_temperature` is None; the official code uses 0.07. Source: Khosla et al. 2020 (arXiv
    2004.11362), eq. 2, and the authors' `losses.py`.
    """
    if len(z) < 2:
        return z.sum() * 0.0
    z, itself = F.normalize(z, dim=1), torch.eye(len(z), dtype=torch.bool, device=z.device)
    return _contrast(z @ z.T / temperature, y[:, None] == y, itself).mean() * (
        1.0 if base_temperature is None else temperature / base_temperature
    )


def margin_contrastive(
    z: Tensor, y: Tensor, margin: float, reduction: Literal["balanced", "flat"] = "balanced"
) -> Tensor:
    """The margin contrastive loss: pulls pairs of the same class together (d²) and pushes other
    pairs to at least m = `margin` apart (max(0, m − d)²); a scalar.

    d is the Euclidean distance between two different rows of `z` (N, D), which are normalised here;
    `y`: (N,). `balanced`: half the sum of the means over both kinds of pairs, 0 for a kind without
    pairs; `flat`: the mean over all pairs. Fewer than two rows give 0. Source: Hadsell et al. 2006,
    eq. 4. Differs: the margin paper's own weights (arXiv 2412.19747) are not public.
    """
    z = F.normalize(z, dim=1)
    if len(z) < 2:
        return z.sum() * 0.0
    first, second = torch.triu_indices(len(z), len(z), offset=1, device=z.device)
    square = (z[first] - z[second]).pow(2).sum(dim=1)
    same = y[first] == y[second]
    # sqrt has no gradient at 0: two equal points of different classes get gradient 0
    gap = (margin - square.clamp(min=1e-24).sqrt()).clamp(min=0).pow(2)
    if reduction == "flat":
        return torch.where(same, square, gap).mean()
    pull = torch.where(same, square, torch.zeros_like(square)).sum() / same.sum().clamp(min=1)
    push = torch.where(same, torch.zeros_like(gap), gap).sum() / (~same).sum().clamp(min=1)
    return 0.5 * (pull + push)


def contrastive_per_anchor(
    anchors: Tensor,
    y: Tensor,
    contrast: Tensor,
    contrast_y: Tensor,
    temperature: float,
    leave_out: Tensor | None = None,
) -> Tensor:
    """The contrastive loss −|Pᵢ|⁻¹ Σ_{p∈Pᵢ} log( exp(z'ᵢ·z_p/τ) / Σ_a exp(z'ᵢ·z_a/τ) ) of each
    anchor z'ᵢ, (N,); a runs over all contrast samples, τ is `temperature`.

    `anchors` (N, D) with labels `y` (N,) are compared with all of `contrast` (M, D) with labels
    `contrast_y` (M,); both are normalised here. Pᵢ are the contrast samples of the anchor's class.
    If the anchors are attacked images and the contrast samples the clean ones, Pᵢ includes the
    anchor's own clean image. If Pᵢ is empty, the loss is 0. `leave_out` (N, M) bool: pairs that are
    ignored, also in the sum over a, such as an anchor with itself. Source: docs/methods.md, AFA:
    our reading of Park et al. 2024 (arXiv 2402.12187).
    """
    anchors, contrast = F.normalize(anchors, dim=1), F.normalize(contrast, dim=1)
    return _contrast(anchors @ contrast.T / temperature, y[:, None] == contrast_y, leave_out)


def _contrast(score: Tensor, same: Tensor, leave_out: Tensor | None) -> Tensor:
    """For each row of `score` (N, M), minus the mean of its log-softmax over the pairs marked in
    `same` (N, M), as (N,); 0 for a row without such pairs. Pairs marked in `leave_out` count
    neither in the mean nor in the softmax.
    """
    if leave_out is not None:
        score, same = score.masked_fill(leave_out, -torch.inf), same & ~leave_out
    log_share = score - score.logsumexp(dim=1, keepdim=True)
    total = torch.where(same, log_share, torch.zeros_like(log_share)).sum(dim=1)
    return -total / same.sum(dim=1).clamp(min=1)


def adversarial_contrastive(
    anchors: Tensor, y: Tensor, contrast: Tensor, contrast_y: Tensor, temperature: float
) -> Tensor:
    """AFA's loss: `contrastive_per_anchor` averaged over the anchors; a scalar. Gradients flow
    through anchors and contrast.
    """
    return contrastive_per_anchor(anchors, y, contrast, contrast_y, temperature).mean()


def dlr(logits: Tensor, y: Tensor, target: Tensor | None = None) -> Tensor:
    """The difference-of-logits ratio (DLR) of each sample, (N,); scaling the logits does not change
    it.

    Untargeted: −(z_y − max_{j≠y} z_j)/(z_π1 − z_π3). With `target` (N,), the class t of each
    sample: −(z_y − z_t)/(z_π1 − ½(z_π3 + z_π4)). z_π1 is the largest logit, z_π3 the third largest,
    and so on. 1e-12 is added to both denominators. Raises UserError for fewer than 3 classes (4 if
    `target` is given). Source: Croce and Hein 2020 (arXiv 2003.01690), eq. 6 and 9, and the
    authors' `autopgd_base.py`.
    """
    need = 3 if target is None else 4
    if logits.shape[1] < need:
        raise UserError(
            f"The DLR loss needs at least {need} classes, but this network has {logits.shape[1]};"
            " use the loss ce.",
            code=2,
        )
    ordered = logits.sort(dim=1, descending=True).values
    if target is None:
        return margin(logits, y) / (ordered[:, 0] - ordered[:, 2] + 1e-12)
    own, reach = (logits.gather(1, each[:, None]).squeeze(1) for each in (y, target))
    return -(own - reach) / (ordered[:, 0] - 0.5 * (ordered[:, 2] + ordered[:, 3]) + 1e-12)
