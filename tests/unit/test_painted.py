"""Tests painted budgets: the text of a mask, the pixels that a name means, the attack against a
slow reference, and every sentence.
"""

from __future__ import annotations

import base64
import copy
import dataclasses
import importlib

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from robustviz import cam, cli, figures, probes
from robustviz.nets import frozen
from robustviz.probes import AdversarialSpec, PaintedSpec
from robustviz.runs import folder
from robustviz.runs.naming import unusual
from robustviz.types import UserError
from robustviz.views.measure import images_of, net_of
from robustviz.views.paint.result import Painted
from robustviz.views.screen import wordy

# `probes.painted` is the function, not this module.
ROOM = importlib.import_module("robustviz.views.paint.probe")
TEXT = importlib.import_module("robustviz.views.paint.result")


def shipped(method: str) -> folder.Run:
    found = (
        run
        for run in folder.all_runs()
        if run.shipped and not unusual(run) and (run.data_key, run.method_key) == ("digits", method)
    )
    return next(
        run for run in found if run.architecture == "small_resnet" and run.info["seed"] == 0
    )


@pytest.fixture
def run(runs_home):
    return shipped("standard")


def painted(run: folder.Run, **settings) -> Painted:
    return probes.painted(run, PaintedSpec(**settings))


# The text of a mask.


@pytest.mark.parametrize(
    ("rows", "columns", "length"), [(8, 8, 11), (28, 28, 131), (32, 32, 171), (3, 5, 3), (1, 1, 2)]
)
def test_a_mask_comes_back_from_its_text_which_fits_an_address(
    rows: int, columns: int, length: int
) -> None:
    cells = np.random.default_rng(rows).random((rows, columns)) < 0.4
    text = TEXT.to_text(cells)
    assert len(text) == length <= 256 and np.array_equal(TEXT.from_text(text, rows, columns), cells)
    # A reference, one bit at a time.
    bits = "".join("1" if cell else "0" for cell in cells.flatten()).ljust(
        -(-rows * columns // 8) * 8, "0"
    )
    packed = bytes(int(bits[at : at + 8], 2) for at in range(0, len(bits), 8))
    assert base64.urlsafe_b64encode(packed).decode().rstrip("=") == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "AAAA",
        "AAAAAAAAAA",
        "AAAAAAAAAAAA",
        "AAAAA AAAAA",
        "ÄAAAAAAAAAA",
        "AAAAAAAAAA=",
        "x" * 5000,
        "<script>",
    ],
)
def test_any_other_text_is_refused_in_a_sentence(text: str) -> None:
    with pytest.raises(
        UserError, match="must be 11 characters of base64url, or one of all, none, centre"
    ):
        TEXT.from_text(text, 8, 8)


def test_large_images_are_painted_in_blocks() -> None:
    assert [TEXT.grid(*size) for size in ((8, 8), (32, 32), (33, 20), (64, 64), (224, 160))] == [
        (8, 8, 1), (32, 32, 1), (17, 10, 2), (32, 32, 2), (32, 23, 7),
    ]  # fmt: skip


def test_a_block_is_allowed_or_forbidden_as_a_whole(run, monkeypatch) -> None:
    monkeypatch.setattr(TEXT, "CELLS", 3)  # 8 pixels are split into cells of 3, 3 and 2.
    found = painted(run, mask=TEXT.to_text(np.array([[1, 0, 0], [0, 0, 0], [0, 0, 1]], bool)))
    expected = np.zeros((8, 8), bool)
    expected[:3, :3] = expected[6:, 6:] = True
    assert np.array_equal(found.mask, expected) and ROOM.cells_of(
        run, 0, "strongest"
    ).sum() == round(9 / 4)


# Which pixels a name means.


def test_the_areas_are_where_they_should_be_and_about_as_large(runs_home) -> None:
    shapes = next(
        run
        for run in folder.all_runs()
        if run.shipped and (run.data_key, run.method_key) == ("shapes", "standard")
    )
    masks = {name: ROOM.cells_of(shapes, 3, name) for name in ROOM.NAMED}
    assert masks["all"].all() and not masks["none"].any()
    at = np.arange(32)
    assert np.array_equal(masks["centre"], np.outer(abs(at - 15.5) < 8, abs(at - 15.5) < 8))
    assert np.array_equal(masks["edge"], ~np.outer(abs(at - 15.5) < 14, abs(at - 15.5) < 14))
    shares = {name: masks[name].mean() for name in ("centre", "edge", "strongest")}
    assert shares == pytest.approx(dict.fromkeys(shares, 0.25), abs=0.02)


def test_the_strongest_pixels_are_those_with_the_steepest_loss(run) -> None:
    few = images_of(run).take(torch.tensor([5]))
    twin, chosen = copy.deepcopy(net_of(run)).double(), ROOM.cells_of(run, 5, "strongest")
    slope = np.zeros((8, 8))
    with frozen(twin), torch.no_grad():
        for place in np.ndindex(8, 8):  # Central differences in float64, one pixel at a time.
            step = torch.zeros_like(few.x).double()
            step[(0, 0, *place)] = 1e-4
            high, low = (
                F.cross_entropy(twin(few.x.double() + sign * step), few.y) for sign in (1, -1)
            )
            slope[place] = abs(float(high - low)) / 2e-4
    assert chosen.sum() == 16 and slope[chosen].min() >= slope[~chosen].max() - 1e-4


