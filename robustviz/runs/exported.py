"""Exports a run's network to a file for other programs: its weights, a torch.export program, or
ONNX. The file is written only if the network read back from it gives the run's logits.
"""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Callable, Iterator
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn

from robustviz.imports import load
from robustviz.nets.base import frozen
from robustviz.runs.files import write_file
from robustviz.types import UserError

if TYPE_CHECKING:
    from robustviz.nets import Classifier
    from robustviz.runs.folder import Run

Kind = Literal["state_dict", "torch.export", "onnx"]
CLOSE = 1e-4  # allowed difference relative to the largest logit: programs sum in different orders
FEW = 5  # images that are compared; more than one, to detect a fixed batch size


def export(run: Run, kind: Kind, path: str | PathLike[str]) -> Path:
    """Write the run's best network to `path` and return the path; without an ending in its name,
    the usual one is added (.pt, .pt2 or .onnx). An existing file is replaced.

    `state_dict`: the weights by name, as safetensors if `path` ends in .safetensors, else as
    torch.save writes them (`torch.load(…, weights_only=True)`). `torch.export`: a program for any
    batch size, `torch.export.load(path).module()`. `onnx`: the same for other runtimes, input `x`
    (N,C,H,W) in [0, 1], output `logits` (N,K); class names and the image size are in its metadata.
    All of them include the normalisation. Raises UserError for an unknown kind, for a missing
    package, for a network that cannot be exported as this kind, if the network read back gives
    other logits, and if the file cannot be written.
    """
    if kind not in WRITERS:
        raise UserError(f"There is no export format {kind!r}. Known: {', '.join(WRITERS)}.", code=2)
    ending, write = WRITERS[kind]
    path = Path(path).expanduser()
    path = path if path.suffix else path.with_suffix(ending)
    net, (_, channels, size) = run.net().cpu(), run.shape
    x = torch.rand((FEW, channels, size, size), generator=torch.Generator().manual_seed(0))
    with frozen(net):
        with torch.no_grad():
            wanted = net(x)
        data, answer = write(run, net, x, path)
        found = answer(x)
    most = float((found - wanted).abs().max() / wanted.abs().max().clamp(min=1e-12))
    if found.shape != wanted.shape or not most <= CLOSE:
        raise UserError(
            f"The {kind} export of {run.id} gives other logits than the run (they differ by"
            f" {most:.1e} of the largest logit), so it is not saved: export it as state_dict."
        )
    write_file(path, data)
    return path


Written = tuple[bytes, Callable[[Tensor], Tensor]]


def _state_dict(run: Run, net: Classifier, x: Tensor, path: Path) -> Written:
    weights = {name: value.contiguous() for name, value in net.state_dict().items()}
    if path.suffix == ".safetensors":
        files = load("safetensors.torch")
        data: bytes = files.save(weights, metadata={"robustviz": json.dumps(_facts(run))})
        back = files.load(data)
    else:
        buffer = io.BytesIO()
        torch.save(weights, buffer)
        data = buffer.getvalue()
        back = torch.load(io.BytesIO(data), weights_only=True)

    def answer(x: Tensor) -> Tensor:
        fresh = run.net()
        fresh.load_state_dict(back)
        with torch.no_grad():
            return fresh.eval()(x)  # type: ignore[no-any-return]

    return data, answer


def _program(run: Run, net: Classifier, x: Tensor, path: Path) -> Written:
    buffer = io.BytesIO()
    with _one_sentence(run, "torch.export"):
        program = torch.export.export(net, (x,), dynamic_shapes=({0: torch.export.Dim("n")},))
        torch.export.save(program, buffer)
    data = buffer.getvalue()
    module: nn.Module = torch.export.load(io.BytesIO(data)).module()

    def answer(x: Tensor) -> Tensor:
        with torch.no_grad():
            return torch.cat([module(part) for part in x.split([1, len(x) - 1])])

    return data, answer


def _onnx(run: Run, net: Classifier, x: Tensor, path: Path) -> Written:
    try:
        runtime, _, _ = map(load, ("onnxruntime", "onnx", "onnxscript"))
    except ImportError as error:
        raise UserError(
            "ONNX export needs further packages: pip install onnx onnxscript onnxruntime."
        ) from error
    with _one_sentence(run, "onnx"):
        program = torch.onnx.export(
            net,
            (x,),
            dynamo=True,
            verbose=False,
            input_names=["x"],
            output_names=["logits"],
            dynamic_shapes=({0: torch.export.Dim("n")},),
        )
        assert program is not None
        proto = program.model_proto
        for name, value in _facts(run).items():
            proto.metadata_props.add(key=name, value=json.dumps(value, ensure_ascii=False))
        data: bytes = proto.SerializeToString()
        options = runtime.SessionOptions()
        options.log_severity_level = 3  # errors
        session = runtime.InferenceSession(data, options, providers=["CPUExecutionProvider"])

    def answer(x: Tensor) -> Tensor:
        parts = [session.run(None, {"x": p.numpy()})[0] for p in x.split([1, len(x) - 1])]
        return torch.cat([torch.from_numpy(part) for part in parts])

    return data, answer


WRITERS: dict[str, tuple[str, Callable[[Run, Classifier, Tensor, Path], Written]]] = {
    "state_dict": (".pt", _state_dict),
    "torch.export": (".pt2", _program),
    "onnx": (".onnx", _onnx),
}


def _facts(run: Run) -> dict[str, object]:
    classes, channels, size = run.shape
    return {
        "run": run.id,
        "net": run.architecture,
        "classes": list(run.classes) or classes,
        "input": [channels, size, size],
        "range": [0, 1],
    }


@contextlib.contextmanager
def _one_sentence(run: Run, kind: str) -> Iterator[None]:
    """A context manager that turns any exception inside the block into a UserError of one sentence,
    because tracing can raise any exception. A UserError is passed on unchanged.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        first = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        raise UserError(
            f"{run.id} cannot be written down as {kind}, because its forward cannot be traced"
            f" ({type(error).__name__}: {first}): export it as state_dict."
        ) from error
