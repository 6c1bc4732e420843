"""What all modules share: the batch of a training step, the error whose message is shown to people,
checks of ε, and functions that write numbers and words as text.

Nothing here imports torch at run time, so that the command line and the first page can reject bad
input at once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


# Rules that say which pixels of an image are important. Those in MAP_RULES compare a CAM map with a
# number, which can be changed. Data sets that know the object also have the rule "oracle".
MAP_RULES = ("z>1", "z>0", "heat>0.5", "top20%")
MASK_RULES = (*MAP_RULES, "ones", "shuffled", "jet-compat")


class UserError(ValueError):
    """An error whose message is one clear sentence for a person: what went wrong, why, and what to
    do. It is shown without a traceback.

    `code` is the exit status of the command line (2: wrong usage, 1: failed).
    """

    def __init__(self, message: str, *, code: int = 1) -> None:
        super().__init__(message)
        self.code = code


class WrongCall(UserError, TypeError):
    """A call for which Python would raise TypeError, explained in one clear sentence."""


@dataclass(frozen=True, eq=False)
class Batch:
    """One training step's data, as a method gets it; with several processes, the share of this
    process.

    `x` (N, C, H, W): images, float in [0, 1], already augmented. `y` (N,) int64: their class
    indices. `index` (N,): their positions in the training split, for methods that remember
    something per image. `epoch`: counted from 0. `progress`: the fraction of the whole training
    done before this step, at least 0 and below 1. `rng`: the generator for this batch's attack
    noise, on x's device.

    `views` (V, N, C, H, W): independently augmented copies, the first of them `x`; None if the
    method uses no views; V = 1 without augmentation. `objects` (N, 1, H, W) bool: true on the
    object, augmented like `x`; None unless the method needs them and the data has them.
    `once(make)` returns the attacked images, which `make()` computes; if the loss is computed twice
    for one batch (`training.awp`), the second call returns the images of the first.
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
    """A NumPy number, or a 0-dimensional array or tensor, as a Python number; anything else
    unchanged.
    """
    item = getattr(value, "item", None)
    return item() if callable(item) and getattr(value, "ndim", None) == 0 else value


# Characters that start an image, a link, markup or a formula, and harmless ones that look alike.
_HARMLESS = str.maketrans("[]<>`$|\\", "［］‹›ˋ＄¦⧵")


def harmless(text: object) -> str:
    """`text` on one line and safe to show on a page, for text that somebody else wrote. Characters
    that start links, images, HTML, code or formulas are replaced by look-alikes: a class called
    `![x](http://…)` must not make a browser contact that host. Characters that cannot be printed
    become spaces. Emphasis with `*` and `_` is left as it is.
    """
    line = "".join(one if one.isprintable() else " " for one in str(text))
    return line.encode("utf-8", "replace").decode().translate(_HARMLESS).replace("://", ":∕∕")


def shown(value: object) -> str:
    """A value as text; floats have all their digits, but no final `.0`: 8.0 gives `8`."""
    return repr(value).removesuffix(".0") if isinstance(value, float) else str(value)


def parse_number(text: str | float) -> float:
    """The number that `text` stands for, as a float: text such as `0.15` or `8/255`, or a number.
    Raises UserError for anything else, and for NaN and infinity.
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
    """`eps` as a float, if it is a valid radius in pixel units of [0, 1] images.

    NumPy numbers and 0-dimensional tensors are accepted. linf: 0 ≤ ε ≤ 1. l2: 0 ≤ ε ≤ √(C·H·W),
    where `shape` is (C, H, W); without `shape` there is no upper limit. Raises UserError for a
    number outside this range and for anything that is not a number, such as text. If `eps` is above
    1 for linf, the message suggests `eps`/255, or 8/255 if `eps` is not between 2 and 255.
    """
    eps = plain(eps)
    limit = 1.0 if norm == "linf" else math.sqrt(math.prod(shape)) if shape else math.inf
    if isinstance(eps, bool) or not isinstance(eps, (int, float)) or not abs(eps) < 1e308:
        raise UserError(f"eps={eps!r} is not a number; write it like 0.15 or 8/255.", code=2)
    if 0 <= eps <= limit:
        return float(eps)
    if norm == "linf" and eps > 1:
        raise UserError(
            f"eps={shown(eps)} is outside [0, 1]: pixel values are 0 to 1 here, so write"
            f" {shown(eps) if 2 <= eps <= 255 else 8}/255.",
            code=2,
        )
    raise UserError(
        f"eps={shown(eps)} is outside [0, {limit:.4g}] for the {norm} norm: pixel values are 0 to"
        " 1 here.",
        code=2,
    )


def eps_text(eps: float) -> str:
    """A radius in pixel units as text for people, always in the same form: `8/255` if it is a whole
    number of grey levels, else `0.15 (38/255)`.
    """
    level = eps * 255
    return (
        f"{round(level)}/255"
        if abs(level - round(level)) < 1e-3
        else f"{eps:.3g} ({level:.0f}/255)"
    )


def grey_text(eps: float) -> str:
    """A measured radius in grey levels, as `2.1/255`."""
    return f"{eps * 255:.1f}/255"


JSON = dict[str, Any]


def points_text(share: float) -> str:
    """A difference of two fractions as text in percentage points, with its sign and one decimal:
    0.125 gives `+12.5`.
    """
    return f"{round(100 * share, 1) + 0.0:+.1f}".replace("-", "−")


def listed(words: Sequence[str]) -> str:
    """The words as a list in a sentence: `a, b and c`; empty if there are none."""
    return " and ".join(filter(None, [", ".join(words[:-1]), *words[-1:]]))


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table with the header `head` and one line for each of `rows`."""
    first, *rest = (f"| {' | '.join(map(str, cells))} |" for cells in (head, *rows))
    return "\n".join([first, "|---" * len(head) + "|", *rest])
