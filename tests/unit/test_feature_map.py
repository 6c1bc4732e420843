"""Tests maps of features: projections and neighbours equal those of other libraries, UMAP is
repeatable, adding points moves none, and the sentences agree with the numbers.
"""

from __future__ import annotations

import dataclasses
import math
import subprocess
import sys

import numpy as np
import plotly.io
import pytest
import torch
from sklearn.decomposition import PCA
from sklearn.manifold import trustworthiness
from sklearn.metrics.pairwise import cosine_distances, cosine_similarity

from robustviz import cli, embedder, figures, probes
from robustviz.attacks import PGD
from robustviz.probes import FeatureFilmSpec, FeatureMapSpec, FeaturesSpec
from robustviz.runs import folder
from robustviz.runs.naming import unusual
from robustviz.stats import mean_interval, tango, wilson
from robustviz.training.evaluate import attacked
from robustviz.types import UserError
from robustviz.views.features import embedding
from robustviz.views.features.probe import features_of
from robustviz.views.features.result import FeatureMap, Features
from robustviz.views.measure import images_of, net_of
from robustviz.views.screen import wordy
from robustviz.views.theme import CLASSES, COLOURS, SYMBOLS

SPEC = FeatureMapSpec(n=60, steps=5)


def shipped(method: str, data: str = "digits") -> folder.Run:
    found = (
        run
        for run in folder.all_runs()
        if run.shipped and not unusual(run) and run.data_key == data and run.method_key == method
    )
    return next(
        run for run in found if run.architecture == "small_resnet" and run.info["seed"] == 0
    )


@pytest.fixture
def run(runs_home):
    return shipped("standard")


def cloud(n: int = 60, d: int = 7, seed: int = 0) -> torch.Tensor:
    rng = torch.Generator().manual_seed(seed)
    return (
        torch.randn(n, d, generator=rng) + 3 * torch.randn(4, d, generator=rng)[torch.arange(n) % 4]
    )


# Projections to a plane.


def test_the_planes_are_those_of_an_independent_computation(run) -> None:
    measured = probes.features(run, SPEC.alike(FeaturesSpec))
    clean, adv = measured.clean.astype(np.float64), measured.adversarial.astype(np.float64)
    centres = np.stack([clean[measured.y == label].mean(0) for label in range(10)])
    for kind, fitted in (("centres", centres), ("pca", np.concatenate([clean, adv]))):
        found, other = (
            probes.feature_map(run, dataclasses.replace(SPEC, projection=kind)),
            PCA(2, svd_solver="full").fit(fitted),
        )
        sign = np.array(
            [1.0 if row[np.abs(row).argmax()] > 0 else -1.0 for row in other.components_]
        )
        for z, points in (
            (clean, found.clean),
            (adv, found.adversarial),
            (measured.noise, found.noise),
        ):
            assert np.allclose(points, other.transform(z) * sign, atol=1e-4), kind
        assert found.share == pytest.approx(other.explained_variance_ratio_.sum())
        assert np.allclose((clean - found.origin) @ found.axes, found.clean, atol=1e-4)


def test_two_classes_span_a_line_and_the_second_axis_is_the_widest_beside_it() -> None:
    z, y = cloud().double(), torch.arange(60) % 2
    axes, origin, share = embedding.centre_plane(z, y, 3)
    first = z[y == 0].mean(0) - z[y == 1].mean(0)
    assert abs(float(axes[:, 0] @ first / first.norm())) == pytest.approx(
        1
    ) and share == pytest.approx(1)
    rest = (z - origin) - ((z - origin) @ axes[:, :1]) @ axes[:, :1].T
    assert abs(
        float(axes[:, 1] @ torch.from_numpy(PCA(1).fit(rest.numpy()).components_[0]))
    ) == pytest.approx(1)


def test_a_plane_through_a_line_has_one_axis_and_one_through_a_point_is_a_sentence() -> None:
    line = torch.arange(5.0)[:, None] * torch.tensor([[1.0, 2.0, 2.0]])
    axes, _, share = embedding.plane(line)
    assert (
        torch.allclose(axes[:, 0], torch.tensor([1.0, 2.0, 2.0], dtype=torch.float64) / 3)
        and not axes[:, 1].any()
        and share == pytest.approx(1)
    )
    for collapse in (
        lambda: embedding.plane(torch.ones(5, 3)),
        lambda: embedding.umap(torch.rand(30, 1) + 1),
    ):
        with pytest.raises(UserError, match="the network has collapsed"):
            collapse()


BROKEN = {"NaN": math.nan, "infinite": math.inf, "minus infinite": -math.inf}


