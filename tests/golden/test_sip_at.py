"""Tests SIP-AT: salient pixels stay unperturbed at the start and in every step; where no pixel is
salient, SIP-AT equals PGD-AT.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor

from robustviz import cam, data
from robustviz.attacks import PGD
from robustviz.methods import PGDAT, SIPAT
from robustviz.nets.base import Classifier
from robustviz.training.config import TrainConfig
from robustviz.training.loop import Training, check
from robustviz.types import Batch, UserError

EPS = 0.1


def of(x: Tensor, y: Tensor, objects: Tensor | None = None) -> Batch:
    rng = torch.Generator().manual_seed(3)
    return Batch(x, y, torch.arange(len(y)), epoch=0, progress=0.5, rng=rng, objects=objects)


@pytest.fixture
def objects(images: Tensor) -> Tensor:
    """Returns object masks: random pixels, except none in the first image and all in the second."""
    mask = torch.rand(len(images), 1, *images.shape[2:], generator=torch.Generator().manual_seed(1))
    mask = mask > 0.5
    mask[0], mask[1] = False, True
    return mask


def test_salient_pixels_are_those_of_the_clean_image_and_all_others_may_go_to_eps(
    conv_net: Classifier, images: Tensor, labels: Tensor, objects: Tensor
) -> None:
    for start in ("uniform", "zero"):
        attack = PGD(steps=2, step_size=EPS, start=start)
        method = SIPAT(attack=attack, salience="oracle").bound(EPS)
        x_adv = method.attacked(conv_net, of(images, labels, objects))
        kept = objects.clone()
        kept[1] = False  # A mask that covers the whole image is ignored.
        kept = kept.expand_as(images)
        assert torch.equal(x_adv[kept], images[kept])
        far = (x_adv - images).abs()
        assert far.max() <= EPS + 1e-6 and (far[~kept] > 0).float().mean() > 0.7
        assert (far[0] > 0).any() and (far[1] > 0).any()


def test_the_salience_is_grad_cam_above_half_at_the_true_class_of_this_very_batch(
    conv_net: Classifier, images: Tensor, labels: Tensor
) -> None:
    method = SIPAT().bound(EPS)
    found = method.budget(conv_net, of(images, labels))
    heat = cam.grad_cam(conv_net, images, labels)
    salient = cam.importance_mask(heat, "heat>0.5", (images.shape[2], images.shape[3]))
    salient = salient & ~salient.all(dim=3, keepdim=True).all(dim=2, keepdim=True)
    assert salient.any() and not salient.all()
    assert torch.equal(found, torch.where(salient, 0.0, EPS))


def short(method: Any, **fields: Any) -> TrainConfig:
    settings = {"data": "digits", "n_train": 64, "epochs": 1, "batch_size": 32} | fields
    return TrainConfig(method=method, net="small_resnet", threads=1, device="cpu", **settings)  # type: ignore[arg-type]


def trained(method: Any, **fields: Any) -> dict[str, Tensor]:
    run = Training(short(method, **fields))
    run.val = run.val.take(8)
    list(run.epochs())
    return run.net.state_dict()


@pytest.mark.long
def test_with_nothing_salient_it_is_pgd_at_and_with_something_not() -> None:
    few = PGD(steps=2, step_size=0.1)
    base, none, some = map(
        trained, (PGDAT(attack=few), SIPAT(attack=few, salience="ones"), SIPAT(attack=few))
    )
    assert all(torch.equal(base[name], none[name]) for name in base)
    assert not all(torch.equal(base[name], some[name]) for name in base)


def test_on_shapes_the_true_object_stays_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[Batch, Tensor]] = []
    attacked = SIPAT.attacked

    def spy(self: SIPAT, net: Classifier, batch: Batch) -> Tensor:
        seen.append((batch, attacked(self, net, batch)))
        return seen[-1][1]

    monkeypatch.setattr(SIPAT, "attacked", spy)
    trained(SIPAT(salience="oracle", attack=PGD(steps=1)), data="shapes", n_train=32)
    ((batch, x_adv),) = seen
    assert batch.objects is not None and batch.objects.any()
    there = batch.objects.expand_as(x_adv)
    assert torch.equal(x_adv[there], batch.x[there])
    assert ((x_adv - batch.x)[~there] != 0).float().mean() > 0.7


@pytest.mark.parametrize(
    ("method", "says"),
    [
        (SIPAT(salience="oracle"), "needs true object masks, but digits has none"),
        (SIPAT(attack=PGD(norm="l2")), "SIP-AT gives salient pixels the radius 0"),
        (SIPAT(salience="brightest"), "brightest"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_sentence(method: SIPAT, says: str) -> None:
    with pytest.raises(UserError, match=says):
        check(dataclasses.replace(short(method), eps=0.1))


def test_the_masks_are_there_where_they_are_asked_for() -> None:
    assert SIPAT(salience="oracle").objects and not SIPAT().objects
    assert data.load(data.source("shapes"), "val").masks is not None
