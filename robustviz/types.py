"""The words every room shares: the batch a method sees, the error a person reads, and ε.

Nothing here imports torch at run time, so that the command line and the first page can refuse bad
input at once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


# What may mark the important pixels of an image: rules for a map, in which any number may stand,
# and rules of another kind. Some data sets know the object besides ("oracle").
MAP_RULES = ("z>1", "z>0", "heat>0.5", "top20%")
MASK_RULES = (*MAP_RULES, "ones", "shuffled", "jet-compat")


class UserError(ValueError):
    """One clear sentence for the person: what went wrong, why, and what to do. Shown without a
    traceback.

    `code` is the command line's exit status (2: wrong usage, 1: failed).
    """

    def __init__(self, message: str, *, code: int = 1) -> None:
        super().__init__(message)
        self.code = code


class WrongCall(UserError, TypeError):
    """A call that Python would refuse with a TypeError, in one clear sentence."""


@dataclass(frozen=True, eq=False)
class Batch:
    """What a method sees of one training step.

    `x` (N,C,H,W) float in [0,1], already augmented; `y` (N,); `index` (N,) positions in the
    training split, for anything remembered per sample; `epoch` from 0; `progress` from 0 to 1 over
    the whole training; `rng` the generator of this batch's attack noise, on x's device; `views`
    (V,N,C,H,W) where a method asks for several, independently augmented, the first one `x`, and V =
    1 where nothing augments; `objects` (N,1,H,W) bool, true on the object, where
    it asks for that, moved as `x` was by the augmentation. `once` gives what a function that
    attacks the images makes: where the loss is taken twice of one batch (`training.awp`), the
    images of the first time.
    """

    x: torch.Tensor
    y: torch.Tensor
    index: torch.Tensor
    epoch: int
    progress: float
    rng: torch.Generator
    views: torch.Tensor | None = None
    objects: torch.Tensor | None = None
    once: Callable[[Callable[[], torch.Tensor]], torch.Tensor] = lambda make: make()


def plain(value: Any) -> Any:
    """A number of NumPy's, or an array or tensor of a single one without axes, as Python's own;
    anything else as it is.
    """
    item = getattr(value, "item", None)
    return item() if callable(item) and getattr(value, "ndim", None) == 0 else value


# What would be a picture, a link, markup or a formula where text is shown, and what looks like it.
_HARMLESS = str.maketrans("[]<>`$|\\", "［］‹›ˋ＄¦⧵")


def harmless(text: object) -> str:
    """Text that somebody else wrote, on one line, with nothing in it that Markdown, HTML or Plotly
    would act on: a class called `![x](http://…)` must not make a browser call that host.
    """
    line = "".join(one if one.isprintable() else " " for one in str(text))
    safe = line.encode("utf-8", "replace").decode()
    return safe.translate(_HARMLESS).replace("://", ":∕∕")


def shown(value: object) -> str:
    """A value as it was given: 8 and 1.0001, not 8.0 and 1."""
    return repr(value).removesuffix(".0") if isinstance(value, float) else str(value)


def parse_number(text: str | float) -> float:
    """The number that `text` says: `0.15`, `8/255` or a number already. Raises UserError for
    anything else.
    """
    text = plain(text)
    if isinstance(text, bool) or not isinstance(text, (int, float, str)):
        raise UserError(f"{text!r} is not a number; write it like 0.15 or 8/255.", code=2)
    try:
        above, below = text.split("/") if isinstance(text, str) and "/" in text else (text, 1)
        value = float(above) / float(below)
    except (ValueError, ZeroDivisionError, OverflowError) as error:
        raise UserError(
            f"{text!r} is not a number; write it like 0.15 or 8/255.", code=2
        ) from error
    if not math.isfinite(value):
        raise UserError(f"{text!r} is not a finite number; write it like 0.15 or 8/255.", code=2)
    return value


def check_eps(eps: float, norm: str = "linf", shape: tuple[int, ...] | None = None) -> float:
    """`eps` itself, once it is known to be a radius in pixel units ([0,1] images).

    A number of NumPy's or a tensor of a single one counts. linf: 0 ≤ ε ≤ 1. l2: 0 ≤ ε ≤ √(C·H·W),
    where `shape` is (C, H, W). Raises UserError outside, with the value the person probably meant:
    a whole number from 1 up is almost always k/255.
    """
    eps = plain(eps)
    limit = 1.0 if norm == "linf" else math.sqrt(math.prod(shape)) if shape else math.inf
    if isinstance(eps, bool) or not isinstance(eps, (int, float)) or not math.isfinite(eps):
        raise UserError(f"eps={eps!r} is not a number; write it like 0.15 or 8/255.", code=2)
    if 0 <= eps <= limit:
        return float(eps)
    if norm == "linf" and eps > 1:
        raise UserError(
            f"eps={shown(eps)} is outside [0, 1]: pixels run from 0 to 1 here, so write"
            f" {shown(eps) if 2 <= eps <= 255 else 8}/255.",
            code=2,
        )
    raise UserError(
        f"eps={shown(eps)} is outside [0, {limit:.4g}] for the {norm} norm; pixels run from 0 to 1"
        " here.",
        code=2,
    )


def eps_text(eps: float) -> str:
    """How a radius is printed everywhere: `8/255`, or `0.150 (38/255)` where it is no whole number
    of grey levels.
    """
    level = eps * 255
    return (
        f"{round(level)}/255"
        if abs(level - round(level)) < 1e-3
        else f"{eps:.3g} ({level:.0f}/255)"
    )


def grey_text(eps: float) -> str:
    """A measured radius in grey levels: `2.1/255`."""
    return f"{eps * 255:.1f}/255"


JSON = dict[str, Any]


def points_text(share: float) -> str:
    """A difference of shares in points, with its sign: 0.125 is `+12.5`."""
    return f"{100 * share:+.1f}".replace("-", "−")


def listed(words: Sequence[str]) -> str:
    """`a, b and c`."""
    return " and ".join(filter(None, [", ".join(words[:-1]), *words[-1:]]))


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table."""
    first, *rest = (f"| {' | '.join(map(str, cells))} |" for cells in (head, *rows))
    return "\n".join([first, "|---" * len(head) + "|", *rest])
