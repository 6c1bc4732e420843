"""Tests figures for papers: the exact width, one text size, fixed colours and a true caption."""

from __future__ import annotations

import io
import json
import re
import sys
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import plotly.graph_objects as go
import pytest
from PIL import Image

from robustviz import cli, figures
from robustviz.cli import figure
from robustviz.runs import folder
from robustviz.types import UserError
from robustviz.views import printing
from robustviz.views.attack.result import AccuracyCurve, AccuracyCurveSpec, Adversarial, SmallestEps
from robustviz.views.drawing import Plot
from robustviz.views.paper import PALETTES, caption, for_paper
from robustviz.views.pictures import strip
from robustviz.views.printing import drawing
from robustviz.views.screen import Control, Screen
from robustviz.views.theme import CLASSES, COLOURS, DARK, LIGHT, finish, sides, styles

VIEWS = Path(printing.__file__).parent
PGD = {"key": "pgd", "eps": 0.1, "steps": 20, "step_size": None, "restarts": 1}


def meta(run: str = "digits-pgd-at-1", **more: object) -> dict[str, object]:
    same = {"method": "pgd_at", "data": "digits", "classes": ["0", "1"], "train_eps": 0.1}
    return {"run": run, **same, "attack": PGD, "seed": 3, **more}


def curve(run: str = "digits-pgd-at-1", k: int = 40) -> AccuracyCurve:
    return AccuracyCurve(np.array([0, 0.1]), np.array([48, k]), 50, meta=meta(run))


def two(template: str = LIGHT) -> go.Figure:
    found = {"A PGD-AT": curve(), "B TRADES": curve("digits-trades-2", 20)}
    return figures.accuracy_curve(found, template=template)


def sizes(value: object, of: str = "") -> set[float]:
    """Returns all text sizes in a figure's JSON."""
    if isinstance(value, dict):
        own = {value["size"]} if of.lower().endswith("font") and "size" in value else set()
        return own.union(*(sizes(each, name) for name, each in value.items()))
    return set().union(*(sizes(each, of) for each in value)) if isinstance(value, list) else set()


@pytest.mark.parametrize(("width", "pixels"), [("84mm", 317.48), ("3.3in", 316.8), ("240pt", 320)])
def test_it_is_as_wide_as_asked_with_one_size_of_type_and_no_title(width, pixels) -> None:
    figure = for_paper(two(), width, size=9, font="Times New Roman")
    assert figure.layout.width == pytest.approx(pixels, abs=0.01)
    assert not figure.layout.title.text and not figure.layout.sliders
    assert figure.layout.font.family.startswith("Times New Roman,")
    assert sizes({name: json.loads(figure.to_json())[name] for name in ("data",)}) <= {12}
    own = json.loads(figure.to_json())["layout"]
    own.pop("template")
    assert sizes(own) == {12}  # 9 points are 12 pixels at 96 dots per inch.


def test_a_given_height_is_kept_and_its_own_is_no_lower_than_legend_and_plot() -> None:
    assert for_paper(two(), height="50mm").layout.height == pytest.approx(188.98, abs=0.01)
    assert 150 < for_paper(two()).layout.height < 400
    assert for_paper(two(), size=16).layout.height > 1.5 * for_paper(two(), size=8).layout.height


@pytest.mark.parametrize(
    ("names", "drawn"),
    [
        (("A PART", "B AFA"), ["a", "b"]),
        (("b", "a"), ["b", "a"]),
        (("B AFA",), ["b"]),
        (("baseline", "adversarial"), ["a", "b"]),
        (("baseline",), ["a"]),
        (("A PART", "A AFA"), ["a", "b"]),
    ],
)
def test_a_network_is_b_only_if_its_name_is_that_letter(names, drawn) -> None:
    assert sides(dict.fromkeys(names)) == drawn
    if len({name[0] for name in names}) == len(names):
        assert [colour for colour, _ in styles(names)] == drawn