@pytest.mark.parametrize("value", BROKEN.values(), ids=BROKEN)
def test_features_that_are_no_numbers_are_one_sentence_wherever_they_are_drawn(value) -> None:
    z, at, y = cloud(), torch.randn(60, 2).double(), torch.arange(60) % 4
    bad = z.clone()
    bad[3, 2] = value
    for draw in (
        lambda: embedding.plane(bad),
        lambda: embedding.centre_plane(bad, y, 4),
        lambda: embedding.umap(bad),
        lambda: embedding.nearest(bad, 3),
        lambda: embedding.nearest(z, 3, among=bad),
        lambda: embedding.place(bad, z, at),
        lambda: embedding.trustworthiness(bad, at),
    ):
        with pytest.raises(
            UserError, match="1 of 420 numbers in these features are NaN or infinite"
        ):
            draw()
    with pytest.raises(UserError, match="two finite numbers for each of the 60 points"):
        embedding.umap(z, init=torch.full((60, 2), value))


@pytest.mark.parametrize(
    ("z", "settings", "says"),
    [
        (cloud(0), {}, r"these have shape \(0, 7\)"),
        (cloud(1), {}, "more than 15 points, but there are 1"),
        (cloud(15), {}, "more than 15 points, but there are 15"),
        (cloud(3), {"n_neighbors": 2}, "more than 3 points, but there are 3"),
        (cloud(2), {"n_neighbors": 1}, "at least 2 neighbours.* n_neighbors is 1"),
        (cloud()[:, 0], {}, r"these have shape \(60,\)"),
        (cloud()[:, :, None], {}, r"shape \(60, 7, 1\)"),
        (cloud().int(), {}, "must be floats, but these are int32"),
        (torch.zeros(30, 3), {}, "the network has collapsed"),
        (torch.ones(30, 3), {}, "the network has collapsed"),
    ],
)
def test_what_umap_cannot_draw_is_one_sentence(z, settings, says) -> None:
    with pytest.raises(UserError, match=says):
        embedding.umap(z, **settings)


@pytest.mark.parametrize(
    ("z", "says"),
    [
        (cloud(0), r"these have shape \(0, 7\)"),
        (cloud(1), "two images or more"),
        (cloud()[0], r"shape \(7,\)"),
        (torch.zeros(5, 3), "collapsed"),
    ],
)
def test_what_lies_in_no_plane_is_one_sentence(z, says) -> None:
    with pytest.raises(UserError, match=says):
        embedding.plane(z)


def test_points_of_one_number_lie_on_the_first_axis_and_a_single_class_has_no_plane() -> None:
    axes, origin, share = embedding.plane(torch.tensor([[1.0], [2.0], [6.0]]))
    assert axes.tolist() == [[1, 0]] and origin.tolist() == [3] and share == 1
    with pytest.raises(UserError, match="two classes or more"):
        embedding.centre_plane(cloud(), torch.zeros(60, dtype=torch.long), 4)


@pytest.mark.slow
def test_umap_of_few_or_strange_points_is_a_map_of_finite_numbers() -> None:
    opposite = torch.ones(30, 4)
    opposite[0] = -1  # All neighbours of this point are as far away as possible.
    for z, k in (
        (cloud(4), 2),
        (cloud(4), 3),
        (cloud(16), 15),
        (torch.eye(8)[torch.arange(17) % 2], 15),
        (cloud(d=1), 15),
        (opposite, 15),
    ):
        at = embedding.umap(z, n_neighbors=k)
        assert at.shape == (len(z), 2) and bool(at.isfinite().all())


# Neighbours, placing new points, and trustworthiness.


def test_neighbours_are_those_of_scikit_learn_and_a_point_is_its_own_first() -> None:
    z, new = cloud(), cloud(9, seed=1)
    rows, far = embedding.nearest(new, 5, among=z)
    expected = cosine_distances(new.double(), z.double())
    assert np.array_equal(rows, expected.argsort(1)[:, :5]) and np.allclose(
        far, np.sort(expected, 1)[:, :5]
    )
    twice = torch.cat([z, z, torch.zeros(1, 7)])
    rows, far = embedding.nearest(twice, 4)
    assert torch.equal(rows[:, 0], torch.arange(121)) and not far[:, 0].any()
    assert torch.equal(rows[:60, 1], torch.arange(60) + 60) and float(far[-1, 1]) == 1


