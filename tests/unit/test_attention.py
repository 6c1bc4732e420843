"""Tests the Attention page: its maps against the grad-cam package and an attack written by hand,
and its figures at extreme values.
"""

from __future__ import annotations

import dataclasses
import importlib
import json
import re

import numpy as np
import pytest
import pytorch_grad_cam
import torch
from conftest import conv
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from scipy.stats import spearmanr
from torch import nn

from robustviz import cam, cli, figures, probes
from robustviz.attacks import PGD
from robustviz.export import Recipe
from robustviz.nets import frozen
from robustviz.nets.base import Classifier
from robustviz.probes import AttentionSpec, RoadSpec
from robustviz.runs import folder
from robustviz.runs.naming import unusual
from robustviz.stats import flat, spearman
from robustviz.types import UserError
from robustviz.views.attention.maps import PACKAGE, class_maps, random_nets
from robustviz.views.attention.overlap import road_scores
from robustviz.views.attention.result import Attention
from robustviz.views.measure import image_of, images_of, net_of
from robustviz.views.screen import wordy

# ROAD's package passes tensors to NumPy. The warning is silenced here and not in the code, because
# `warnings.catch_warnings` affects all threads of the app.
pytestmark = pytest.mark.filterwarnings(
    "ignore:__array_wrap__ must accept context:DeprecationWarning"
)
# `probes.attention` is the function, not this module.
module = importlib.import_module("robustviz.views.attention.probe")
NAMES = PACKAGE | {"grad_cam": "GradCAM", "layer_cam": "LayerCAM", "score_cam": "ScoreCAM"}


def shipped(data: str = "digits", method: str = "standard") -> folder.Run:
    found = (
        run
        for run in folder.all_runs()
        if run.shipped and not unusual(run) and (run.data_key, run.method_key) == (data, method)
    )
    return next(
        run for run in found if run.architecture == "small_resnet" and run.info["seed"] == 0
    )


@pytest.fixture
def run(runs_home) -> folder.Run:
    return shipped()


@pytest.fixture
def found(run) -> Attention:
    return probes.attention(run, AttentionSpec(index=4, steps=5, controls=3))


@pytest.mark.parametrize("method", NAMES)
def test_every_map_is_the_packages_raw_one_and_the_network_is_left_alone(
    method, images, labels
) -> None:
    net = conv()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    ours = class_maps(net, images[:4], labels[:4], method).numpy()
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert not any(part._forward_hooks or part._backward_hooks for part in net.modules())
    assert all(parameter.grad is None and parameter.requires_grad for parameter in net.parameters())
    targets = [ClassifierOutputTarget(int(label)) for label in labels[:4]]
    with getattr(pytorch_grad_cam, NAMES[method])(
        model=conv(), target_layers=[(other := conv()).maps]
    ) as theirs:
        theirs.model = other  # The package's hooks are on the layers of `other`.
        theirs.activations_and_grads.model = other
        theirs(input_tensor=images[:4], targets=targets)
        maps, gradients = (
            theirs.activations_and_grads.activations[0],
            theirs.activations_and_grads.gradients,
        )
        raw = theirs.get_cam_image(
            images[:4],
            other.maps,
            targets,
            maps.numpy(),
            gradients[0].numpy() if gradients else None,
            False,
        )
    assert ours.shape == raw.shape == (4, 4, 3) and np.abs(raw).max() > 1e-3
    assert np.allclose(ours, raw, atol=1e-5)
    lent = conv().eval().requires_grad_(False)  # Sessions share a network in this form.
    assert np.array_equal(class_maps(lent, images[:4], labels[:4], method).numpy(), ours)
    assert not any(
        parameter.requires_grad or parameter.grad is not None for parameter in lent.parameters()
    )