def test_lines_are_thin_and_the_page_s_figure_stays_as_it_was() -> None:
    page = two()
    before = page.to_json()
    paper = for_paper(page)
    assert page.to_json() == before
    widths = {trace.line.width for trace in paper.data if trace.line.width}
    assert max(widths) < 1.2 and min(widths) >= 0.4
    assert all(0 < shape.line.width < 1 for shape in paper.layout.shapes)


@pytest.mark.parametrize("palette", list(PALETTES))
@pytest.mark.parametrize("template", [LIGHT, DARK])
def test_a_network_and_a_class_have_one_colour_in_every_figure(palette, template) -> None:
    """Also if the page was dark."""
    roles, classes = PALETTES[palette]
    paper = for_paper(two(template), palette=palette)
    named = {trace.name: trace.line.color for trace in paper.data if trace.name}
    assert named == {"A PGD-AT": roles["a"], "B TRADES": roles["b"]}
    assert paper.layout.template.layout.paper_bgcolor == "#FFFFFF"
    points = go.Figure(layout={"template": template})
    for colour in CLASSES[template]:
        points.add_scattergl(x=[0], y=[0], mode="markers", marker={"color": colour, "size": 10})
    drawn = for_paper(points, palette=palette)
    assert [trace.marker.color for trace in drawn.data] == list(classes)
    # WebGL would be printed as a bitmap.
    assert {trace.type for trace in drawn.data} == {"scatter"}
    assert len(set(classes)) == 10 and COLOURS[DARK]["paper"] not in drawn.to_json()


def test_shades_follow_the_palette_and_hatching_becomes_a_lighter_fill() -> None:
    band = next(trace for trace in for_paper(two(), palette="grey").data if trace.fill)
    assert re.fullmatch(r"rgba\(0,0,0,0?\.18\)", band.fillcolor)
    flipped = {
        name: SmallestEps(np.array([0.02, 0.04]), np.arange(2), 0.1, 0.001, meta=meta())
        for name in ("A x", "B y")
    }
    paper = for_paper(figures.smallest_eps(flipped), palette="okabe-ito")
    assert [trace.marker.color for trace in paper.data] == ["#0072B2", "rgba(213,94,0,0.4)"]
    assert not any(trace.marker.pattern.shape for trace in paper.data)


def test_grey_has_no_other_colour() -> None:
    heat = go.Figure(go.Heatmap(z=[[0, 1]], colorscale="Cividis"), {"template": LIGHT})
    scale = for_paper(heat, palette="grey").data[0].colorscale
    assert scale == ((0, "#000000"), (1, "#FFFFFF"))
    for colour in (*PALETTES["grey"][0].values(), *PALETTES["grey"][1]):
        assert len({colour[1:3], colour[3:5], colour[5:7]}) == 1


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"width": "wide"}, "a number with mm, cm, in or pt"),
        ({"width": "5mm"}, "20mm to 1000mm"),
        ({"width": "84"}, "a number with mm"),
        ({"height": "-3cm"}, "a number with mm"),
        ({"size": 0}, "must be 4 to 40 points"),
        ({"size": float("nan")}, "must be 4 to 40 points"),
        ({"font": "<b>"}, "is not a font name"),
        ({"palette": "rainbow"}, "robustviz, okabe-ito, grey"),
    ],
)
def test_what_cannot_be_is_one_sentence(options, says) -> None:
    with pytest.raises(UserError, match=says):
        for_paper(two(), **options)


def test_the_caption_tells_networks_data_images_attack_and_interval_in_one_sentence() -> None:
    said = caption(two())
    assert said == (
        "Accuracy under PGD-20: A PGD-AT (digits-pgd-at-1) and B TRADES (digits-trades-2); 50 test"
        " images of digits, PGD-20, seed 3; bands: 95% intervals (Wilson)."
    )
    assert caption(for_paper(two())) == said and caption(go.Figure()) == ""


def test_a_caption_says_where_two_networks_were_not_measured_alike() -> None:
    other = AccuracyCurve(np.array([0, 0.1]), np.array([9, 8]), 10, meta=meta("digits-b-2"))
    said = caption(figures.accuracy_curve({"A x": curve(), "B y": other}))
    assert "A x (digits-pgd-at-1, 50 test images of digits" in said
    assert "B y (digits-b-2, 10 test images of digits" in said