def test_the_weights_of_neighbours_add_up_as_in_umap() -> None:
    far = torch.rand(20, 15, generator=torch.Generator().manual_seed(0)).double().sort(1).values
    weight = embedding.memberships(far)
    assert torch.allclose(weight.sum(1), torch.full((20,), math.log2(15), dtype=torch.float64))
    assert bool((weight[:, 0] == 1).all()) and bool((weight.diff(dim=1) <= 0).all())
    assert bool((embedding.memberships(torch.full((2, 15), 0.3).double()) == 1).all())


def test_new_points_go_to_their_neighbours_and_known_ones_where_they_are() -> None:
    z, at = cloud(), torch.randn(60, 2, generator=torch.Generator().manual_seed(2)).double()
    assert torch.equal(embedding.place(z[7:12], z, at), at[7:12])
    new = cloud(9, seed=1)
    placed = embedding.place(new, z, at)
    for row, point in enumerate(new):  # A reference with loops, one point at a time.
        far = cosine_distances(point[None].double(), z.double())[0]
        near = np.argsort(far)[:15]
        low, high = 1e-9, 10.0
        for _ in range(100):
            sigma = (low + high) / 2
            total = sum(math.exp(-(far[i] - far[near[0]]) / sigma) for i in near)
            low, high = (low, sigma) if total > math.log2(15) else (sigma, high)
        weights = [math.exp(-(far[i] - far[near[0]]) / sigma) for i in near]
        assert np.allclose(placed[row], np.average(at[near], axis=0, weights=weights), atol=1e-6)
    assert torch.allclose(embedding.place(new[3:4], z, at)[0], placed[3])
    assert embedding.place(new[:0], z, at).shape == (0, 2)


def test_a_known_point_is_told_from_one_of_the_same_direction() -> None:
    z = torch.tensor([[1.0, 0], [2, 0], [0, 1], [1, 1]])
    at = torch.tensor([[0.0, 0], [5, 5], [9, 9], [1, 1]])
    assert torch.equal(embedding.place(z, z, at, k=3), at.double())


def test_trustworthiness_is_what_its_definition_says() -> None:
    z, at = cloud(40), cloud(40, 2, seed=3)
    far, flat = cosine_distances(z.double()), np.linalg.norm(at[:, None] - at[None], axis=2)
    lost = 0
    for i in range(40):
        true = [j for j in np.argsort(far[i], kind="stable") if j != i]
        shown = [j for j in np.argsort(flat[i], kind="stable") if j != i][:15]
        lost += sum(true.index(j) + 1 - 15 for j in shown if true.index(j) >= 15)
    assert embedding.trustworthiness(z, at) == pytest.approx(
        1 - 2 / (40 * 15 * (80 - 45 - 1)) * lost
    )
    assert embedding.trustworthiness(z, z[:, :2]) == pytest.approx(
        trustworthiness(z.double(), z[:, :2].double(), n_neighbors=15, metric="cosine")
    )
    assert math.isnan(embedding.trustworthiness(z[:31], at[:31]))


# UMAP.


@pytest.mark.slow
def test_umap_repeats_itself_and_its_neighbourhoods_are_real(run) -> None:
    spec = dataclasses.replace(SPEC, projection="umap", place_eps=0.05)
    first, again = (probes.feature_map.answer(run, spec) for _ in range(2))
    for name in ("clean", "adversarial", "noise", "placed"):
        assert np.array_equal(getattr(first, name), getattr(again, name)), name
    assert (
        first.trust > 0.85
        and f"trustworthiness(15) {first.trust:.2f}"[:-1] in first.meta["summary"]
    )


def test_a_map_by_umap_says_how_it_was_made_and_new_points_join_it(run, monkeypatch) -> None:
    """With a layout function that needs no compilation."""
    spec = dataclasses.replace(SPEC, projection="umap", place_eps=0.05)
    asked: list[dict[str, object]] = []

    def layout(x, rows, far, init, **settings):
        asked.append(settings | {"rows": rows.shape, "init": init})
        return x[:, :2] - x[:, 2:4]

    monkeypatch.setattr(embedder, "layout", layout)
    first = probes.feature_map.answer(run, spec)
    assert asked == [{"seed": 0, "min_dist": 0.1, "epochs": 500, "rows": (120, 15), "init": None}]
    measured = probes.features(run, spec.alike(FeaturesSpec))
    both = np.concatenate([measured.clean, measured.adversarial])
    at = np.concatenate([first.clean, first.adversarial])
    assert first.trust == pytest.approx(
        trustworthiness(both, at, n_neighbors=15, metric="cosine"), abs=2e-3
    )
    assert first.meta["metric"] == "cosine" and (
        first.meta["n_neighbors"],
        first.meta["min_dist"],
        first.meta["seed"],
    ) == (15, 0.1, 0)
    assert not first.axes.size and math.isnan(first.share)
    other = probes.features(run, dataclasses.replace(spec.alike(FeaturesSpec), eps=0.05))
    assert np.array_equal(first.pred_placed, other.pred_adv) and first.placed.shape == (60, 2)
    expected = embedding.place(
        torch.from_numpy(other.adversarial).double(),
        torch.from_numpy(both).double(),
        torch.from_numpy(at),
    )
    assert np.allclose(first.placed, expected, atol=1e-4)
    assert (
        f"n_neighbors 15, min_dist 0.1, seed 0, trustworthiness(15) {first.trust:.3f}"
        in figures.feature_map(first).layout.meta["sure"]
    )