def test_the_numbers_of_one_image_are_those_of_the_parts(run, found) -> None:
    _, x, y = image_of(run, 4)
    net, attack = net_of(run), PGD(eps=run.eps, steps=5)
    x_adv = attack(net, x, y, rng=torch.Generator().manual_seed(0))
    assert np.array_equal(
        found.x_adv, x_adv[0].numpy()
    ) and found.y == found.label == found.label_adv == int(y)
    assert np.allclose(found.heat, cam.grad_cam(net, x, y)[0], atol=1e-5) and np.allclose(
        found.heat_adv, cam.grad_cam(net, x_adv, y)[0], atol=1e-5
    )
    mask = cam.importance_mask(torch.from_numpy(found.heat)[None], "z>1", (8, 8))
    assert np.array_equal(found.mask, mask[0, 0].numpy()) and 0 < found.mask.sum() < 64
    assert np.allclose(np.unique(found.budget), [7 / 8 * run.eps, run.eps])
    with frozen(net):
        part = attack.maximise(
            attack.objective(net, y),
            x,
            eps=torch.from_numpy(found.budget)[None, None],
            rng=torch.Generator().manual_seed(0),
        )
    assert np.array_equal(found.x_part, part[0].numpy())
    assert (found.spent <= found.budget + 1e-6).all() and found.at_limit.mean() > 0.2
    assert found.drift == pytest.approx(
        spearmanr(found.heat.ravel(), found.heat_adv.ravel()).statistic, abs=1e-9
    )
    assert found.object.size == 0 and len(found.control) == 3
    assert [
        spearmanr(found.heat.ravel(), one.ravel()).statistic for one in found.heat_random
    ] == pytest.approx(found.control, abs=1e-9)


def test_the_predicted_class_is_each_images_own(run) -> None:
    found = probes.attention(run, AttentionSpec(index=4, steps=10, of="predicted", controls=1))
    assert (found.label, found.label_adv) == (
        found.probs.argmax(),
        found.probs_adv.argmax(),
    ) and found.label != found.label_adv
    assert "compares two classes" in figures.attention(found).layout.meta["sentence"]


def test_spearman_is_scipys_also_with_ties_and_silent_for_a_constant() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        u, v = rng.integers(0, 5, (4, 4)), rng.normal(size=(4, 4)).round(1)
        assert spearman(u, v) == pytest.approx(spearmanr(u.ravel(), v.ravel()).statistic, abs=1e-12)
    assert (
        np.isnan(spearman(np.ones((4, 4)), v))
        and flat(np.zeros((2, 2)))
        and flat(np.array([[np.nan, 1.0]]))
        and not flat(np.array([[0.0, 1.0]]))
    )


def test_random_networks_differ_from_each_other_and_repeat(run) -> None:
    state = torch.get_rng_state()
    first, second = random_nets(run, 2, 0)
    again = next(random_nets(run, 1, 0))
    assert torch.equal(state, torch.get_rng_state()), "the global generator moved"
    x = images_of(run).take(torch.arange(3)).x
    with torch.no_grad():
        assert torch.equal(first(x), again(x)) and not torch.allclose(first(x), second(x))
    assert not first.training and torch.equal(first.maps[0].mean, net_of(run).maps[0].mean)


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ("index=360", "There is no image 360"),
        ("rule=z", "no rule called 'z'"),
        ("rule=top200%", "0 to 100%"),
        ("rule=jet-compat", "single channel"),
        ("rule=oracle", "needs true object masks"),
        ("eps_low=0.5", "must be between 0 and eps"),
        ("eps=8", "write 8/255"),
        ("method=guess", "is not one of"),
        ("of=none", "is not one of"),
        ("steps=0", "out of range"),
        ("index=-1", "out of range"),
        ("controls=0", "out of range"),
        ("colour=1", "no setting"),
    ],
)
def test_bad_settings_are_one_clear_sentence(run, capsys, setting, says) -> None:
    assert cli.main(["probe", run.id, "attention", "--set", setting]) in (1, 2)
    said = capsys.readouterr().err
    assert says in said and "unexpected" not in said and said.count("\n") == 1


def test_the_command_writes_what_reads_back(run, tmp_path, capsys) -> None:
    out = tmp_path / "F.npz"
    assert (
        cli.main(
            [
                "probe",
                run.id,
                "attention",
                "--out",
                str(out),
                "--set",
                "index=4",
                "--set",
                "steps=2",
                "--json",
            ]
        )
        == 0
    )
    found = Attention.from_npz(out.read_bytes())
    assert (
        json.loads(capsys.readouterr().out)["summary"] == found.meta["summary"]
        and "rank correlation" in found.meta["summary"]
    )


