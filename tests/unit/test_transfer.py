"""Tests Transfer: which images qualify, in all sixteen cases; every count against a loop over
images; before and after alignment in pairs.
"""

from __future__ import annotations

import dataclasses
import importlib
import itertools
import json
import math
from collections.abc import Iterator

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import Blink

from robustviz import cli, probes, registry
from robustviz.attacks import FGSM, MIM, PGD
from robustviz.probes import FooledSpec, TransferSpec, transfer
from robustviz.runs import folder
from robustviz.stats import mcnemar, tango, wilson
from robustviz.training.config import TrainConfig
from robustviz.types import UserError
from robustviz.views.measure import images_of
from robustviz.views.transfer.probe import qualified, targets_of
from robustviz.views.transfer.result import Transfer
from robustviz.views.transfer.study import made

# `probes.transfer` is the function, not this module.
module = importlib.import_module("robustviz.views.transfer.probe")


def test_one_of_sixteen_cases_qualifies_where_the_published_parity_lets_eight_pass() -> None:
    cases = np.array(list(itertools.product([False, True], repeat=4)))
    found = qualified(*cases.T)
    assert found.tolist() == [all(case) for case in cases] and found.sum() == 1
    published = ((cases[:, 0] == cases[:, 1]) == cases[:, 2]) == cases[:, 3]
    # The published formula also accepts the case in which all four conditions are false.
    assert published.sum() == 8 and published[0]
    assert qualified(*torch.tensor(cases).T).tolist() == found.tolist()


@pytest.fixture
def shipped(runs_home) -> dict[str, folder.Run]:
    found = [
        run
        for run in folder.all_runs()
        if run.shipped and run.architecture == "small_resnet" and run.info["seed"] == 0
    ]
    return {
        f"{run.data_key}-{run.method_key}": run
        for run in found
        if run.method_key in ("standard", "trades")
    }


@pytest.mark.long
def test_every_count_is_what_a_loop_over_images_counts(shipped) -> None:
    source, target, eps, n = shipped["digits-standard"], shipped["digits-trades"], 0.2, 24
    found = transfer(source, TransferSpec(targets=target.id, eps=eps, steps=5, n=n))
    few, ours, theirs = images_of(source).take(torch.arange(n)), source.net(), target.net()

    def right(net, x) -> list[bool]:
        return [
            int(net(image[None]).argmax()) == int(label)
            for image, label in zip(x, few.y, strict=True)
        ]

    attack = PGD(eps=eps, steps=5)
    x_adv = attack(ours, few.x, few.y, rng=torch.Generator().manual_seed(0))
    clean, shown = right(theirs, few.x), right(theirs, x_adv)
    by_fgsm = right(theirs, FGSM(eps=eps)(theirs, few.x, few.y))
    left = [i for i in range(n) if clean[i] and by_fgsm[i]]
    by_pgd = attack(theirs, few.x[left], few.y[left], rng=torch.Generator().manual_seed(0))
    held = {
        i
        for i, image in zip(left, by_pgd, strict=True)
        if int(theirs(image[None]).argmax()) == int(few.y[i])
    }
    counts = [
        own and other and not own_adv and i not in held
        for i, (own, other, own_adv) in enumerate(
            zip(right(ours, few.x), clean, right(ours, x_adv), strict=True)
        )
    ]
    # The data must contain images that qualify and images that do not.
    assert 2 < sum(counts) < n and held
    assert found.qualified[0].tolist() == counts and found.n[0] == sum(counts)
    assert found.k[0] == sum(counts[i] and not shown[i] for i in range(n))
    assert found.error[0] == found.k[0] / found.n[0] and tuple(found.interval[0]) == wilson(
        int(found.k[0]), int(found.n[0])
    )
    assert found.error_of_all[0] == pytest.approx(1 - sum(shown) / n)
    assert found.accuracy == pytest.approx([sum(right(ours, few.x)) / n, sum(clean) / n])
    p, q = (F.softmax(net(few.x).detach(), 1) for net in (ours, theirs))
    assert found.kl[0, 1] == pytest.approx(float((p * (p / q).log()).sum(1).mean()), rel=1e-4)
    assert found.kl[1, 0] == pytest.approx(float((q * (q / p).log()).sum(1).mean()), rel=1e-4)
    assert (
        abs(found.kl.diagonal()).max() < 1e-6
        and not found.aligned
        and np.isnan(found.difference).all()
    )


