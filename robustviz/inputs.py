"""What may come in: images, labels and networks, checked once at the entrance of every attack, count and map.

Each check says in one sentence what came and what is wanted; nobody meets an error of torch's, or a number without meaning.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from robustviz.types import UserError

SLACK = 1e-6  # resizing may leave [0, 1] by a rounding
AGREE = 1e-3  # an image's logits alone and beside another one, relative to the largest: rounding stays far below
WRAP = "wrap it in a module whose forward returns"
INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.uint16, torch.uint32, torch.uint64)
SIXTEEN = (torch.float16, torch.bfloat16)
PIXELS = 3 * 64 * 64
# On a CPU as much as a small laptop can spare; on a GPU a share of its memory.
CPU_BYTES, GPU_SHARE = 2**30, 0.25


def check_shape(x: Tensor) -> None:
    """Raises UserError unless `x` is a batch of images (N,C,H,W) of a floating dtype. Its values are not looked at."""
    if not isinstance(x, Tensor):
        raise UserError(f"Images are wanted as a tensor (N,C,H,W), and this is a {type(x).__name__}; use torch.from_numpy or torch.stack.")
    shape = tuple(x.shape)
    if x.ndim == 3:
        raise UserError(f"Images of shape {shape} have no batch axis: (N,C,H,W) is wanted; for a single image use x[None].")
    if x.ndim != 4:
        raise UserError(f"Images of shape {shape} are no batch of pictures: (N,C,H,W) is wanted.")
    if not x.is_floating_point():
        hint = "divide them by 255 (of a data set use .x, not .images)" if x.dtype == torch.uint8 else "use x.float() with values in [0, 1]"
        raise UserError(f"Images of {str(x.dtype).removeprefix('torch.')} came, and floats in [0, 1] are wanted: {hint}.")


def plain_tensor(x: Tensor) -> Tensor:
    """`x` without a history; a copy where it was made in inference mode, since no gradient can be taken of such a tensor."""
    with torch.inference_mode(False):
        return x.clone() if x.is_inference() else x.detach()


def check_images(x: Tensor) -> Tensor:
    """`x` (N,C,H,W) as attacks take it: a plain tensor in [0, 1], in float32 where it came in 16 bits; the caller's is not touched.

    Raises UserError for another shape or dtype, for values outside [0, 1] with the likely reason, and for NaN.
    """
    check_shape(x)
    x = plain_tensor(x)
    x = (x.float() if x.dtype in SIXTEEN else x).contiguous()
    if not x.numel():
        return x
    low, high = (float(value) for value in torch.aminmax(x))
    if low != low or high != high:
        raise UserError("Some pixels are not a number (NaN): images in [0, 1] are wanted.")
    if low >= -SLACK and high <= 1 + SLACK:
        return x
    span = f"Pixels run from {low:.4g} to {high:.4g}, and [0, 1] is wanted"
    if low < 0:
        raise UserError(
            f"{span}: they look normalised. Hand in the pixels themselves and let the network normalise them, e.g. with robustviz.nets.base.Normalise."
        )
    raise UserError(f"{span}: they look like grey levels. Divide them by 255." if high > 2 else f"{span}: cut them with x.clamp(0, 1).")


def check_labels(y: Tensor, n: int, classes: int, x: Tensor | None = None) -> Tensor:
    """`y` as int64 (N,), for `n` images and so many classes; of any integer dtype. Raises UserError for anything else.

    With `x` the labels must lie on the images' device.
    """
    if not isinstance(y, Tensor):
        raise UserError(f"Labels are wanted as a tensor (N,) of integers, and this is a {type(y).__name__}; use torch.tensor(labels).")
    shape, dtype = tuple(y.shape), str(y.dtype).removeprefix("torch.")
    if y.dtype not in INTEGERS:
        hint = "; of one-hot rows use y.argmax(1)" if y.ndim == 2 else ""
        raise UserError(f"Labels of {dtype} and shape {shape} came, and one integer an image, shape ({n},), is wanted{hint}.")
    if shape != (n,):
        hint = "; use y.squeeze(1)" if shape == (n, 1) else "; of one-hot rows use y.argmax(1)" if shape == (n, classes) else ""
        raise UserError(f"Labels of shape {shape} came for {n} images, and one integer an image, shape ({n},), is wanted{hint}.")
    if x is not None and y.device != x.device:
        raise UserError(f"The images are on {x.device} and the labels on {y.device}: move one of them, e.g. y.to(x.device).")
    y = plain_tensor(y).to(torch.int64)
    if n:
        low, high = int(y.min()), int(y.max())
        if low < 0 or high >= classes:
            wrong = low if low < 0 else high
            raise UserError(
                f"A label is {wrong}, and this network has {classes} classes: 0 to {classes - 1} are wanted; leave out other images."
            )
    return y


def in_parts(x: Tensor, most: int = 250) -> tuple[Tensor, ...]:
    """Images `x` (N,C,H,W) in parts that a forward pass without gradients has memory for, of `most` images up to 64×64 pixels."""
    return x.split(max(1, min(most, most * PIXELS // max(x[:1].numel(), 1))))


def logits_of(net: Callable[[Tensor], Any], x: Tensor) -> Tensor:
    """What `net`, a module or the rest of one, answers: logits (N,K), K ≥ 2, in float32 or wider; a network with 16-bit weights is shown 16-bit images.

    Raises UserError, which names what came, where the network cannot read `x` or gives something else.
    """
    own = net.parameters() if isinstance(net, nn.Module) else iter(())
    weights = next((p.dtype for p in own if p.is_floating_point()), x.dtype)
    try:
        out = net(x.to(weights) if weights in SIXTEEN else x)
    except (UserError, torch.OutOfMemoryError):
        raise
    except (RuntimeError, TypeError, ValueError, IndexError, AttributeError) as error:
        kind = f"{tuple(x.shape)}, {str(x.dtype).removeprefix('torch.')}, on {x.device}"
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200].rstrip(".")
        hint = ""
        if weights != x.dtype and weights.is_floating_point:
            name = str(weights).removeprefix("torch.")
            hint = f" Its weights are {name}: use x.to(torch.{name}), or net.float()."
        raise UserError(f"The network cannot read images of shape {kind}: {reason}.{hint}") from error
    if not isinstance(out, Tensor):
        raise UserError(f"A network that gives logits (N,K) is wanted, and this one gives a {type(out).__name__}: {WRAP} the logits alone.")
    shape = tuple(out.shape)
    if out.ndim != 2 or len(out) != len(x) or not out.is_floating_point():
        raise UserError(
            f"A network that gives logits (N,K) is wanted, and this one gives {shape} of {out.dtype} for {len(x)} images: {WRAP} logits."
        )
    if out.shape[1] < 2:
        raise UserError(
            f"A network that gives at least 2 logits an image is wanted, and this one gives {shape[1]}: "
            f"for a single logit z {WRAP} torch.cat([torch.zeros_like(z), z], 1)."
        )
    return out.float() if out.dtype in SIXTEEN else out


@dataclass(frozen=True)
class Trial:
    """What a look at two images tells of a network: `classes`, how many logits it gives, and how many images its memory is
    enough for `at_once`, forward and back.
    """

    classes: int
    image_bytes: int
    at_once: int


def try_out(net: nn.Module, x: Tensor) -> Trial:
    """Look at how `net`, which nobody else changes meanwhile, answers the first two images of `x` (N,C,H,W), in [0, 1].

    Raises UserError where it cannot read them, where its answer is no logits, and where an image's answer depends on the
    images beside it: then no image could be counted by itself. For no images a grey one is tried.
    """
    few = x[:2].detach() if len(x) else x.new_full((1, *x.shape[1:]), 0.5)
    logits, both = _forward_bytes(net, few)
    first, one = _forward_bytes(net, few[:1]) if len(few) > 1 else (logits, 0)
    if len(few) > 1:
        with torch.no_grad():
            alone = torch.cat([first, logits_of(net, few[1:])])
            if _differ(alone, logits) and not _differ(logits_of(net, few), logits):  # else it answers at random
                raise UserError(
                    "This network's answer for an image depends on the other images of its batch (batch norm without running statistics does that), "
                    "so no image can be attacked or counted by itself: give its batch norm running statistics."
                )
    needs = max(both - one, 1)
    room = CPU_BYTES if x.device.type != "cuda" else int(GPU_SHARE * torch.cuda.get_device_properties(x.device).total_memory)
    return Trial(logits.shape[1], needs, max(room // needs, 1))


def _differ(a: Tensor, b: Tensor) -> bool:
    scale = float(b.abs().nan_to_num(0, 0, 0).amax())
    return bool(((a - b).abs() > AGREE * scale + 1e-12).any())


def _forward_bytes(net: nn.Module, x: Tensor) -> tuple[Tensor, int]:
    """The logits of `x`, and how many bytes a forward pass remembers for the way back."""
    held: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        held[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        logits = logits_of(net, x.detach().requires_grad_())
    return logits.detach(), sum(held.values())
