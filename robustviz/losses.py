"""The loss functions of the field as pure tensor functions: logits in, one number (or one per sample) out.

Each is held in the tests against a slow, independent implementation and against golden numbers in float64, because
reductions and the direction of a KL divergence are where implementations differ.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def kl_per_sample(p_logits: Tensor, q_logits: Tensor, temperature: float = 1.0) -> Tensor:
    """T²·KL(softmax(p/T) ‖ softmax(q/T)) of each sample, (N,), at least 0; gradient flows through both.

    `p_logits`, `q_logits`: (N, K). Source: Hinton et al. 2015 (arXiv 1503.02531), the T² that keeps gradients' scale.
    """
    p = F.log_softmax(p_logits / temperature, dim=1)
    q = F.log_softmax(q_logits / temperature, dim=1)
    return (p.exp() * (p - q)).sum(dim=1) * temperature**2


def kl(p_logits: Tensor, q_logits: Tensor, temperature: float = 1.0) -> Tensor:
    """T²·KL(softmax(p/T) ‖ softmax(q/T)), summed over classes and averaged over samples ("batchmean"); a scalar."""
    return kl_per_sample(p_logits, q_logits, temperature).mean()


def trades(logits: Tensor, logits_adv: Tensor, y: Tensor, beta: float) -> Tensor:
    """CE(f(x), y) + β·KL(f(x) ‖ f(x')), both averaged over samples; a scalar. The clean target is not detached.

    `logits`, `logits_adv`: (N, K) of the clean and the attacked images; `y`: (N,).
    Source: Zhang et al. 2019 (TRADES, arXiv 1901.08573), eq. 5, and the authors' `trades.py`.
    """
    return F.cross_entropy(logits, y) + beta * kl(logits, logits_adv)


def margin(logits: Tensor, y: Tensor) -> Tensor:
    """max_{j≠y} z_j − z_y of each sample, (N,): above 0 exactly where the network is wrong.

    Source: Carlini and Wagner 2017 (arXiv 1608.04644), objective f6, without its confidence term.
    """
    own = logits.gather(1, y[:, None]).squeeze(1)
    others = logits.scatter(1, y[:, None], -torch.inf).amax(dim=1)
    return others - own