@pytest.mark.long
def test_every_fooled_image_is_what_a_loop_over_images_finds(shipped) -> None:
    run, n = shipped["digits-standard"], 24
    found = probes.fooled(run, FooledSpec(n=n, steps=3))
    few = images_of(run).take(torch.arange(n))
    copies = [each for each in found.meta["shown"] if each["target"]]
    assert found.sources[0] == run.id and len(found.sources) == 1 + len(copies) == 4
    assert found.meta["eps"] == run.eps and found.meta["of"] == 360 and found.n == n
    for source in (run.id, found.sources[-1]):
        x_adv = PGD(eps=run.eps, steps=3)(
            folder.open_model(source).net(), few.x, few.y, rng=torch.Generator().manual_seed(0)
        )
        for model in (source, shipped["digits-trades"].id):
            net = folder.open_model(model).net()
            clean, wrong = (
                [
                    int(net(image[None]).argmax()) != int(y)
                    for image, y in zip(x, few.y, strict=True)
                ]
                for x in (few.x, x_adv)
            )
            assert found.misread(model).tolist() == clean
            assert found.fooled(model, source).tolist() == [
                attacked and not untouched for attacked, untouched in zip(wrong, clean, strict=True)
            ]
    again = type(found).from_npz(found.to_npz())
    assert (again.wrong == found.wrong).all() and len(found.to_npz()) < 10_000
    one, two = (found.fooled(run.id, source) for source in found.sources[:2])
    pair = ((run.id, found.sources[0]), (run.id, found.sources[1]))
    assert found.moved(pair) == (int((two & ~one).sum()), int((one & ~two).sum()))


def test_a_network_without_copies_has_itself_as_the_only_source(shipped) -> None:
    run = shipped["digits-trades"]
    found = probes.fooled(run, FooledSpec(n=10, steps=1, eps=0.0))
    assert found.sources == [run.id] and not any(
        found.fooled(model).any() for model in found.models
    )


@pytest.mark.long
def test_the_radius_is_half_the_runs_and_nothing_qualifies_at_zero(shipped) -> None:
    source = shipped["digits-standard"]
    spec = TransferSpec(targets=shipped["digits-trades"].id, n=10, steps=2)
    assert transfer(source, spec).meta["eps"] == pytest.approx(source.eps / 2)
    found = transfer(source, dataclasses.replace(spec, eps=0.0))
    assert (
        found.n[0] == 0
        and math.isnan(found.error[0])
        and tuple(found.interval[0]) == (0, 1)
        and "no image qualifies" in found.meta["summary"]
    )


@pytest.mark.long
def test_the_images_are_the_chosen_attacks_and_the_result_is_kept(shipped, monkeypatch) -> None:
    source, target = shipped["digits-standard"], shipped["digits-trades"]
    spec = TransferSpec(targets=target.id, attack="mim", n=30, steps=5, eps=0.2)
    first = transfer(source, spec)
    few = images_of(source).take(torch.arange(30))
    x_adv = MIM(eps=0.2, steps=5, step_size=0.05)(source.net(), few.x, few.y)
    assert (first.wrong[0] == (target.net()(x_adv).argmax(1) != few.y).numpy()).all()
    assert Transfer.from_npz(first.to_npz()).meta == first.meta
    monkeypatch.setattr(module, "attacked", None)  # Any attack would raise an error now.
    again = transfer(source, spec)
    assert (again.qualified == first.qualified).all() and (again.kl == first.kl).all()
    with pytest.raises(TypeError):
        transfer(source, dataclasses.replace(spec, seed=1))


