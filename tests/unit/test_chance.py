"""Tests random numbers of a thread's own: they equal those of the global generator, do not change
it, and are not affected by other threads.
"""

from __future__ import annotations

import threading

import pytest
import torch
from torch import nn

from robustviz import nets, registry
from robustviz.chance import drawn_from
from robustviz.runs import folder
from robustviz.views.attention.probe import random_nets


def rng(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.long
@pytest.mark.parametrize("key", registry.keys("net"))
def test_a_network_gets_the_weights_that_the_global_generator_gives_which_stays_as_it_was(key):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        expected = nets.build(key, 10).state_dict()
    before = torch.get_rng_state()
    with drawn_from(rng(5)):
        found = nets.build(key, 10).state_dict()
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    "draw",
    [
        lambda: torch.rand(9),
        lambda: torch.randn(9, 4),
        lambda: torch.rand_like(torch.zeros(5)),
        lambda: torch.randn_like(torch.zeros(4, 6).t()),
        lambda: torch.randint(0, 9, (7,)),
        lambda: torch.randperm(12),
        lambda: torch.bernoulli(torch.full((20,), 0.5)),
        lambda: torch.zeros(8).uniform_(-1, 1),
        lambda: torch.zeros(30).normal_(),
        lambda: torch.multinomial(torch.ones(9), 4),
        lambda: nn.init.trunc_normal_(torch.zeros(6, 6)),
        lambda: nn.init.orthogonal_(torch.zeros(5, 5)),
        lambda: nn.init.xavier_normal_(torch.zeros(5, 5)),
    ],
)
def test_what_is_drawn_without_a_generator_is_what_the_global_one_would_give(draw):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        expected = draw()
    before = torch.get_rng_state()
    with drawn_from(rng(3)):
        found = draw()
    assert torch.equal(found, expected) and torch.equal(torch.get_rng_state(), before)


def test_a_generator_that_is_named_is_the_one_that_is_drawn_from():
    with drawn_from(rng(0)):
        assert torch.equal(torch.rand(5, generator=rng(7)), torch.rand(5, generator=rng(7)))


def test_random_networks_are_the_same_whoever_draws_meanwhile():
    run, stop = (
        next(run for run in folder.all_runs() if run.shipped and run.data_key == "digits"),
        threading.Event(),
    )

    def noise() -> None:
        while not stop.is_set():
            torch.manual_seed(1)
            torch.rand(100)

    def weights() -> list[torch.Tensor]:
        return [value for net in random_nets(run, 5, 0) for value in net.state_dict().values()]

    with torch.random.fork_rng(devices=[]):
        expected = weights()
        other = threading.Thread(target=noise)
        other.start()
        try:
            for _ in range(5):
                assert all(torch.equal(a, b) for a, b in zip(weights(), expected, strict=True))
        finally:
            stop.set()
            other.join()