def test_networks_without_places_are_one_clear_sentence(images, labels) -> None:
    with pytest.raises(UserError, match="no attribute `maps`"):
        class_maps(nn.Flatten(), images, labels)  # type: ignore[arg-type]
    single = Classifier(nn.Sequential(nn.Conv2d(2, 3, (9, 7))), nn.Linear(3, 4))
    vector = Classifier(
        nn.Sequential(nn.Flatten(), nn.Linear(126, 3)), nn.Linear(3, 4), nn.Flatten()
    )
    for net in (single, vector):
        with pytest.raises(UserError, match="single cell"):
            class_maps(net, images, labels)


def test_a_missing_package_is_one_clear_sentence(run, monkeypatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pytorch_grad_cam", None)
    for make in (
        lambda: probes.attention(run, AttentionSpec(method="eigen_cam")),
        lambda: probes.road(run, RoadSpec(n=2)),
    ):
        with pytest.raises(UserError, match="pip install grad-cam"):
            make()


@pytest.mark.long
def test_road_tells_a_trained_network_from_a_random_one_and_repeats(run) -> None:
    found, state = probes.road.answer(run, RoadSpec(n=6)), torch.get_rng_state()
    assert found.score.shape == (3, 6) and np.array_equal(
        found.score, probes.road.answer(run, RoadSpec(n=6)).score
    )
    assert torch.equal(state, torch.get_rng_state()) and np.abs(found.score).max() <= 1
    figure = figures.road(
        {
            "A Standard": found,
            "B Standard": dataclasses.replace(found, score=found.score[[2, 1, 0]]),
        }
    )
    assert (
        len(figure.data) == 2 and f"{found.score[0].mean():.2f} [" in figure.layout.meta["sentence"]
    )
    one = dataclasses.replace(found, score=found.score[:, :1], index=found.index[:1])
    said = figures.road(one).layout.meta["sentence"]
    assert "not significantly different from" in said and "inf" not in said and "nan" not in said
    none = dataclasses.replace(found, score=np.full((3, 6), -0.001))
    assert "Random weights give 0.00." in figures.road(none).layout.meta["sentence"]


def test_road_is_high_where_the_map_is_the_reason() -> None:
    # One bright cell decides the class: a map of that cell must score higher than its opposite.
    head = nn.Linear(16, 2)
    with torch.no_grad():
        head.weight.zero_()
        head.weight[0, 5] = 8.0
        head.bias.zero_()
    net = Classifier(nn.Identity(), head, nn.Sequential(nn.AvgPool2d(2), nn.Flatten()))
    x = torch.zeros(1, 1, 8, 8)
    x[0, 0, 2:4, 2:4] = 1
    heat = torch.zeros(1, 4, 4)
    heat[0, 1, 1] = 1
    rng = torch.Generator().manual_seed(0)
    good, bad = (
        road_scores(net, x, torch.tensor([0]), one, (8, 8), rng, 0)[0] for one in (heat, -heat)
    )
    assert good > 0.1 and bad < -0.1


def test_the_maps_figure_has_one_scale_for_two_maps_and_a_middle_at_zero(found) -> None:
    figure = figures.attention(found, control=True, image=True)
    heats = [trace for trace in figure.data if trace.type == "heatmap"]
    assert [trace.name for trace in heats] == ["clean", "attacked", "difference", "random"]
    assert len([trace for trace in figure.data if trace.type == "image"]) == 3
    assert (
        all(trace.zmid == 0 and trace.zmin == -trace.zmax for trace in heats)
        and heats[0].zmax == heats[1].zmax
    )
    assert (
        np.allclose(heats[2].z, found.heat_adv - found.heat, atol=1e-5)
        and len(figure.to_json()) < 400 * 1024
    )
    assert len(figures.attention(found).data) == 3
    said = figure.layout.meta["sentence"]
    assert (
        f"**{found.drift:.2f}**" in said
        and f"{found.control.mean():.2f}".replace("-", "−") in said
        and said in figure.layout.meta["alt"]
        and "4×4 cells" in figure.layout.meta["sure"]
    )


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"eps": 0.0}, "no pixel may change"),
        ({"probs": np.eye(10)[9]}, "misclassified already without an attack"),
        ({"probs_adv": "probs"}, "the attack does not change the prediction"),
        ({"heat_adv": np.ones((4, 4))}, "no rank correlation"),
        ({"control": np.array([np.nan])}, "with random weights the map is constant"),
        (
            {"control": np.array([0.5])},
            "(a network) its rank correlation with the clean map is 0.50",
        ),
        ({"heat_adv": "heat"}, "stays where it was"),
    ],
)
def test_the_maps_sentence_is_right_at_the_edges(found, changes, says) -> None:
    changes = {
        name: getattr(found, value) if isinstance(value, str) else value
        for name, value in changes.items()
    }
    said = figures.attention(dataclasses.replace(found, **changes)).layout.meta["sentence"]
    assert says in said and "nan" not in said
    assert not wordy(re.sub(r"\b\d \(", "digit (", said)), "a digit is a class here, no number"