@pytest.fixture(scope="module")
def blinks(tmp_path_factory) -> Iterator[dict[str, folder.Run]]:
    """Trains a source, a witness, two targets and the aligned source, all for a short time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ROBUSTVIZ_RUNS", str(tmp_path_factory.mktemp("runs")))
        registry.keys("net")
        patch.setitem(registry._table["net"], "blink", Blink)
        yield _blinks()


def _blinks() -> dict[str, folder.Run]:
    flags = {
        "data": "digits",
        "net": "blink",
        "n_train": 320,
        "batch_size": 32,
        "lr": 0.2,
        "threads": 1,
        "device": "cpu",
        "select": "last",
    }
    found = {
        name: made(
            TrainConfig.make(None, flags | {"method": "standard", "epochs": 12, "seed": seed})
        )
        for seed, name in enumerate(("source", "witness", "one", "two"))
    }
    roles = [("method.source", found["source"].id), ("method.witness", found["witness"].id)]
    return found | {
        "aligned": made(TrainConfig.make(None, flags | {"method": "model_alignment"}, roles))
    }


@pytest.mark.long
def test_an_aligned_run_is_compared_with_itself_before_on_the_images_that_qualify_for_both(
    blinks,
) -> None:
    spec = TransferSpec(
        targets=f"{blinks['one'].id}, {blinks['two'].path}", n=300, steps=3, eps=0.15
    )
    after, before = transfer(blinks["aligned"], spec), transfer(blinks["source"], spec)
    assert (
        after.aligned
        and not before.aligned
        and after.targets == [blinks["one"].id, blinks["two"].id]
    )
    assert (after.before_qualified == before.qualified).all() and (
        after.before_wrong == before.wrong
    ).all()
    for row in range(2):
        both = [i for i in range(300) if after.qualified[row, i] and before.qualified[row, i]]
        only = sum(after.wrong[row, i] and not before.wrong[row, i] for i in both)
        other = sum(before.wrong[row, i] and not after.wrong[row, i] for i in both)
        assert after.paired[row].tolist() == [len(both), only, other] and only + other > 0
        assert after.difference[row] == (only - other) / len(both) and after.p[row] == mcnemar(
            only, other
        )
        assert tuple(after.difference_interval[row]) == tango(only, other, len(both))
    assert after.models == [
        blinks[name].id for name in ("aligned", "one", "two", "source", "witness")
    ]
    # The aligned network is nearer to the witness than before.
    assert after.kl[4, 0] < after.kl[4, 3]
    assert "compared with before the alignment" in after.meta["summary"]


@pytest.mark.long
def test_what_took_part_in_the_training_is_no_unseen_target(blinks) -> None:
    for name, role in (("aligned", "run itself"), ("source", "source"), ("witness", "witness")):
        with pytest.raises(UserError, match=f"is the {role}"):
            transfer(
                blinks["aligned"], TransferSpec(targets=f"{blinks['one'].id},{blinks[name].id}")
            )


def test_unless_told_otherwise_the_targets_are_the_other_ordinary_networks_that_are_shipped(
    blinks, monkeypatch
) -> None:
    monkeypatch.setattr(folder.Run, "shipped", property(lambda run: True))
    # These networks were trained on few images, see test_witness.py.
    usual = {"recipe": {"n_train": blinks["one"].info["n_train"]}}
    monkeypatch.setattr(folder.catalogue, "facts", lambda kind, key: usual)
    monkeypatch.setattr(
        module,
        "all_runs",
        lambda: [*blinks.values(), *(run for run in folder.all_runs() if run.data_key == "shapes")],
    )
    spec = TransferSpec(n=5, steps=1, eps=0.1)
    assert targets_of(blinks["aligned"], spec) == [blinks["one"], blinks["two"]]
    assert targets_of(blinks["one"], spec) == [
        blinks[name] for name in ("source", "witness", "two")
    ]


def test_nothing_to_show_the_images_to_is_one_clear_sentence(shipped, monkeypatch) -> None:
    source = shipped["digits-standard"]
    for targets, message in (
        (shipped["shapes-standard"].id, "other images or classes"),
        ("nonsense", "There is no run called"),
    ):
        with pytest.raises(UserError, match=message):
            transfer(source, TransferSpec(targets=targets))
    monkeypatch.setattr(module, "all_runs", list)
    with pytest.raises(UserError, match="No ordinary digits network is shipped"):
        transfer(source)


def test_the_command_line_gives_the_same_result(shipped, tmp_path, capsys) -> None:
    source, target, out = shipped["digits-standard"], shipped["digits-trades"], tmp_path / "f.npz"
    spec = {"targets": target.id, "n": 20, "steps": 2, "eps": "38/255"}
    sets = [word for name, value in spec.items() for word in ("--set", f"{name}={value}")]
    assert cli.main(["probe", source.id, "transfer", *sets, "--out", str(out), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    found = Transfer.from_npz(out.read_bytes())
    same = probes.transfer(source, TransferSpec(targets=target.id, n=20, steps=2, eps=38 / 255))
    assert told["summary"] == same.meta["summary"] and (found.wrong == same.wrong).all()
    assert (
        cli.main(
            ["probe", source.id, "transfer", "--set", f"targets={source.id}", "--out", str(out)]
        )
        == 2
    )