def test_a_caption_of_one_image_names_it_and_its_eps() -> None:
    said = caption(figures.adversarial(attacked()))
    assert "the pgd_at network (digits-pgd-at-1); test image 7 of digits, PGD-20 at ε = 0.1" in said


def test_a_caption_names_no_attack_where_nothing_attacked_is_drawn() -> None:
    figure = finish(go.Figure(layout={"title": {"text": "T"}}), "A.", attacked(), clean=True)
    assert caption(figure).endswith("test image 7 of digits, seed 3.")


def test_one_image_of_a_list_is_called_by_its_number() -> None:
    one = SmallestEps(np.array([0.02]), np.array([5]), 0.1, 0.001, meta=meta())
    assert "test image 5 of digits" in caption(figures.smallest_eps({"A x": one}))


def test_the_title_of_a_colour_bar_is_no_larger_than_the_rest() -> None:
    heat = go.Figure(go.Heatmap(z=[[0, 1]], colorbar={"title": "loss"}), {"template": LIGHT})
    title = for_paper(heat, size=9).data[0].colorbar.title
    assert title.text == "loss" and title.font.size == 12


def test_a_picture_among_the_traces_has_no_legend() -> None:
    figure = go.Figure([go.Image(z=[[[0, 0, 0]]])], {"template": LIGHT})
    figure.add_scatter(x=[0], y=[0], name="a")
    assert for_paper(figure).layout.height > 150


def test_titles_with_marks_are_plain_in_a_caption() -> None:
    figure = finish(go.Figure(layout={"title": {"text": "<b>Loss</b><br>of it"}}), "A.", {})
    assert caption(figure) == "Loss of it."


def test_who_draws_bars_or_bands_says_what_they_are() -> None:
    texts = {
        path: path.read_text(encoding="utf-8")
        for path in VIEWS.glob("*/*figures.py")
        if "screen" not in path.stem
    }
    drawing = [path for path in texts if re.search(r"\bband\(figure|error_[xy]", texts[path])]
    assert drawing
    assert not [path for path in drawing if "interval=" not in texts[path]]


def attacked(index: int = 7) -> Adversarial:
    x = np.linspace(0, 1, 64, dtype=np.float32).reshape(1, 8, 8)
    half = np.array([0.5, 0.5])
    about = meta(index=index, summary="0 → 1")
    return Adversarial(x, np.clip(x + 0.1, 0, 1), 0, half, half, 0.1, 0.1, meta=about)


def test_strips_are_the_images_pixel_by_pixel_and_eight_times_that() -> None:
    native = np.array(Image.open(io.BytesIO(strip([attacked(), attacked()], 1))).convert("RGBA"))
    large = np.array(Image.open(io.BytesIO(strip([attacked(), attacked()], 8))).convert("RGBA"))
    assert native.shape[:2] == (17, 26) and large.shape[:2] == (8 * 17, 8 * 26)
    assert (large[::8, ::8] == native).all()
    assert (native[:8, :8, 0] == np.round(attacked().x[0] * 255)).all()
    assert not native[8, :, 3].any()  # The gap between the pictures is transparent.
    assert strip([curve()], 8) == b""


def test_a_screen_s_charts_are_one_svg_with_its_control_where_it_stands() -> None:
    plot = Plot(200, 100, (0, 1), (0, 1), x_label="ε & more").dot(0, 0, "a", move="here")
    twin = f'<div class="small">{plot.html()}</div>'
    outline = '<svg viewBox="0 0 32 32"><path d="M0 0"/></svg>'
    bare = plot.html().replace("<circle", "<circle data-rove")
    screen = Screen(
        ["It is."],
        f"<div class='x'>{outline}{plot.html()}</div>{twin}<div>{bare}</div>",
        "Charts.",
        (),
        Control("ε", ["0", "1"], 0, "eps"),
        {"here-cx": ("cx", ["11", "22"]), "here-cy": ("cy", ["5", "6"])},
    )
    made = drawing(screen, 1)
    root = ElementTree.fromstring(made)
    charts = [each for each in root.iter() if each.tag.endswith("}svg")][1:]
    assert len(charts) == 2 and [chart.get("y") for chart in charts] == ["0", "116"]
    assert {each.get("cx") for each in root.iter() if each.tag.endswith("circle")} == {"22"}
    assert b"var(" not in made and COLOURS[LIGHT]["a"].encode() in made
    assert any(each.text == "ε & more" for each in root.iter())
    assert drawing(Screen(["No."], "<p>words</p>", "", ())) == b""