@pytest.mark.slow
@pytest.mark.parametrize("key", ["standard", "pgd_at"])
def test_umap_is_as_trustworthy_as_plain_umap_learn(key, runs_home) -> None:
    code = f"""
import sys; sys.path[:0] = {sys.path!r}
import os; os.environ["ROBUSTVIZ_RUNS"] = {str(runs_home)!r}
from robustviz import open_run, probes
spec = probes.FeatureMapSpec(n=200, projection="umap")
print(probes.feature_map.answer(open_run({shipped(key).id!r}), spec).clean.tobytes().hex())
"""
    twins = [
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout
        for _ in range(2)
    ]
    assert twins[0] == twins[1], "another process draws another map"
    run = shipped(key)
    found = probes.feature_map.answer(run, FeatureMapSpec(n=200, projection="umap"))
    measured = probes.features(run, FeatureMapSpec(n=200).alike(FeaturesSpec))
    both = np.concatenate([measured.clean, measured.adversarial])
    from umap import UMAP

    plain = UMAP(
        metric="cosine", n_neighbors=15, min_dist=0.1, random_state=0, n_jobs=1
    ).fit_transform(both)
    assert found.trust > trustworthiness(both, plain, n_neighbors=15, metric="cosine") - 0.01


def test_without_umap_learn_the_other_maps_work_and_this_one_says_what_to_install(
    run, monkeypatch
) -> None:
    monkeypatch.setitem(sys.modules, "umap", None)
    assert len(probes.feature_map(run, SPEC).clean) == 60
    with pytest.raises(UserError, match="pip install umap-learn"):
        probes.feature_map(run, dataclasses.replace(SPEC, projection="umap"))


# Tests of the probe.


def test_the_cosines_are_scikit_learns_and_count_who_went_astray(run) -> None:
    found, measured = probes.feature_map(run, SPEC), probes.features(run, SPEC.alike(FeaturesSpec))
    centres = np.stack([measured.clean[measured.y == label].mean(0) for label in range(10)])
    for row, name in enumerate(("clean", "adversarial", "noise")):
        to = cosine_similarity(getattr(measured, name), centres)
        own = to[np.arange(60), found.y]
        to[np.arange(60), found.y] = -2
        assert np.allclose(found.own[row], own, atol=1e-5) and np.allclose(
            found.other[row], to.max(1), atol=1e-5
        )
        assert found.astray[row] == (to.max(1) > own).sum()
        assert measured.measures[name]["own_cosine"] == pytest.approx(found.own[row].mean())
    assert (
        np.array_equal(found.fooled, (found.pred == found.y) & (found.pred_adv != found.y))
        and found.fooled.sum() > 30
    )
    assert (
        np.array_equal(found.index, np.arange(60))
        and f"{found.astray[1]} under PGD-5 at ε = 0.15 (38/255)" in found.meta["summary"]
    )


def test_an_attack_at_another_eps_joins_the_map_and_moves_nothing(run) -> None:
    alone, joined = (
        probes.feature_map(run, SPEC),
        probes.feature_map(run, dataclasses.replace(SPEC, place_eps=0.03)),
    )
    assert np.array_equal(alone.clean, joined.clean) and np.array_equal(
        alone.adversarial, joined.adversarial
    )
    few, net = images_of(run).take(torch.arange(60)), net_of(run)
    z, _ = features_of(net, attacked(net, few.x, few.y, PGD(eps=0.03, steps=5)))
    assert np.allclose(joined.placed, (z.numpy() - joined.origin) @ joined.axes, atol=1e-4)
    assert not len(alone.placed) and not len(alone.pred_placed)