def test_a_constant_map_is_a_sentence_and_its_budget_is_still_drawn(run, monkeypatch) -> None:
    monkeypatch.setattr(module, "class_maps", lambda net, x, y, method: torch.ones(len(x), 4, 4))
    found = probes.attention(run, AttentionSpec(steps=2))
    with pytest.raises(UserError, match="is constant, so it marks no pixel"):
        figures.attention(found)
    assert (
        "constant" in found.meta["summary"]
        and "standard adversarial training" in figures.budget(found).layout.meta["sentence"]
    )
    assert "one peak, because every pixel" in figures.spent(found).layout.meta["sentence"]


@pytest.mark.parametrize(
    ("level", "low", "said", "span"),
    [
        (8, 7, "the others get 7/255", (7, 8)),
        (8, 8, "ε_low equals ε", (7, 8)),
        (8, 0, "the others may not change at all", (0, 8)),
        (0, 0, "0/255", (-1, 0)),
    ],
)
def test_the_budget_figure_spans_both_radii_and_prints_them(run, level, low, said, span) -> None:
    found = probes.attention(
        run, AttentionSpec(index=4, steps=2, eps=level / 255, eps_low=low / 255, controls=1)
    )
    figure = figures.budget(found)
    (heat,) = [trace for trace in figure.data if trace.type == "heatmap"]
    assert (heat.zmin, heat.zmax) == pytest.approx(span) and said in figure.layout.meta["sentence"]
    printed = " ".join(note.text for note in figure.layout.annotations)
    assert f"{level}/255" in printed and (low == level or f"{low}/255" in printed)
    if low == 0:
        assert not found.spent[:, ~found.mask].any()


def test_the_histogram_has_its_peaks_at_both_radii(run) -> None:
    found = probes.attention(run, AttentionSpec(index=4, eps=16 / 255, eps_low=8 / 255))
    figure = figures.spent({"A Standard": found, "B Standard": found})
    assert len(figure.data) == 2 and sum(figure.data[0].y) == pytest.approx(1)
    assert set(np.argsort(figure.data[0].y)[-3:]) >= {16, 32}, "bars at half of ε and at ε"
    assert [note.text for note in figure.layout.annotations] == ["ε", "ε_low"]


@pytest.mark.long
def test_each_recipe_runs(run, found) -> None:
    for figure, options in (("attention", {"control": True}), ("budget", {}), ("spent", {})):
        code = (
            Recipe({"": run.id}, AttentionSpec(index=4, steps=5), figure, options)
            .code()
            .replace(".show()", "")
        )
        scope: dict[str, object] = {}
        exec(code, scope)
        assert scope["found"].y == found.y  # type: ignore[attr-defined]


@pytest.mark.long
def test_a_shapes_image_says_how_much_of_the_mask_lies_on_the_object(runs_home) -> None:
    run = shipped("shapes")
    found = probes.attention(run, AttentionSpec(index=3, steps=2, controls=1))
    share, whole = found.object[found.mask].mean(), found.object.mean()
    figure = figures.budget(found)
    assert (
        f"{share:.0%} of the mask lies on the true object (outlined); by chance it would be"
        f" {whole:.0%}" in figure.layout.meta["sentence"]
    )
    assert len(figure.to_json()) < 400 * 1024
    jet = probes.attention(run, AttentionSpec(index=3, steps=2, controls=1, rule="jet-compat"))
    assert (
        jet.mask.shape == (3, 32, 32)
        and "differ between colours" in figures.budget(jet).layout.meta["sentence"]
    )
    oracle = probes.attention(run, AttentionSpec(index=3, steps=2, controls=1, rule="oracle"))
    assert np.array_equal(oracle.mask, oracle.object)
    other = probes.attention(run, AttentionSpec(index=2, steps=2, controls=1, rule="shuffled"))
    assert np.array_equal(other.mask, found.mask), "shuffled: the next image's mask"