def test_the_part_mask_is_parts(run) -> None:
    few = images_of(run).take(torch.tensor([5]))
    heat = cam.grad_cam(net_of(run), few.x, few.y)
    assert np.array_equal(
        ROOM.cells_of(run, 5, "part"), cam.importance_mask(heat, "z>1", (8, 8))[0, 0].numpy()
    )


# The attack.


def slow(
    run: folder.Run, index: int, budget: np.ndarray, eps: float, steps: int, seed: int
) -> np.ndarray:
    """A reference implementation of PGD within a budget per pixel."""
    few, net = images_of(run).take(torch.tensor([index])), net_of(run)
    budget_ = torch.from_numpy(budget).float()
    x = few.x
    z = x + (2 * torch.rand(x.shape, generator=torch.Generator().manual_seed(seed)) - 1) * budget_
    with frozen(net):
        for step in range(steps + 1):
            z = torch.minimum(torch.maximum(z, x - budget_), x + budget_).clamp(0, 1).detach()
            if step < steps:
                z.requires_grad_()
                (gradient,) = torch.autograd.grad(F.cross_entropy(net(z), few.y), z)
                z = z + eps / 4 * gradient.sign()
    return z[0].numpy()


@pytest.mark.parametrize(("mask", "low"), [("centre", 0.0), ("edge", 0.05), ("none", 0.1)])
def test_the_attack_equals_its_slow_twin_and_keeps_to_the_budget(
    run, mask: str, low: float
) -> None:
    found = painted(run, index=7, mask=mask, eps=0.2, eps_low=low, steps=6, seed=3)
    budget = np.where(found.mask, 0.2, low)
    assert np.allclose(found.x_adv, slow(run, 7, budget, 0.2, 6, 3), atol=1e-6)
    change = np.abs(found.x_adv - found.x)[0]
    assert (change <= budget + 1e-6).all() and found.x_adv.min() >= 0 and found.x_adv.max() <= 1
    if low == 0:
        assert (
            np.array_equal(found.x_adv[0][~found.mask], found.x[0][~found.mask])
            and found.outside == 0
        )
    measured = [
        float(change[where].max()) if where.any() else 0.0 for where in (found.mask, ~found.mask)
    ]
    assert [found.inside, found.outside] == pytest.approx(measured)
    net = net_of(run)
    with frozen(net), torch.no_grad():
        for image, probs in (
            (found.x, found.probs),
            (found.x_adv, found.probs_adv),
            (found.x_full, found.probs_full),
        ):
            assert np.allclose(
                net(torch.from_numpy(image)[None]).softmax(1)[0].numpy(), probs, atol=1e-5
            )


def test_everything_painted_is_the_uniform_attack_of_the_attack_page(run) -> None:
    full = probes.adversarial(run, AdversarialSpec(index=7, steps=20, seed=2))
    for settings in ({"mask": "all"}, {"mask": "edge", "eps_low": run.eps}, {"mask": "centre"}):
        found = painted(run, index=7, seed=2, **settings)
        assert np.array_equal(found.x_full, full.x_adv) and np.allclose(
            found.probs_full, full.probs_adv, atol=1e-6
        )
        assert (
            found.uniform
            == np.array_equal(found.x_adv, found.x_full)
            == ("the same on every pixel" in found.meta["summary"])
        )


def test_the_network_is_left_as_it_was(run) -> None:
    net = net_of(run)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    for mask in ("strongest", "part"):
        painted(run, mask=mask, steps=2)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    # The cached network is shared, so it must stay in eval mode and without gradients.
    assert not any(module.training for module in net.modules()) and not any(
        p.requires_grad for p in net.parameters()
    )


# The sentences.


def made(
    before: int,
    after: int,
    full: int,
    *,
    share: float = 0.25,
    eps: float = 8 / 255,
    low: float = 0.0,
) -> Painted:
    """Returns a result for an image of class 1 of three, with the given predictions."""
    mask = np.zeros((4, 4), bool)
    mask.flat[: round(16 * share)] = True
    rows = [np.where(np.arange(3) == answer, 0.8, 0.1) for answer in (before, after, full)]
    x = np.zeros((1, 4, 4))
    meta = {"classes": ["cat", "dog", "owl"], "steps": 20, "seed": 0, "index": 3, "run": "r"}
    out = Painted(
        x=x,
        x_adv=x,
        x_full=x,
        mask=mask,
        y=1,
        probs=rows[0],
        probs_adv=rows[1],
        probs_full=rows[2],
        eps=eps,
        eps_low=low,
        inside=0.0,
        outside=0.0,
        meta=meta,
    )
    budget, outcome = ROOM.allowance(out), ROOM.outcome(out)
    return dataclasses.replace(
        out, meta=meta | {"budget": budget, "outcome": outcome, "summary": f"{budget} {outcome}"}
    )