@pytest.mark.parametrize(
    ("sets", "says"),
    [
        (["projection=umap", "n=14"], "UMAP needs at least 15 images, but there are 14"),
        (["projection=umap", "n=20", "n_neighbors=60"], "more than 60 points, but there are 40"),
        (["projection=tsne"], "not one of centres, pca, umap"),
        (["n=1"], "points of two classes or more"),
        (["place_eps=8"], "write 8/255"),
    ],
)
def test_bad_input_is_one_sentence(run, sets, says, capsys) -> None:
    asked = [word for one in ("steps=1", *sets) for word in ("--set", one)]
    assert cli.main(["probe", run.id, "feature_map", *asked]) in (1, 2)
    said = capsys.readouterr().err
    assert says in said and "Traceback" not in said and said.count("\n") == 1


# Tests of the map's figure.


def made(
    y: list[int],
    pred: list[int],
    pred_adv: list[int],
    classes: int = 3,
    projection: str = "centres",
    **more,
) -> FeatureMap:
    """Returns a map with values set by hand: each image's cosine to its own class centre is 0.9,
    and 0.2 under attack if it is fooled.
    """
    y_, n = np.array(y), len(y)
    rng = np.random.default_rng(0)
    fooled = np.array(pred_adv) != y_
    own = np.stack([np.full(n, 0.9), np.where(fooled, 0.2, 0.9), np.full(n, 0.9)])
    meta = {
        "run": "r",
        "method": "pgd_at",
        "data": "digits",
        "classes": [f"c{label}" for label in range(classes)],
        "eps": 8 / 255,
        "seed": 3,
        "attack": {"key": "pgd", "steps": 7},
        "projection": projection,
        "place_eps": None,
    }
    points = {
        name: rng.normal(size=(n, 2)).astype(np.float32)
        for name in ("clean", "adversarial", "noise")
    }
    empty = np.zeros((0, 2), np.float32)
    return FeatureMap(
        **(points | {name: more.pop(name) for name in points if name in more}),
        y=y_,
        pred=np.array(pred),
        pred_adv=np.array(pred_adv),
        pred_noise=np.array(pred),
        index=np.arange(n) + 5,
        own=own,
        other=np.full((3, n), 0.5),
        moved=np.full(n, 0.4),
        axes=np.eye(2),
        origin=np.zeros(2),
        share=0.75,
        trust=math.nan,
        **{"placed": empty, "pred_placed": np.zeros(0, int), "meta": meta} | more,
    )


def test_every_point_is_drawn_once_and_carries_its_image() -> None:
    result = made([0, 0, 1, 2], [0, 1, 1, 2], [1, 1, 1, 0])
    for colour, groups in (
        ("class", ["c0 (2)", "c1 (1)", "c2 (1)"]),
        ("fooled", ["right also attacked (1)", "fooled (2)", "misclassified untouched (1)"]),
    ):
        figure = figures.feature_map(result, colour=colour)
        marks = [trace for trace in figure.data if trace.mode == "markers"]
        assert [trace.name for trace in marks if trace.showlegend] == groups
        clean = {
            int(row[0]): (x, y)
            for trace in marks[::2]
            for row, x, y in zip(trace.customdata, trace.x, trace.y, strict=True)
        }
        assert clean == {5 + i: tuple(result.clean[i]) for i in range(4)}
        assert {trace.marker.symbol for trace in marks[1::2]} == {"x"} and {
            trace.marker.symbol for trace in marks[::2]
        } <= {*SYMBOLS, "circle-open"}
    assert list(figure.data[0].x[:3])[:2] == [
        result.clean[0, 0],
        result.adversarial[0, 0],
    ] and np.isnan(figure.data[0].x[2])
    assert [note.text for note in figure.layout.annotations] == ["c0", "c1", "c2"]
    places = {(note.x, note.y) for note in figure.layout.annotations}
    assert places <= {tuple(map(float, point)) for point in result.clean}, (
        "a name stands where no point of its class is"
    )


def test_names_and_the_marked_image_cover_nothing_of_each_other() -> None:
    """Three classes in one place: also at a phone's width each name has its own line, and no name
    covers the mark.
    """
    clean = np.array([[0, 0], [0, 0.001], [0.001, 0], [-5, -5], [5, 5]], np.float32)
    result = made([0, 1, 2, 0, 1], [0, 1, 2, 0, 1], [0, 1, 2, 0, 1], clean=clean, adversarial=clean)
    shifts = [note.yshift for note in figures.feature_map(result).layout.annotations]
    assert shifts[0] == 0 and all(
        abs(one - other) >= 20 for i, one in enumerate(shifts) for other in shifts[:i]
    )
    marked = [note.yshift for note in figures.feature_map(result, mark=5).layout.annotations]
    assert all(abs(shift) >= 20 for shift in marked)


