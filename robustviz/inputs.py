"""Checks of images, labels and networks, made once before an attack, an evaluation or a CAM map
uses them.

Each check raises UserError that says in one sentence what was given and what is wanted, so that
nobody sees an error of torch's or gets a meaningless number.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from robustviz.types import UserError

SLACK = 1e-6  # resizing may leave [0, 1] by a rounding error
# Allowed difference between an image's logits alone and in a batch, relative to the largest logits
# (see `_differ`); rounding errors stay far below it.
AGREE = 1e-3
WRAP = "wrap it in a module whose forward returns"
INTEGERS = (
    torch.int64,
    torch.int32,
    torch.int16,
    torch.int8,
    torch.uint8,
    torch.uint16,
    torch.uint32,
    torch.uint64,
)
SIXTEEN = (torch.float16, torch.bfloat16)
FLOATS = (torch.float32, torch.float64, *SIXTEEN)
# what a network may raise for an input that it cannot process
FAILURES = (RuntimeError, TypeError, ValueError, LookupError, AttributeError, AssertionError)
PIXELS = 3 * 64 * 64  # values of an image, up to which `in_parts` makes full batches
# Memory for one batch: on a CPU what a small laptop can spare, on a GPU a share of its memory.
CPU_BYTES, GPU_SHARE = 2**30, 0.25


def check_shape(x: Tensor) -> None:
    """Raises UserError unless `x` is a batch of images (N, C, H, W) of a floating dtype. Pixel
    values are not checked.
    """
    if not isinstance(x, Tensor):
        raise UserError(
            f"Images must be a tensor (N,C,H,W), but this is a {type(x).__name__}: use"
            " torch.from_numpy or torch.stack."
        )
    if x.ndim != 4:
        kind, hint = (
            (
                "have no batch axis or no channels",
                "; a single image: x[None], grey ones: x[:, None]",
            )
            if x.ndim == 3
            else ("are not a batch of images", "")
        )
        raise UserError(
            f"Images of shape {tuple(x.shape)} {kind}: the shape must be (N,C,H,W){hint}."
        )
    if x.dtype not in FLOATS:
        hint = (
            "divide them by 255 (from a data set use .x, not .images)"
            if x.dtype == torch.uint8
            else "use x.float() with values in [0, 1]"
        )
        raise UserError(
            "Images must be floats in [0, 1], but these are"
            f" {str(x.dtype).removeprefix('torch.')}: {hint}."
        )


@torch.inference_mode(False)
def plain_tensor(x: Tensor) -> Tensor:
    """`x` detached from its graph, sharing its memory; a copy if `x` was made in inference mode,
    because torch cannot take gradients with respect to such a tensor.
    """
    return x.clone() if x.is_inference() else x.detach()


def check_images(x: Tensor) -> Tensor:
    """`x` (N, C, H, W) as attacks need it: detached, contiguous, in [0, 1], and float32 where it
    was in 16 bits. The caller's tensor is not changed, but may share its memory with the result.

    Raises UserError for another shape or dtype, for sparse tensors and the device meta, for NaN,
    and for values outside [0, 1], with the likely reason. Values outside by at most 1e-6, a
    rounding error, are clamped instead.
    """
    check_shape(x)
    if x.layout != torch.strided or x.device.type == "meta":
        raise UserError(
            f"Images that are {'on the device meta' if x.device.type == 'meta' else 'sparse'}"
            " have no pixels to change: use an ordinary tensor in [0, 1]."
        )
    x = plain_tensor(x.float() if x.dtype in SIXTEEN else x).contiguous()
    if not x.numel():
        return x
    low, high = (float(value) for value in torch.aminmax(x))
    if low != low or high != high:
        raise UserError("Some pixels are not a number (NaN): they must be in [0, 1].")
    if low >= -SLACK and high <= 1 + SLACK:
        return x if low >= 0 and high <= 1 else x.clamp(0, 1)
    hint = (
        "they look normalised. Pass images in [0, 1] and let the network normalise them:"
        " robustviz.wrap(net, mean=…, std=…)"
        if low < 0
        else "they look like grey levels. Divide them by 255"
        if high > 2
        else "cut them with x.clamp(0, 1)"
    )
    raise UserError(f"Pixel values go from {low:.4g} to {high:.4g}, but must be in [0, 1]: {hint}.")


def check_labels(y: Tensor, n: int, classes: int, x: Tensor | None = None) -> Tensor:
    """`y` as int64 (N,), one label for each of `n` images, each at least 0 and below `classes`; any
    integer dtype is accepted. Raises UserError for anything else.

    With `x`, the labels must be on the same device as these images.
    """
    if not isinstance(y, Tensor) or y.layout != torch.strided or y.device.type == "meta":
        raise UserError(
            "Labels must be an ordinary tensor (N,) of integers, but these are sparse or on the"
            " device meta."
            if isinstance(y, Tensor)
            else f"Labels must be a tensor (N,) of integers, but this is a {type(y).__name__}:"
            " use torch.tensor(labels)."
        )
    shape, dtype = tuple(y.shape), str(y.dtype).removeprefix("torch.")
    if y.dtype not in INTEGERS:
        raise UserError(
            f"Labels must be one integer per image, shape ({n},), but these are {dtype} of shape"
            f" {shape}{'; for one-hot rows use y.argmax(1)' if y.ndim == 2 else ''}."
        )
    if shape != (n,):
        hint = (
            "; use y.squeeze(1)"
            if shape == (n, 1)
            else "; for one-hot rows use y.argmax(1)"
            if shape == (n, classes)
            else ""
        )
        raise UserError(
            f"Labels of shape {shape} do not fit {n} images: they must be one integer per image,"
            f" shape ({n},){hint}."
        )
    if x is not None and y.device != x.device:
        raise UserError(
            f"The images are on {x.device} and the labels on {y.device}: move one of them, e.g."
            " y.to(x.device)."
        )
    values = y.tolist() or [0]  # as Python ints: uint64 values may not fit in int64
    wrong = [value for value in (min(values), max(values)) if not 0 <= value < classes]
    if wrong:
        raise UserError(
            f"The label {wrong[0]} is outside 0 to {classes - 1}, as this network has {classes}"
            " classes: leave out such images."
        )
    return plain_tensor(y).to(torch.int64)


def in_parts(x: Tensor, most: int = 250, size: int | None = None) -> tuple[Tensor, ...]:
    """Split images `x` (N, C, H, W) into batches that fit in memory in a forward pass without
    gradients. A batch has `most` images if an image has at most 3·64·64 values, and fewer, but at
    least one, if it has more. `size`: the side in pixels to which the network resizes the images,
    so that their values are counted at that size; None: no resizing.
    """
    numel = max(x[:1].numel(), 1) if size is None else x.shape[1] * size * size
    return torch.split(x, max(1, min(most, most * PIXELS // numel)))


def _reason(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200].rstrip(".")


def answer(net: Callable[[Tensor], Any], x: Tensor) -> Any:
    """The output of `net`, a network or a part of one, for `x`. Where its weights have 16 bits, `x`
    is converted to their dtype. `net` gets a copy of `x`, because it may change its input in place.
    If `x` requires a gradient it is passed as it is; the caller has then made a copy.

    Raises UserError, with the message of torch or Python, where `net` cannot process `x`; running
    out of memory is raised as torch.OutOfMemoryError.
    """
    own = net.parameters() if isinstance(net, nn.Module) else ()
    weights = next((p.dtype for p in own if p.is_floating_point()), x.dtype)
    try:
        return net(
            x.to(weights, copy=True) if weights in SIXTEEN else x if x.requires_grad else x.clone()
        )
    except (UserError, torch.OutOfMemoryError):
        raise
    except FAILURES as error:
        ours, theirs = (str(dtype).removeprefix("torch.") for dtype in (x.dtype, weights))
        hint = f" Its weights are {theirs}: use x.to(torch.{theirs}), or net.float()."
        raise UserError(
            f"The network fails on images of shape {tuple(x.shape)}, {ours}, on {x.device}:"
            f" {_reason(error)}.{hint if weights != x.dtype else ''}"
        ) from error


def logits_of(net: Callable[[Tensor], Any], x: Tensor) -> Tensor:
    """The logits (N, K), K ≥ 2, that `net`, a whole network or the last part of one, gives for `x`;
    16-bit logits are converted to float32. `x` is passed on as by `answer`.

    Raises UserError where `net` cannot process `x`, and where it returns anything but such logits;
    the message describes what it returned.
    """
    out = answer(net, x)
    if (
        not isinstance(out, Tensor)
        or out.ndim != 2
        or len(out) != len(x)
        or not out.is_floating_point()
    ):
        raise UserError(
            "The network must return logits (N,K), but it returns "
            + (
                f"{tuple(out.shape)} of {out.dtype} for {len(x)} images: {WRAP} logits."
                if isinstance(out, Tensor)
                else f"a {type(out).__name__}: {WRAP} the logits alone."
            )
        )
    if out.shape[1] < 2:
        raise UserError(
            f"The network must return at least 2 logits per image, but it returns {out.shape[1]}:"
            f" for a single logit z {WRAP} torch.cat([torch.zeros_like(z), z], 1)."
        )
    return out.float() if out.dtype in SIXTEEN else out


@torch.no_grad()
def all_logits(net: Callable[[Tensor], Any], x: Tensor, at_once: int | None = None) -> Tensor:
    """The result of `logits_of` for all images `x`, without gradients, in batches of `at_once`
    images (None: one batch); an empty tensor (0, 2) if there are no images.
    """
    if not len(x):
        return x.new_zeros(0, 2)
    return torch.cat([logits_of(net, part) for part in torch.split(x, at_once or len(x))])


@dataclass(frozen=True)
class Trial:
    """The result of `try_out`: `classes`, the number of logits; `has_gradient`, whether they have a
    gradient with respect to the image; `image_bytes`, how many bytes a forward pass saves per image
    for the backward pass; `at_once`, how many images fit in memory at once. All numbers are at
    least 1.
    """

    classes: int
    has_gradient: bool
    image_bytes: int
    at_once: int


def try_out(net: nn.Module, x: Tensor) -> Trial:
    """Run `net` on three images: the first of `x` (N, C, H, W), in [0, 1]; the second at half its
    brightness; and noise. No other thread may change `net` meanwhile. Returns a `Trial`.

    If `x` has fewer than two images, only one is run (a grey one if `x` is empty): `at_once` is
    then 1, `image_bytes` also counts what images share, such as weights, and it is not checked
    whether the logits of an image depend on the others.

    Raises UserError where `net` cannot process the images, its output is not logits, its backward
    pass fails, or the logits of an image depend on the other images of the batch, so that images
    could not be counted one by one. Logits that are random do not raise it.
    """
    first = x[:1].detach() if len(x) else x.new_full((1, *x.shape[1:]), 0.5)
    noise = torch.rand(first.shape, generator=torch.Generator().manual_seed(0)).to(first)
    few = torch.cat([first, 0.5 * (x[1:2].detach() if len(x) > 1 else first), noise])
    logits, has_gradient, whole = _passed(net, few if len(x) > 1 else first)
    if len(x) < 2:
        return Trial(logits.shape[1], has_gradient, max(whole, 1), 1)
    with torch.no_grad():
        try:
            alone, _, one = _passed(net, first)
            depends = _differ(torch.cat([alone, logits_of(net, few[1:2])]), logits[:2])
        except UserError:  # e.g. batch norm in train mode refuses a single value
            depends, one = True, 0
        if depends and not _differ(logits_of(net, few), logits):  # else it is random
            raise UserError(
                "The logits of an image depend on the other images of its batch (as with batch"
                " norm without running statistics and with dynamic quantisation), so images"
                " cannot be attacked or counted separately: use fixed statistics."
            )
    needs = max((whole - one) // 2, 1)
    room = (
        int(GPU_SHARE * torch.cuda.get_device_properties(x.device).total_memory)
        if x.device.type == "cuda"
        else CPU_BYTES
    )
    return Trial(logits.shape[1], has_gradient, needs, max(room // needs, 1))


def _differ(a: Tensor, b: Tensor) -> bool:
    """Whether logits `a` and `b`, both (N, K), differ by more than rounding errors. The tolerance
    of a class is 0.1% of its largest absolute logit in `b` or, if that is larger, of the median
    over the classes of these largest logits; under autocast it is 5%.
    """
    scale = b.abs().nan_to_num(0, 0, 0).amax(dim=0)
    scale = torch.maximum(scale, scale.median())
    exact = AGREE if not torch.is_autocast_enabled(b.device.type) else 50 * AGREE
    return bool(((a - b).abs() > exact * scale + 1e-12).any())


def _passed(net: nn.Module, x: Tensor) -> tuple[Tensor, bool, int]:
    """The logits of `x`, whether they have a gradient with respect to `x`, and how many bytes the
    forward pass saves for the backward pass. Raises UserError if either pass fails.
    """
    held: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        if tensor.layout == torch.strided:
            storage = tensor.untyped_storage()
            held[storage.data_ptr()] = storage.nbytes()
        return tensor

    z = x.detach().clone().requires_grad_()
    with torch.enable_grad():
        try:
            with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
                logits = logits_of(net, z)
        except UserError:
            held.clear()
            logits = logits_of(net, z)  # torch.func's transforms refuse these hooks
        try:
            has_gradient = (
                logits.requires_grad
                and torch.autograd.grad(logits.sum(), z, allow_unused=True)[0] is not None
            )
        except FAILURES as error:
            raise UserError(
                "The backward pass from the logits of this network to the image fails:"
                f" {_reason(error)}."
            ) from error
    return logits.detach(), has_gradient, sum(held.values())
