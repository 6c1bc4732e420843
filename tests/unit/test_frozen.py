"""Tests that `frozen` restores a network's modes and gradients exactly."""

from __future__ import annotations

import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn

from robustviz.nets.base import Classifier, frozen


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_inside_the_whole_net_is_in_one_mode_and_afterwards_each_module_in_its_own(
    mode: str, conv_net: Classifier
) -> None:
    conv_net.train()
    conv_net.maps[2].eval()
    conv_net.head.weight.requires_grad_(False)
    modes, asks = (
        [m.training for m in conv_net.modules()],
        [p.requires_grad for p in conv_net.parameters()],
    )
    with pytest.raises(KeyError), frozen(conv_net, mode):  # type: ignore[arg-type]
        assert {m.training for m in conv_net.modules()} == {mode == "train"}
        assert not any(p.requires_grad for p in conv_net.parameters())
        raise KeyError
    assert [m.training for m in conv_net.modules()] == modes
    assert [p.requires_grad for p in conv_net.parameters()] == asks


def test_it_nests(conv_net: Classifier) -> None:
    conv_net.train()
    with frozen(conv_net, "train"):
        with frozen(conv_net):
            assert not conv_net.training
        assert conv_net.training
        assert not any(p.requires_grad for p in conv_net.parameters())
    assert conv_net.training and all(p.requires_grad for p in conv_net.parameters())


def test_no_gradient_reaches_a_frozen_parameter(conv_net: Classifier, images: torch.Tensor) -> None:
    with frozen(conv_net):
        assert not conv_net(images).requires_grad
    assert conv_net(images).requires_grad


def test_uses_that_overlap_give_back_what_the_first_one_found(conv_net: Classifier) -> None:
    conv_net.train()
    conv_net.maps[2].eval()  # type: ignore[index]
    modes = [m.training for m in conv_net.modules()]
    whole, part = frozen(conv_net), frozen(conv_net.maps)
    whole.__enter__()
    part.__enter__()
    whole.__exit__(None, None, None)
    assert not any(m.training for m in conv_net.maps.modules()) and conv_net.head.training
    assert (
        not any(p.requires_grad for p in conv_net.maps.parameters())
        and conv_net.head.weight.requires_grad
    )
    part.__exit__(None, None, None)
    assert [m.training for m in conv_net.modules()] == modes and all(
        p.requires_grad for p in conv_net.parameters()
    )


def test_threads_that_meet_leave_the_net_as_it_was(
    conv_net: Classifier, images: torch.Tensor
) -> None:
    conv_net.train()
    interval = sys.getswitchinterval()

    def use(_: int) -> bool:
        with frozen(conv_net):
            return (
                not conv_net.training
                and not conv_net(images).requires_grad
                and not conv_net.training
            )

    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(6) as pool:
            assert all(pool.map(use, range(60)))
    finally:
        sys.setswitchinterval(interval)
    assert all(m.training for m in conv_net.modules()) and all(
        p.requires_grad for p in conv_net.parameters()
    )


def test_a_thread_that_wants_another_mode_waits_for_its_turn(conv_net: Classifier) -> None:
    inside, leave, seen = threading.Event(), threading.Event(), []

    def evaluate() -> None:
        with frozen(conv_net):
            inside.set()
            leave.wait(60)
            seen.append(("eval", conv_net.training))

    def train() -> None:
        inside.wait(60)
        leave.set()
        with frozen(conv_net, "train"):
            seen.append(("train", conv_net.training))

    threads = [threading.Thread(target=work) for work in (evaluate, train)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == [("eval", False), ("train", True)]


class Stubborn(nn.Module):
    """A network that keeps its batch norm in eval mode, as fine-tuning code often does, and changes
    an attribute with its mode.
    """

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.folded = nn.BatchNorm2d(2), False

    def train(self, mode: bool = True) -> Stubborn:
        super().train(mode)
        self.norm.eval()
        self.folded = not mode
        return self


def test_a_networks_own_train_is_asked() -> None:
    net = Stubborn().train()
    with frozen(net):
        assert net.folded and not net.training
        with frozen(net, "train"):
            assert not net.folded and net.training and not net.norm.training
        assert net.folded
    assert not net.folded and net.training and not net.norm.training