@pytest.mark.parametrize(
    ("pred", "pred_adv", "says"),
    [
        (
            [0, 1, 2],
            [0, 1, 2],
            [
                "fooled on 0 of the 3 images that it classifies correctly",
                "0 of 3 attacked points lie nearer",
            ],
        ),
        (
            [0, 1, 2],
            [1, 2, 0],
            [
                "fooled on 3 of the 3 images that it classifies correctly",
                "3 of 3 attacked points lie nearer",
            ],
        ),
        ([1, 2, 0], [1, 2, 0], ["classifies none of these images correctly"]),
    ],
)
def test_the_sentence_is_right_at_the_edges(pred, pred_adv, says) -> None:
    figure = figures.feature_map(made([0, 1, 2], pred, pred_adv))
    for one in says:
        assert one in figure.layout.meta["sentence"] and one in figure.layout.meta["alt"]
    for one in ("PGD-7 at ε = 8/255, seed 3", "75% of the variance between the class centres"):
        assert one in figure.layout.meta["sure"]


def test_what_is_not_drawn_is_said_and_a_crowd_is_drawn_by_webgl() -> None:
    n = 800
    y = [i % 3 for i in range(n)]
    result = made(y, y, y, placed=np.ones((n, 2), np.float32), pred_placed=np.zeros(n, int))
    result.meta["place_eps"] = 4 / 255
    figure = figures.feature_map(result, noise=True)
    assert (
        "Lines for the first 300 images only." in figure.layout.meta["sentence"]
        and len(figure.data[0].x) == 900
    )
    assert (
        f"attacked at ε = 4/255, {sum(label != 0 for label in y)} of 800 misclassified"
        in figure.layout.meta["sentence"]
    )
    assert {trace.type for trace in figure.data} == {"scattergl"} and len(
        plotly.io.to_json(figure)
    ) < 400 * 1024
    assert [trace.name for trace in figure.data[-2:]] == [
        "noise of the same ε (800)",
        "attack at ε = 4/255 (800)",
    ]
    assert {trace.type for trace in figures.feature_map(made(y[:500], y[:500], y[:500])).data} == {
        "scatter"
    }


def test_of_many_classes_the_most_confused_are_coloured_and_the_rest_is_grey() -> None:
    y = [label for label in range(20) for _ in range(3)]
    pred_adv = [(label + 1) % 20 if label < 10 else label for label in y]
    figure = figures.feature_map(made(y, y, pred_adv, classes=20))
    named = [trace.name for trace in figure.data if trace.showlegend]
    assert named == [*(f"c{label} (3)" for label in range(10)), "other classes (30)"]
    figure = figures.feature_map(made(y, y, pred_adv, classes=20), focus="c4")
    assert [trace.name for trace in figure.data if trace.showlegend] == [
        "c4 (3)",
        "c5 (3)",
        "other classes (54)",
    ]
    figured = figures.feature_map(made(y, y, pred_adv, classes=20), focus="c4", colour="fooled")
    assert [trace.name for trace in figured.data if trace.showlegend] == [
        "right also attacked (0)",
        "fooled (3)",
        "misclassified untouched (0)",
        "other classes (57)",
    ]
    assert (
        "Attacked images of c4 are most often classified as c5 (3 of 3)."
        in figure.layout.meta["sentence"]
    )
    assert figure.data[-1].marker.color == COLOURS["robustviz_light"]["faint"] and [
        note.text for note in figure.layout.annotations
    ] == ["c4"]


def test_one_image_is_marked_in_a_map_of_its_own() -> None:
    result = made([0, 1, 2], [0, 1, 1], [1, 1, 1])
    figure = figures.feature_map(result, mark=5)
    assert list(figure.data[-1].x) == [result.clean[0, 0], result.adversarial[0, 0]]
    assert (
        "Image 5, a c0, is classified as c0, attacked as c1" in figure.layout.meta["sentence"]
        and "PGD-7 at ε = 8/255, seed 3" in figure.layout.meta["sure"]
    )
    for wrong in ({"mark": 99}, {"focus": "nobody"}, {"colour": "mood"}):
        with pytest.raises(UserError):
            figures.feature_map(result, **wrong)


def test_each_class_has_a_colour_that_stands_out() -> None:
    def light(colour: str) -> float:
        parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
        red, green, blue = (
            part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in parts
        )
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    for template, shades in CLASSES.items():
        assert len(set(shades)) == len(set(SYMBOLS)) == 10
        assert not {COLOURS[template]["a"], COLOURS[template]["b"]} & set(shades)
        for shade in shades:
            high, low = sorted([light(shade), light(COLOURS[template]["paper"])], reverse=True)
            assert (high + 0.05) / (low + 0.05) >= 3, (template, shade)