@pytest.mark.parametrize(
    ("found", "budget", "outcome"),
    [
        (
            made(1, 2, 0),
            "4 of 16 pixels (25%) may change by 8/255. The others may not change at all.",
            (
                "dog (80%) → owl (80%): the network was fooled. 8/255 on every pixel fools it, too"
                " (cat, 80%)."
            ),
        ),
        (
            made(1, 1, 0, low=2 / 255),
            "4 of 16 pixels (25%) may change by 8/255. The others may change by 2/255.",
            (
                "dog (80%) → dog (80%): it withstands this attack. But 8/255 on every pixel"
                " would have fooled it (cat, 80%)."
            ),
        ),
        (
            made(1, 1, 1),
            "",
            (
                "dog (80%) → dog (80%): it withstands this attack. It withstands 8/255 on"
                " every pixel, too (dog, 80%)."
            ),
        ),
        (
            made(1, 2, 1),
            "",
            (
                "The same PGD with 8/255 on every pixel did not fool it (dog, 80%). But that budget"
                " contains this perturbation, so it is not robust there."
            ),
        ),
        (
            made(0, 2, 2),
            "",
            (
                "The network is wrong already without an attack: it predicts cat (80%), the true"
                " class is dog. Attacked: owl (80%)."
            ),
        ),
        (
            made(1, 1, 0, share=0),
            "0 of 16 pixels (0%) may change by 8/255. The others may not change at all.",
            "No pixel may change: dog (80%) → dog (80%). But",
        ),
        (
            made(1, 2, 2, share=1),
            "16 of 16 pixels (100%) may change by 8/255.",
            "The budget is the same on every pixel, as in the attacks used for robust accuracy.",
        ),
        (
            made(1, 1, 1, low=8 / 255),
            "The others may change by 8/255.",
            "The budget is the same on every pixel",
        ),
        (
            made(1, 1, 1, eps=0.0),
            "may change by 0/255. The others may not change at all.",
            "No pixel may change",
        ),
    ],
)
def test_every_case_has_its_sentence(found: Painted, budget: str, outcome: str) -> None:
    assert budget in found.meta["budget"] and outcome in found.meta["outcome"]
    said = figures.painted(found).layout.meta["sentence"]
    assert not wordy(said)
    assert found.meta["outcome"] in said and said.count(found.meta["budget"]) == 1
    assert ("does not show robustness" in said) == (not found.uniform)


def test_the_figure_shows_both_networks_and_says_the_budget_once() -> None:
    one, two = made(1, 2, 0), made(1, 1, 0)
    figure = figures.painted({"A Standard": one, "B PART": two})
    assert [trace.name for trace in figure.data] == [
        "A Standard",
        "B PART",
    ] and figure.layout.showlegend
    assert list(figure.data[0].x) == [0.8, 0.1, 0.1] and list(figure.data[0].text) == [
        "✓ dog",
        "✗ owl",
        "✗ cat",
    ]
    said = figure.layout.meta["sentence"]
    assert (
        said.count(one.meta["budget"]) == 1
        and f"**B PART**: {two.meta['outcome']}" in said
        and said in figure.layout.meta["alt"]
    )
    other = figures.painted({"A Standard": one, "B PART": made(1, 1, 0, share=0.5)}).layout.meta[
        "sentence"
    ]
    assert "4 of 16" in other and "8 of 16" in other
    assert len(figure.to_json()) < 400 * 1024 and figures.painted(one).layout.showlegend is False


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (["mask=zigzag"], "This is no painted mask for a grid of 8×8"),
        (["eps_low=0.9"], "must be between 0 and eps"),
        (["eps=8"], "write 8/255"),
        (["index=100000"], "There is no image 100000"),
        (["mask=3"], "This is no painted mask"),
        (["steps=0"], "steps"),
        (["eps_low=nan"], "eps_low"),
    ],
)
def test_bad_settings_are_one_sentence(
    run, capsys, tmp_path, settings: list[str], said: str
) -> None:
    code = cli.main(
        [
            "probe",
            run.id,
            "painted",
            "--out",
            str(tmp_path / "F.npz"),
            *(part for one in settings for part in ("--set", one)),
        ]
    )
    error = capsys.readouterr().err
    assert (
        code != 0
        and said in error
        and len(error.strip().splitlines()) == 1
        and "Traceback" not in error
    )


def test_the_command_writes_a_file_that_reads_back(run, capsys, tmp_path) -> None:
    assert (
        cli.main(
            [
                "probe",
                run.id,
                "painted",
                "--out",
                str(tmp_path / "F.npz"),
                "--set",
                "mask=edge",
                "--set",
                "eps_low=2/255",
            ]
        )
        == 0
    )
    found = Painted.from_npz((tmp_path / "F.npz").read_bytes())
    assert (
        found.meta["summary"] in capsys.readouterr().out
        and found.mask.mean() == 28 / 64
        and found.eps_low == pytest.approx(2 / 255)
    )
