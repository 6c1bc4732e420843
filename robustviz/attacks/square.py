"""Square attack: a random search that uses only the network's logits and no gradient.
A network that merely hides its gradients is therefore not robust against it.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from robustviz import losses
from robustviz.attacks.balls import L2, Linf
from robustviz.attacks.base import Attack, Case, generator
from robustviz.attacks.objective import Objective
from robustviz.inputs import all_logits, check_images, check_shape, logits_of
from robustviz.registry import option, register
from robustviz.types import UserError

# images and their indices in the batch -> one number per sample
Score = Callable[[Tensor, Tensor], Tensor]

# after these queries (of 10,000) the area of the squares is halved
HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
TRACE_BYTES = 2**31


@register("attack/square")
@dataclass(frozen=True, kw_only=True)
class Square(Attack):
    """Sets random squares to +ε or −ε and keeps those that raise the margin; uses no gradient.

    The margin is max_{j≠y} z_j − z_y of the logits z. An image's search stops as soon as the
    network misclassifies it. Images that are misclassified already are returned unchanged; an image
    that never fools the network gets the point with the highest margin among those tried.

    Source: Andriushchenko et al. 2020 (arXiv 1912.00049), algorithms 1 and 2, with the start in
    vertical stripes. `variant=autoattack` matches the Square of AutoAttack: squares smaller than
    the image never touch the last row and column, and their sizes follow the schedule for 10,000
    queries however few are made. `paper` may touch every pixel and fits the schedule to the number
    of queries: on 8×8 digits it is clearly stronger (a standard network still classified 9 of 300
    images correctly, against 26 under AutoAttack's variant). Differs: every image has its own
    square, as in the paper; AutoAttack's code shares one square within a batch. linf only.
    """

    queries: int = option(5000, "How many squares are tried for each image.", low=1, high=100_000)
    p: float = option(
        0.8, "Share of the image that the first squares cover.", low=0.001, high=1, advanced=True
    )

    variant: Literal["autoattack", "paper"] = option(
        "autoattack",
        "Where squares may be placed and how fast they shrink: as in AutoAttack, or anywhere and"
        " fitted to the number of queries (paper).",
        advanced=True,
    )

    # Square takes no gradient steps. Declaring a ClassVar removes the inherited dataclass field.
    step_size: ClassVar[None] = None  # type: ignore[misc]

    fused = False
    needs_gradient = False
    label = "Square"
    text = (
        "Tries random squares and keeps those that raise the loss: it needs only the network's"
        " logits, no gradient."
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.norm != "linf":
            raise UserError(
                "Square is implemented for linf only: set norm=linf, or use AutoAttack, whose"
                " Square supports l2.",
                code=2,
            )

    @property
    def count(self) -> int:
        return self.queries

    def starting_points(self, ball: Linf | L2, rng: torch.Generator) -> Tensor:
        """Vertical stripes: to each column of each channel of an image, +ε or −ε is added at
        random; then the images (N, C, H, W) are clipped to [0, 1].
        """
        n, c, _, w = ball.x.shape
        return ball.project(
            ball.x
            + ball.eps
            * (2 * torch.randint(2, (n, c, 1, w), generator=rng, device=ball.x.device) - 1)
        )

    def objective(self, net: nn.Module, y: Tensor) -> Objective:
        """Returns a function from images to their logits' margin (N,), negated if targeted."""
        return lambda z: self._margin(logits_of(net, z), y)

    def run(self, case: Case, search: bool = False, path: list[Tensor] | None = None) -> Tensor:
        """Returns x_adv (N, C, H, W) for `case`, as `Attack.run` does.

        It takes at most `queries` + 2 forward passes per image and no backward pass. `search` has
        no effect, since Square stops working on fooled images in any case. If `path` is a list, all
        images after 0, 1, … queries are appended to it, until every image is fooled.
        """
        out = case.x.clone()

        def margin(z: Tensor, place: Tensor) -> Tensor:
            return self._margin(all_logits(case.net, z, case.trial.at_once), case.y[place])

        left = torch.arange(len(out), device=out.device)
        left = left[margin(out, left) <= 0]
        self._search(margin, out, left, self._radius(None), case.rng, stop=True, path=path)
        return out

    def trace(
        self, net: nn.Module, x: Tensor, y: Tensor, rng: torch.Generator | None = None
    ) -> Tensor:
        """The images of highest margin after 0, 1, …, `queries` queries, (queries+1, N, C, H, W).

        Those after 0 queries have the vertical stripes of `starting_points`. Images that are
        misclassified already stay unchanged. Raises UserError if the result would take more than 2
        GiB of memory.
        """
        check_shape(x)
        size, path = (self.queries + 1) * x.numel() * x.element_size(), list[Tensor]()
        if size > TRACE_BYTES:
            raise UserError(
                f"The trace of {len(x)} images would take {size / 2**30:.1f} GiB of memory: use"
                " fewer queries or images."
            )
        with self.prepared(net, x, y, rng) as case:
            self.run(case, path=path)
        return torch.stack(path + path[-1:] * (self.queries + 1 - len(path)))

    def maximise(
        self,
        objective: Objective,
        x: Tensor,
        *,
        eps: float | Tensor | None = None,
        rng: torch.Generator | None = None,
    ) -> Tensor:
        """Returns images in the ball around `x` with a high `objective`; uses no gradient.

        The arguments are as in `Attack.maximise`, but pixel values are checked on a GPU too. All
        queries are used for every image.
        """
        with torch.inference_mode(False):
            best, radius = check_images(x).clone(), self._radius(eps)
            self._search(
                lambda z, _: objective(z),
                best,
                torch.arange(len(x), device=x.device),
                radius,
                rng or generator(x),
                stop=False,
            )
        return best

    def _margin(self, logits: Tensor, y: Tensor) -> Tensor:
        return losses.margin(logits, y) * (-1 if self.targeted else 1)

    @torch.no_grad()
    def _search(
        self,
        score: Score,
        x: Tensor,
        place: Tensor,
        eps: float | Tensor,
        rng: torch.Generator,
        stop: bool,
        path: list[Tensor] | None = None,
    ) -> None:
        """Overwrites the images of `x` at the indices `place` with the points of highest `score`.

        With `stop`, the search ends for each image once its score is above 0. `path` collects all
        images, as in `run`.
        """
        ball = Linf(x[place], eps)
        # the values a square may take
        low, high = (each.expand_as(ball.x) for each in (ball.low, ball.high))
        whole = self.queries if self.variant == "paper" else 10_000
        here = self.starting_points(ball, rng)
        height = score(here, place)
        for query in range(self.queries + 1):
            if path is not None:
                path.append(x.index_copy(0, place, here))
            going = height <= 0
            if stop and not bool(going.all()):
                x[place] = here
                place, here, height, low, high = (
                    each[going] for each in (place, here, height, low, high)
                )
            if query == self.queries or not len(place):
                break
            square, up = self._square(here, side(self.p, query, whole, *x.shape[2:]), rng)
            proposal = torch.where(square, torch.where(up, high, low), here)
            reached = score(proposal, place)
            here = torch.where((reached > height).view(-1, 1, 1, 1), proposal, here)
            height = torch.maximum(height, reached)
        x[place] = here

    def _square(self, here: Tensor, side: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """Draws a square of `side` pixels for each image: a mask (N,1,H,W), True inside the square,
        and its signs per channel (N,C,1,1), True for +ε and False for −ε.
        """
        n, c, h, w = here.shape
        last = 1 if self.variant == "paper" else 0  # AutoAttack's code leaves out the last position
        top, left = (
            torch.randint(
                max(length - side + last, 1), (n, 1, 1, 1), generator=rng, device=here.device
            )
            for length in (h, w)
        )
        row = torch.arange(h, device=here.device).view(h, 1)
        column = torch.arange(w, device=here.device)
        square = (row >= top) & (row < top + side) & ((column >= left) & (column < left + side))
        return square, torch.randint(2, (n, c, 1, 1), generator=rng, device=here.device).bool()


def side(p: float, query: int, queries: int, height: int, width: int) -> int:
    """The side in pixels of the squares that query number `query` (from 0) of `queries` tries:
    √(p·H·W), rounded.

    The share p is halved up to nine times, after the queries in `HALVINGS` (for 10,000 queries,
    else in proportion). The side is at least 1 and fits the image.
    """
    halvings = sum(int(query / queries * 10_000) > mark for mark in HALVINGS)
    return min(max(round(math.sqrt(p / 2**halvings * height * width)), 1), height, width)