# The distances shown beside the map.


def test_the_figure_of_distances_has_the_probes_means_and_intervals(run) -> None:
    found = {
        "A Standard": probes.features(run, SPEC.alike(FeaturesSpec)),
        "B PGD-AT": probes.features(shipped("pgd_at"), SPEC.alike(FeaturesSpec)),
    }
    figure = figures.features(found)
    assert [trace.name for trace in figure.data] == [
        f"{name}: {which}" for name in found for which in ("own class", "nearest other class")
    ]
    for number, result in enumerate(found.values()):
        for row, kind in enumerate(("clean", "adversarial", "noise")):
            assert figure.data[2 * number].x[row] == pytest.approx(
                result.measures[kind]["own_cosine"]
            )
            assert figure.data[2 * number + 1].x[row] == pytest.approx(
                result.measures[kind]["other_cosine"]
            )
    said, sure, (a, b) = (
        *(figure.layout.meta[key] for key in ("sentence", "sure")),
        found.values(),
    )
    lead = [np.subtract(*result.cosines("adversarial")) for result in (a, b)]
    mean, low, high = mean_interval(lead[1] - lead[0])
    assert (
        low > 0
        and f"B PGD-AT keeps images nearer to their class than A Standard, by {mean:.2f}." in said
        and f"B PGD-AT over A Standard: {mean:.2f}, 95%: +{low:.2f} to +{high:.2f}" in sure
    )
    right = [result.pred_adv == result.y for result in (a, b)]
    low, high = tango(int((right[1] & ~right[0]).sum()), int((right[0] & ~right[1]).sum()), 60)
    assert (
        "B PGD-AT is more accurate than A Standard,"
        f" {100 * (right[1].mean() - right[0].mean()):.0f} percentage points apart"
        f" (95%: +{100 * low:.0f}" in sure
    )
    low, high = wilson(int(a.fooled.sum()), int(a.right.sum()))
    assert (
        f"Fooled on {a.fooled.sum()} of the {a.right.sum()} images that it classifies correctly"
        f" (95%: {low:.0%} to {high:.0%})" in sure
    )
    assert not wordy(said)
    # A map of the same images has the same distances.
    maps = {
        name: probes.feature_map(shipped(key), SPEC)
        for name, key in zip(found, ("standard", "pgd_at"), strict=True)
    }
    assert figures.features(maps).layout.meta["sentence"] == said


