"""Tests checkpoints of other repositories: they are read without running any code, and fitted to
our networks from the parameter names of PART, TRADES, MART and RobustBench.
"""

from __future__ import annotations

import argparse
import itertools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from robustviz import nets
from robustviz.runs.checkpoint import agreement, fitted, read
from robustviz.types import UserError

STATE = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)).state_dict()


class Block(nn.Module):
    """A residual block with the parameter names of these repositories. `kind` is resnet, preact or
    wide.
    """

    def __init__(self, kind: str, inside: int, out: int, stride: int) -> None:
        super().__init__()
        self.kind = kind
        self.bn1 = nn.BatchNorm2d(out if kind == "resnet" else inside)
        self.conv1 = nn.Conv2d(inside, out, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(out)
        self.conv2 = nn.Conv2d(out, out, 3, 1, 1, bias=False)
        if inside != out or stride > 1:
            way = nn.Conv2d(inside, out, 1, stride, bias=False)
            if kind == "wide":
                self.convShortcut = way
            else:
                norm = [nn.BatchNorm2d(out)] * (kind == "resnet")
                self.shortcut = nn.Sequential(way, *norm)

    def forward(self, x: Tensor) -> Tensor:
        way = getattr(self, "shortcut", getattr(self, "convShortcut", None))
        if self.kind == "resnet":
            out = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
            return F.relu(out + (way(x) if way else x))
        ready = F.relu(self.bn1(x))
        out = self.conv2(F.relu(self.bn2(self.conv1(ready))))
        return out + (way(ready) if way else x)


class Stage(nn.Module):
    def __init__(self, blocks: list[Block]) -> None:
        super().__init__()
        self.layer = nn.Sequential(*blocks)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)


class Theirs(nn.Module):
    def __init__(self, kind: str, classes: int = 10) -> None:
        super().__init__()
        self.kind = kind
        wide = kind == "wide"
        widths = (16, 160, 320, 640) if wide else (64, 64, 128, 256, 512)
        self.conv1 = nn.Conv2d(3, widths[0], 3, 1, 1, bias=False)
        for at, (inside, out) in enumerate(itertools.pairwise(widths), 1):
            blocks = [
                Block(kind, inside if i == 0 else out, out, 2 if i == 0 and at > 1 else 1)
                for i in range(5 if wide else 2)
            ]
            setattr(
                self,
                f"block{at}" if wide else f"layer{at}",
                Stage(blocks) if wide else nn.Sequential(*blocks),
            )
        if wide:
            self.sub_block1 = Stage([Block(kind, 16, 160, 1)])
        last = {"wide": "bn1", "preact": "bn", "resnet": "bn1"}[kind]
        setattr(self, last, nn.BatchNorm2d(widths[0 if kind == "resnet" else -1]))
        setattr(self, "fc" if wide else "linear", nn.Linear(widths[-1], classes))

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(x)
        if self.kind == "resnet":
            x = F.relu(self.bn1(x))
        for at in range(1, 5):
            x = getattr(self, f"layer{at}", getattr(self, f"block{at}", nn.Identity()))(x)
        if self.kind != "resnet":
            x = F.relu(getattr(self, "bn", getattr(self, "bn1", None))(x))
        return getattr(self, "fc", getattr(self, "linear", None))(x.mean((2, 3)))


def awake(net: nn.Module) -> nn.Module:
    """Gives the batch norms random statistics and weights, and puts the network in eval mode."""
    rng = torch.Generator().manual_seed(1)
    for part in net.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.running_mean.normal_(0, 0.1, generator=rng)
            part.running_var.uniform_(0.5, 2, generator=rng)
            nn.init.uniform_(part.weight, 0.5, 1.5, generator=rng)
    return net.eval()


THEIRS = [
    ("resnet", "resnet18", "_orig_mod.module."),
    ("preact", "preact_resnet18", "model.1."),
    pytest.param("wide", "wrn_34_10", "", marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("kind", "key", "prefix"), THEIRS)
def test_their_weights_answer_the_same_in_our_networks(kind: str, key: str, prefix: str) -> None:
    theirs, ours = awake(Theirs(kind)), nets.build(key, 10).eval()
    state = {prefix + name: value for name, value in theirs.state_dict().items()}
    if prefix == "model.1.":  # RobustBench puts a normalisation layer in front.
        state |= {"model.0.mu": torch.full((3, 1, 1), 0.5), "model.0.sigma": torch.ones(3, 1, 1)}
    found = fitted(state, ours.state_dict(), f"nets:{key}", "F")
    ours.load_state_dict(found.state)
    x = torch.rand((1, 3, 32, 32), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(ours(x), theirs(x), rtol=1e-4, atol=1e-4)
    assert found.mean == ([0.5] * 3 if prefix == "model.1." else None)


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "model.", "module.model.net."])
def test_wrappers_names_are_taken_off(prefix: str) -> None:
    state = {prefix + name: value for name, value in STATE.items()}
    assert list(fitted(state, STATE, "mine", "F").state) == list(STATE)
    inside = {
        f"net.{name}": value for name, value in STATE.items()
    }  # A network whose own parameter names start with "net.".
    assert list(fitted(inside, inside, "mine", "F").state) == list(inside)