def test_without_kaleido_or_a_browser_one_sentence_says_what_to_do(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "kaleido", None)
    command = f"{sys.executable} -m pip install kaleido"
    with pytest.raises(UserError, match=re.escape(command)):
        printing.printed(two(), "pdf")
    assert not printing.able()
    monkeypatch.undo()
    chrome = printing.load("choreographer.browsers.chromium").Chromium
    monkeypatch.setattr(chrome, "find_browser", lambda **_: None)
    assert not printing.able()
    with pytest.raises(UserError, match=r"Chrome or Chromium.* BROWSER_PATH"):
        printing.printed(for_paper(two()), "pdf")


def test_the_command_says_that_kaleido_is_missing_before_it_measures(monkeypatch, capsys) -> None:
    monkeypatch.setitem(sys.modules, "kaleido", None)
    monkeypatch.setattr(figure, "_measured", lambda *_: pytest.fail("It measured first."))
    run = "digits-pgd-at-small-resnet-s0-0c56e5c2"
    assert cli.main(["figure", run, "attack", "--out", "f.pdf", "--width", "84mm"]) == 1
    assert f"{sys.executable} -m pip install kaleido" in capsys.readouterr().err


def test_what_is_no_kind_of_file_is_one_sentence() -> None:
    with pytest.raises(UserError, match="pdf, svg, png"):
        printing.write(two(), "figure.gif")


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (["nonsense"], "There is no figure 'nonsense'; there are images, accuracy_curve"),
        (["features", "--out", "f.gif"], "ends in .pdf, .svg, .png"),
        (["features", "--set", "m=3"], "There is no setting 'm'"),
        (["nonsense"], "a page's name gives its first figure: attack, "),
        (["images", "--out", "f.pdf"], "Pictures are written as .png"),
        (
            ["images", "--width", "84mm", "--size", "9"],
            "Pictures have their own sizes in pixels, so leave out --width and --size",
        ),
        (["features", "--palette", "rainbow", "--out", "f.pdf"], "rainbow"),
    ],
)
def test_the_command_says_what_it_cannot_do(given, says, capsys, monkeypatch, tmp_path) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(["figure", "digits-pgd-at-small-resnet-s0-0c56e5c2", *given]) == 2
    assert says in capsys.readouterr().err and not list(tmp_path.iterdir())


def test_the_command_writes_image_strips(capsys, tmp_path, runs_home) -> None:
    out = tmp_path / "strip.png"
    run = "digits-pgd-at-small-resnet-s0-0c56e5c2"
    asked = ["figure", run, run, "images", "--out", str(out), "--set", "index=3", "--json"]
    assert cli.main(asked) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["out"] == [str(out), str(tmp_path / "strip-x8.png")]
    wide = [Image.open(io.BytesIO(Path(file).read_bytes())).width for file in facts["out"]]
    assert wide[1] == 8 * wide[0]


def test_the_command_draws_as_many_networks_as_it_names(monkeypatch) -> None:
    run = folder.open_run("digits-pgd-at-small-resnet-s0-0c56e5c2")
    monkeypatch.setattr("robustviz.views.measure.measure", lambda run, spec: spec)
    drawn = figure._measured([run] * 9, AccuracyCurveSpec())
    assert [name.partition(" ")[0] for name in drawn] == list("ABCDEFGHI")
    with pytest.raises(UserError, match="at most 26 networks, and got 27"):
        figure._measured([run] * 27, AccuracyCurveSpec())
