"""Tests recorded attack steps, which are replayed in the memory of the recording: the images are
the same as without recording, whatever changes between two attacks.

There is no GPU here: the recording calls its step instead, on the memory that a CUDA graph would
read and write.
"""

from __future__ import annotations

import logging

import pytest
import torch
from torch import Tensor

from robustviz import data
from robustviz.attacks import FGSM, MIM, PGD, Attack, recorded
from robustviz.methods import PGDAT, TRADES
from robustviz.methods.base import Method
from robustviz.nets.attackable import attackable, copy_of, keep
from robustviz.nets.base import Classifier
from robustviz.runs import folder
from robustviz.types import Batch, UserError


@pytest.fixture
def played(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """Turns recordings on as on a GPU, and returns a list with the shape of the images in every
    replay.
    """
    shapes: list[tuple[int, ...]] = []
    plain = recorded.Recording.__call__

    def note(self: recorded.Recording, steps: int, z: Tensor, *given: Tensor) -> Tensor:
        shapes.append(tuple(z.shape))
        return plain(self, steps, z, *given)

    monkeypatch.setattr(recorded.Recording, "__call__", note)
    monkeypatch.setattr(recorded, "wanted", lambda z: True)
    return shapes


def net_of(method: str = "standard") -> Classifier:
    """Returns a shipped network whose attacks share one copy, as in a training."""
    net = next(
        run
        for run in folder.all_runs()
        if run.shipped and run.id.startswith(f"digits-{method}-small-resnet-s0")
    ).net()
    keep(net)
    return net


def eager(
    monkeypatch: pytest.MonkeyPatch, attack: Attack, *arguments: object, **more: object
) -> Tensor:
    with monkeypatch.context() as patch:
        patch.setattr(recorded, "wanted", lambda z: False)
        return attack(*arguments, **more)  # type: ignore[arg-type]


@pytest.mark.long
@pytest.mark.parametrize(
    "attack",
    [
        PGD(eps=0.1, steps=4),
        PGD(eps=0.1, steps=3, targeted=True),
        FGSM(eps=0.1),
        PGD(eps=0.1, steps=3, restarts=3),
    ],
)
def test_every_walk_gives_the_same_bits_and_the_first_of_its_kind_warms_up(
    attack: Attack, played: list[tuple[int, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    net, split = net_of(), data.load("digits", "test").take(60)
    for part in range(4):
        x, y = split.x[15 * part :][:15], split.y[15 * part :][:15]
        rng = torch.Generator().manual_seed(part)
        found = attack(net, x, y, rng)
        assert torch.equal(
            found, eager(monkeypatch, attack, net, x, y, torch.Generator().manual_seed(part))
        )
        assert found.is_contiguous() and (part == 0 or played)
    assert (found - x).abs().max() > 0.05


def test_a_recording_follows_the_weights(
    played: list[tuple[int, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    net, split, attack = net_of(), data.load("digits", "test").take(20), PGD(eps=0.1, steps=3)
    x, y = split.x, split.y
    before = [attack(net, x, y) for _ in range(2)][1]
    net.load_state_dict(net_of("pgd-at").state_dict())
    after = attack(net, x, y)
    assert len(played) == 2 and not torch.equal(before, after)
    assert torch.equal(after, eager(monkeypatch, attack, net_of("pgd-at"), x, y))


def test_a_recording_is_not_played_where_the_weights_have_moved(
    played: list[tuple[int, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The weights of the copy must not move, because a GPU would go on reading the old memory. The
    network's own weights may move, because the copy stays where it is.
    """
    net, split, attack = net_of(), data.load("digits", "test").take(20), PGD(eps=0.1, steps=3)
    with attackable(net) as copy:
        moved = [copy.head.weight, copy.maps[0].mean]  # type: ignore[index, union-attr]
    for tensor in moved:
        for _ in range(3):
            attack(net, split.x, split.y)
        before = len(played)
        tensor.data = tensor.data.clone()
        attack(net, split.x, split.y)
        assert before == len(played) >= 2
    before = len(played)
    for own in net.parameters():
        own.data = -own.data
    found = [attack(net, split.x, split.y) for _ in range(2)][1]
    assert len(played) == before + 2
    assert torch.equal(found, eager(monkeypatch, attack, net, split.x, split.y))


@pytest.mark.parametrize(
    "method",
    [PGDAT(attack=PGD(eps=0.1, steps=3)), TRADES(attack=PGD(eps=0.1, steps=3, start="gauss"))],
)
def test_training_attacks_are_played_and_the_same(
    method: Method, played: list[tuple[int, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    net, split = net_of(), data.load("digits", "test").take(96)
    assert isinstance(method, PGDAT | TRADES)

    def batch(part: int) -> Batch:
        index = torch.arange(32 * part, 32 * part + 32)
        return Batch(
            split.x[index], split.y[index], index, 0, 0.0, torch.Generator().manual_seed(part)
        )

    for part in range(3):
        found = method.attacked(net, batch(part))
        with monkeypatch.context() as patch:
            patch.setattr(recorded, "wanted", lambda z: False)
            assert torch.equal(found, method.attacked(net, batch(part)))
    assert len(played) == 2


def test_a_budget_for_every_pixel_shares_the_recording(
    played: list[tuple[int, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    net, split, attack = net_of(), data.load("digits", "test").take(10), PGD(eps=0.1, steps=3)
    x, y = split.x, split.y
    with attackable(net) as fast:
        for seed in range(3):
            budget = 0.1 * torch.rand(10, 1, 8, 8, generator=torch.Generator().manual_seed(seed))
            found = attack.maximise(
                attack.objective(fast, y), x, eps=budget, rng=torch.Generator().manual_seed(seed)
            )
            assert ((found - x).abs() <= budget + 1e-6).all()
            with monkeypatch.context() as patch:
                patch.setattr(recorded, "wanted", lambda z: False)
                assert torch.equal(
                    found,
                    attack.maximise(
                        attack.objective(fast, y),
                        x,
                        eps=budget,
                        rng=torch.Generator().manual_seed(seed),
                    ),
                )
    assert len(played) == 2


def test_what_depends_on_more_than_the_point_is_not_recorded(played: list[tuple[int, ...]]) -> None:
    net, split = net_of(), data.load("digits", "test").take(10)
    for attack in (MIM(eps=0.1), PGD(eps=0.5, norm="l2")):
        for _ in range(3):
            attack(net, split.x, split.y)
    assert not played


@pytest.mark.long
def test_a_count_climbs_in_few_sizes_and_finds_the_same(
    played: list[tuple[int, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    net, split, attack = net_of("pgd-at"), data.load("digits", "test"), PGD(eps=0.2, steps=30)
    x, y = split.x[:300], split.y[:300]
    with monkeypatch.context() as patch:
        patch.setattr(recorded, "wanted", lambda z: False)
        wanted = attack.search(net, x, y)
    for _ in range(2):
        found = attack.search(net, x, y)
        # Batches of another size may be rounded differently.
        assert ((found - wanted).abs().flatten(1).amax(1) < 1e-6).float().mean() > 0.9
    sizes = {shape[0] for shape in played}
    assert sizes <= {44, 64, 128, 192, 256, 300} and len(sizes) > 1


@pytest.mark.long
def test_what_fills_a_size_up_is_not_climbed_on(played: list[tuple[int, ...]]) -> None:
    net, split, attack = (
        net_of("pgd-at"),
        data.load("digits", "test").take(250),
        PGD(eps=0.2, steps=30),
    )
    found = attack.search(net, split.x, split.y)
    with torch.no_grad():
        held = net(found).argmax(1) == split.y
    # The last image, whose copies pad the batch, withstands the attack to the end.
    order = torch.cat([(~held).nonzero().flatten(), held.nonzero().flatten()])
    for _ in range(2):
        attack.search(net, split.x[order], split.y[order])
    assert 128 < int(held.sum()) < 185 and played[-1][0] == 192


@pytest.mark.long
def test_only_so_many_recordings_are_kept_and_they_go_with_their_network(
    played: list[tuple[int, ...]],
) -> None:
    net, split = net_of(), data.load("digits", "test").take(40)
    for size in range(2, 2 + recorded.KEPT + 3):
        for _ in range(2):
            PGD(eps=0.1, steps=2)(net, split.x[:size], split.y[:size])
    with attackable(net) as fast:
        kept = copy_of(fast).recordings["recordings"].kept  # type: ignore[union-attr, index]
    assert len(kept) == recorded.KEPT and all(kept.values()) and len(played) == recorded.KEPT + 3


def test_what_cannot_be_recorded_is_walked_all_the_same(
    played: list[tuple[int, ...]], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(self: object, *arguments: object) -> None:
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(recorded.Recording, "__init__", broken)
    net, split, attack = net_of(), data.load("digits", "test").take(10), PGD(eps=0.1, steps=2)
    with caplog.at_level(logging.WARNING):
        found = [attack(net, split.x, split.y) for _ in range(4)]
    assert all(torch.equal(one, found[0]) for one in found) and not played
    # The warning is given once, and recording is not tried again.
    assert len(caplog.records) == 1 and "kernel by kernel" in caplog.text


def test_a_missing_eps_is_still_a_sentence(played: list[tuple[int, ...]]) -> None:
    net, split = net_of(), data.load("digits", "test").take(4)
    with pytest.raises(UserError, match="has no eps"):
        PGD(steps=2)(net, split.x, split.y)
