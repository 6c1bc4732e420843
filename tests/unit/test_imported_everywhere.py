"""Tests imported networks of other architectures with the probes of every page."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from robustviz import data, import_run, probes
from robustviz.nets import known
from robustviz.runs import folder

NETS = ("torchvision:resnet18", "torchvision:mobilenet_v3_small", "timm:vit_tiny_patch16_224")


@pytest.mark.slow
@pytest.mark.parametrize("source", NETS)
def test_an_imported_network_answers_every_page(source: str, runs_home: Path) -> None:
    if source.startswith("timm:"):
        pytest.importorskip("timm")
    torch.manual_seed(0)
    net = known.module(source, 10, 3, 32)
    run = import_run(net.state_dict(), data="shapes", model=source, reading="raw", n=4)
    x = data.load("shapes", "test").take(2).x
    with torch.no_grad():
        if "vit" not in source:  # A ViT gets resized images.
            torch.testing.assert_close(run.net()(x), net.eval()(x))
    attacked = probes.adversarial(run, probes.AdversarialSpec(steps=2))
    assert abs(attacked.x_adv - attacked.x).max() <= run.eps + 1e-6
    assert probes.attention(run, probes.AttentionSpec(steps=2)).meta["run"] == run.id
    assert probes.features(run, probes.FeaturesSpec(n=20, steps=1)).clean.shape[0] == 20
    assert probes.soft_labels(run, probes.SoftLabelsSpec()).meta["run"] == run.id
    assert probes.contributions(run, probes.ContributionsSpec(n=8)).meta["run"] == run.id
    shown = next(one for one in folder.all_runs() if one.ordinary and one.data_key == "shapes")
    moved = probes.TransferSpec(targets=shown.id, n=4, steps=1)
    assert probes.transfer(run, moved).meta["run"] == run.id