def test_nothing_is_called_nearer_without_an_interval(run) -> None:
    one = probes.features(run, SPEC.alike(FeaturesSpec))
    same = figures.features({"A": one, "B": one}).layout.meta
    assert (
        "No difference shown between A and B" in same["sentence"]
        and "A over B: 0.00, 95%: +0.00 to +0.00" in same["sure"]
        and "neither is shown to be more accurate, 0 percentage points apart" in same["sure"]
    )
    assert "keeps images nearer" not in figures.features(one).layout.meta["sentence"]
    y = np.arange(20) % 2
    clean = np.eye(2)[y]
    tied = dataclasses.replace(
        one,
        clean=clean,
        noise=clean,
        adversarial=np.eye(2)[np.arange(20) // 10],
        y=y,
        pred=y,
        pred_adv=y,
    )
    tie = figures.features(tied).layout.meta
    assert (
        "no nearer to their own class than to another" in tie["sentence"]
        and "own minus nearest other cosine +0.00" in tie["sure"]
    )
    elsewhere = dataclasses.replace(one, meta=one.meta | {"eps": 0.01})
    assert (
        "were attacked differently"
        in figures.features({"A": one, "B": elsewhere}).layout.meta["sentence"]
    )


def test_networks_of_different_data_or_images_are_not_compared(run) -> None:
    one = probes.features(run, SPEC.alike(FeaturesSpec))
    other = dataclasses.replace(one, meta=one.meta | {"data": "mnist"})
    with pytest.raises(UserError, match="trained on different data sets"):
        figures.features({"A": one, "B": other})
    fewer = probes.features(run, dataclasses.replace(SPEC, n=40).alike(FeaturesSpec))
    with pytest.raises(UserError, match="same n"):
        figures.features({"A": one, "B": fewer})
    assert isinstance(one, Features)


# Tests of the film.


@pytest.fixture(scope="module")
def films(tmp_path_factory) -> dict[str, object]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ROBUSTVIZ_RUNS", str(tmp_path_factory.mktemp("runs")))
        spec = FeatureFilmSpec(n=40, steps=3)
        return {
            f"{side} {key}": probes.feature_film.answer(shipped(key), spec)
            for side, key in (("A", "pgd_at"), ("B", "supcon_margin"))
        }


@pytest.mark.long
def test_a_film_shows_each_kept_epochs_own_network_on_the_last_ones_plane(films) -> None:
    run, film = shipped("pgd_at"), films["A pgd_at"]
    assert list(film.epochs) == run.snapshots == [*range(2, 21, 2)]
    few = images_of(run).take(torch.arange(40))
    last, _ = features_of(run.net(epoch=20), few.x)
    axes, origin, _ = embedding.centre_plane(last, few.y, 10)
    for frame in (0, 5, 9):
        net = run.net(epoch=int(film.epochs[frame]))
        z, logits = features_of(net, few.x)
        z_adv, logits_adv = features_of(net, attacked(net, few.x, few.y, PGD(eps=run.eps, steps=3)))
        assert np.allclose(film.clean[frame], (z.double() - origin) @ axes, atol=1e-4)
        assert np.allclose(film.adversarial[frame], (z_adv.double() - origin) @ axes, atol=1e-4)
        assert np.array_equal(film.pred[frame], logits.argmax(1)) and np.array_equal(
            film.pred_adv[frame], logits_adv.argmax(1)
        )
        centres = np.stack([z[few.y == label].mean(0).numpy() for label in range(10)])
        to = cosine_similarity(z_adv.numpy(), centres)
        assert film.own[frame, 1] == pytest.approx(to[np.arange(40), few.y].mean(), abs=1e-5)
        apart = np.mean(
            [np.linalg.norm(centres[i] - centres[j]) for i in range(10) for j in range(i)]
        )
        assert film.moved[frame, 0] == pytest.approx(
            float((z_adv - z).norm(dim=1).mean()) / apart, rel=1e-4
        )


@pytest.mark.long
def test_the_films_frames_stand_still_and_its_first_is_the_one_asked_for(films) -> None:
    film = films["A pgd_at"]
    figure = figures.feature_film(film, epoch=6)
    assert [frame.name for frame in figure.frames] == [
        str(epoch) for epoch in film.epochs
    ] and figure.layout.sliders[0].active == 2
    low, high = figure.layout.xaxis.range
    every = np.concatenate([film.clean, film.adversarial])[..., 0]
    assert low < every.min() and every.max() < high
    for frame, points in zip(figure.frames, film.clean, strict=True):
        assert len(frame.data) == len(figure.data)
        assert sorted(x for trace in frame.data[1::2] for x in trace.x) == pytest.approx(
            sorted(points[:, 0])
        )
    shown = {
        i: x for trace in figure.data[1::2] for i, x in zip(trace.customdata, trace.x, strict=True)
    }
    assert shown == {i: film.clean[2, i, 0] for i in range(40)}
    k = (film.pred_adv == film.y).sum(1)
    assert (
        f"Epoch 6: {k[2]} of 40 images classified correctly under attack"
        in figure.layout.meta["sentence"]
    )
    assert "PGD-3" in figure.layout.meta["sure"] and not wordy(figure.layout.meta["sentence"])
    assert len(plotly.io.to_json(figure)) < 400 * 1024
    assert (
        figures.feature_film(film).layout.sliders[0].active == 9
        and figures.feature_film(film, epoch=-5).layout.sliders[0].active == 0
    )


def test_the_gap_says_from_when_on_attacked_images_stay(films) -> None:
    film = films["A pgd_at"]
    other = np.array([0.9, 0.9, 0.9, 0.1, 0.9, *[0.1] * 5])
    for values, says in (
        (other, "stay nearer to their own class from epoch 12 on"),
        (np.full(10, 0.1), "nearer to their own class at every kept epoch"),
        (np.full(10, 0.9), "nearer to another class at every kept epoch"),
        (other[::-1], "are nearer to another class at the last epoch"),
    ):
        mine = dataclasses.replace(
            film, own=np.full((10, 3), 0.5), other=np.stack([values] * 3, axis=1)
        )
        assert says in figures.feature_gap(mine).layout.meta["sentence"]
    figure = figures.feature_gap(films, epoch=8)
    assert len(figure.data) == 8 and figure.layout.meta["sentence"].count("**") == 4
    assert np.allclose(figure.data[0].y, film.own[:, 1]) and np.allclose(
        figure.data[2].y, film.moved[:, 0]
    )


def test_a_run_without_snapshots_says_how_to_train_one_that_has(runs_home) -> None:
    run = shipped("trades")
    assert run.snapshots == []
    with pytest.raises(UserError, match=r"kept the weights of 0 epochs.*snapshots = 2"):
        probes.feature_film(run)