def test_our_own_weights_bring_their_normalisation() -> None:
    net = nets.build("small_cnn", 3, 3, 16, [0.4] * 3, [0.2] * 3)
    found = fitted(
        net.state_dict(), nets.build("small_cnn", 3, 3, 16).state_dict(), "small_cnn", "F"
    )
    assert found.mean is None and torch.equal(found.state["maps.0.mean"], net.maps[0].mean)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda s: s | {"linear.weight": torch.zeros(100, 512), "linear.bias": torch.zeros(100)},
         "F has 100 classes, but 10 are needed"),
        (lambda s: {n: v for n, v in s.items() if n != "bn1.bias"},
         "in the network, but not in the file: 1 (maps.2.bias)"),
        (lambda s: s | {"extra": torch.zeros(1)},
         "in the file, but not in the network: 1 (extra)"),
        (lambda s: s | {"conv1.weight": torch.zeros(64, 1, 3, 3)},
         "of another shape: 1 (maps.1.weight is 64×1×3×3 in the file and 64×3×3×3 in the network:"
         " the file's network takes grey images, this one takes RGB)"),
        (lambda s: s | {"conv1.weight": torch.full((64, 3, 3, 3), torch.nan)}, "no numbers"),
    ],
    ids=["classes", "missing", "strange", "shape", "nan"],
)  # fmt: skip
def test_weights_of_another_network_say_what_differs(spoil: Callable[..., Any], said: str) -> None:
    with torch.device("meta"):
        own, theirs = nets.build("resnet18", 10).state_dict(), Theirs("resnet").state_dict()
    theirs = {name: torch.zeros(value.shape) for name, value in theirs.items()}
    with pytest.raises(UserError) as refused:
        fitted(spoil(theirs), own, "resnet18", "F")
    assert said in str(refused.value) and "\n" not in str(refused.value)


def test_agreement_tells_the_nearest_network() -> None:
    with torch.device("meta"):
        state = Theirs("preact").state_dict()
        shares = {
            key: agreement(
                state, {n: tuple(v.shape) for n, v in nets.build(key, 10).state_dict().items()}, key
            )
            for key in ("resnet18", "preact_resnet18", "small_cnn")
        }
    assert max(shares, key=shares.get) == "preact_resnet18" and shares["preact_resnet18"] > 0.95


@pytest.mark.parametrize(
    ("held", "entry"),
    [
        (STATE, ""),
        ({"epoch": 3, "state_dict": STATE, "optimizer": {"state": {0: STATE}}}, "state_dict"),
        ({"net": STATE, "acc": 0.3}, "net"),
        ([STATE, {"lr": 0.1}], "0"),
        ({"ema": STATE, "model": STATE}, "model"),
        ({"a": {"model": {"state_dict": STATE}}}, "a.model.state_dict"),
    ],
)
@pytest.mark.parametrize("zipped", [True, False])
def test_nested_weights_are_found(held: object, entry: str, zipped: bool, tmp_path: Path) -> None:
    torch.save(held, tmp_path / "F.pth", _use_new_zipfile_serialization=zipped)
    found = read(tmp_path / "F.pth")
    assert found.entry == entry and list(found.state) == list(STATE)


def test_of_several_one_can_be_named(tmp_path: Path) -> None:
    other = {name: value + 1 for name, value in STATE.items()}
    torch.save({"ema": other, "model": STATE}, tmp_path / "F.pth")
    assert read(tmp_path / "F.pth").others == ("ema",)
    assert torch.equal(read(tmp_path / "F.pth", "ema").state["0.bias"], other["0.bias"])
    with pytest.raises(UserError, match="no weights under 'best', but under model, ema"):
        read(tmp_path / "F.pth", "best")


def test_safetensors_are_read(tmp_path: Path) -> None:
    save_file(STATE, tmp_path / "F.anything")
    assert list(read(tmp_path / "F.anything").state) == sorted(STATE)


class Evil:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_that_runs_code_is_not_opened(zipped: bool, tmp_path: Path) -> None:
    for held, said in (
        ({"x": Evil(tmp_path / "ran"), "model": STATE}, "system"),
        ({"args": argparse.Namespace(a=1), "model": STATE}, "argparse.Namespace"),
        (nn.Linear(2, 2), "torch.nn.modules.linear.Linear"),
    ):
        torch.save(held, tmp_path / "F.pth", _use_new_zipfile_serialization=zipped)
        with pytest.raises(UserError, match=rf"more than weights \(.*{said}\); opening that could"):
            read(tmp_path / "F.pth")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "content",
    [b"", b"hello", b"PK\x03\x04garbage", b"\x10" + b"\0" * 7 + b"{garbage", b"\xff" * 8 + b"{"],
)
def test_what_is_no_file_of_weights_is_one_sentence(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "F.pth").write_bytes(content)
    with pytest.raises(UserError, match=r"^F.pth is (damaged|not a file of weights)"):
        read(tmp_path / "F.pth")
    with pytest.raises(UserError, match="cannot be read"):
        read(tmp_path / "none.pth")
    torch.save({"lr": 0.1}, tmp_path / "F.pth")
    with pytest.raises(UserError, match="holds no weights"):
        read(tmp_path / "F.pth")
