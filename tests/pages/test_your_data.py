"""Tests the Your data page: images are uploaded, checked, kept, trained on, attacked and
removed.
"""

from __future__ import annotations

import io
import pickle  # noqa: TID251 - what must not be read
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save

from robustviz.data import own, singles
from robustviz.data.sent import packed
from robustviz.runs import folder as runs
from robustviz.ui import guard, networks
from robustviz.views.attack.result import AttackLevelsSpec
from robustviz.views.measure import measure
from tests.pages.conftest import ordinary, words

RNG = np.random.default_rng(0)


def picture() -> bytes:
    out = io.BytesIO()
    Image.fromarray(RNG.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(out, "PNG")
    return out.getvalue()


def photos(**files: bytes) -> tuple[str, bytes, str]:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name in [f"{kind}/{i}.png" for kind in ("cat", "dog") for i in range(6)]:
            archive.writestr(name, picture())
        for name, content in files.items():
            archive.writestr(f"cat/{name}.png", content)
    return "My Pets.zip", out.getvalue(), "application/zip"


def sent(app, file: tuple[str, bytes, str]):
    """Uploads a file and returns the page, on which there must be no exception."""
    app.file_uploader[0].set_value(file).run()
    assert not app.exception
    return app


def press(app, label: str):
    """Presses the first button with this label and reruns the page."""
    next(button for button in app.button if button.label == label).click().run()
    assert not app.exception
    return app


def faults(app) -> str:
    return " ".join(each.value for each in app.error)


def test_a_zip_is_looked_at_kept_and_removed(visit):
    app = sent(visit("your_data"), photos(fake=b"text"))
    said = words(app)
    assert "12 pictures" in said and "cat" in said and "Split by their content" in said
    assert "fake.png (it is not a picture" in said
    assert app.text_input(key="your-name").value == "my-pets"
    press(app, "Keep them")
    assert list(own.every()) == ["my-pets"] and own.every()["my-pets"].uploaded
    assert "my-pets" in words(app) and "As the network will see them" not in words(app)
    place = own.folder("my-pets")
    app.button(key="remove-my-pets").click().run()
    app.button(key="removal").click().run()
    assert not own.every() and not place.exists()


def test_a_bad_upload_is_one_sentence_and_the_page_goes_on(visit):
    app = sent(visit("your_data"), ("x.png", b"text", "image/png"))
    assert "x.png is neither a zip nor a NumPy file" in faults(app)
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("../../evil.png", picture())
    app = sent(app, ("evil.zip", out.getvalue(), "application/zip"))
    assert "outside itself" in faults(app) and "neither" not in faults(app)
    app = sent(app, photos())
    assert not app.error and "12 pictures" in words(app)
    press(app, "Throw away")
    assert "12 pictures" not in words(app)
    assert not [path for path in own.home().rglob("*") if path.is_file()]


def test_class_by_class_and_what_should_be_known_before_training(visit):
    app = visit("your_data", bring="class")
    assert not app.file_uploader
    app.text_input(key="your-class").set_value("кот").run()
    app = sent(app, [("a.png", picture(), "image/png"), ("b.png", picture(), "image/png")])
    assert "One class is not enough" in words(app)
    app.text_input(key="your-class").set_value("pёs").run()
    app = sent(app, [("a.png", picture(), "image/png")])
    assert "2 classes" in words(app) and "accuracies will be imprecise" in words(app)


def test_the_range_doctor_undoes_a_normalisation(visit):
    x = RNG.integers(0, 256, (20, 9, 9, 3))
    normal = (x / 255 - (0.485, 0.456, 0.406)) / (0.229, 0.224, 0.225)
    out = io.BytesIO()
    np.savez(out, x=normal.astype(np.float32), y=np.arange(20) % 2)
    app = sent(visit("your_data"), ("mine.npz", out.getvalue(), ""))
    assert "already normalised as for ImageNet" in words(app)
    assert app.selectbox(key="your-reading").value == "imagenet"
    press(app, "Take them")
    assert "20 pictures" in words(app) and app.text_input(key="your-name").value == "mine"


def test_one_picture_goes_to_the_attack_page(visit):
    app = visit("your_data", bring="one")
    assert app.file_uploader[0].proto.max_upload_size_mb == 50
    content = picture()
    app = sent(app, ("me.png", content, "image/png"))
    app.selectbox(key="your-label-shapes").set_value("moon").run()
    said = words(app)
    press(app, "Attack it")
    (one,) = singles.every()
    assert (one.label, one.data, one.name) == ("moon", "shapes", "me.png")
    assert app.query_params["img"] == str(one.number)
    shares = []
    for method in ("standard", "pgd_at"):
        found = measure(ordinary("shapes", method), AttackLevelsSpec(one.number))
        best = int(found.answers[0])
        shares.append((found.meta["classes"][best], f"{found.probs[0, best]:.0%}"))
    (a, first), (b, second) = shares
    both = f"Standard and PGD-AT both predict **{a}** ({first}, {second})."
    apart = f"Standard predicts **{a}** ({first}), PGD-AT predicts **{b}** ({second})."
    assert (both if a == b else apart) in said
    app = visit("your_data")
    app.button(key=f"remove-{one.number}").click().run()
    assert not singles.every()


def test_weights_become_a_run_that_can_be_attacked(visit):
    shipped = next(run for run in runs.all_runs() if run.shipped and run.data_key == "digits")
    app = visit("your_data", bring="net")
    app.selectbox(key="your-net-data").set_value("digits").run()
    app.text_input(key="your-net-label").set_value("![x](http://evil.example/x.png)").run()
    weights = (shipped.path / "net.safetensors").read_bytes()
    app = sent(app, ("net.safetensors", weights, ""))
    assert not app.error, faults(app)
    (run,) = [run for run in runs.all_runs() if not run.shipped]
    assert run.imported and "](http" not in run.label and run.id in words(app)
    png, digest = packed(np.zeros((20, 20, 3), np.uint8))
    one = singles.add(png, digest, "earlier.png", "3", "digits")
    app.session_state["img"], app.session_state["choices"] = one.number, {"img": one.number}
    press(app, "Attack it")
    assert app.query_params["b"] == run.id
    usual = networks.default_image(app.session_state["a"], run.id)
    assert app.session_state["img"] == usual != one.number


class Evil:
    """A pickle that creates a file when it is loaded."""

    def __reduce__(self):
        return Path.touch, (Path("/tmp/robustviz-was-here"),)


def test_weights_that_run_code_or_fit_nothing_are_one_sentence(visit, tmp_path):
    app = visit("your_data", bring="net")
    torch.save({"state_dict": Evil()}, tmp_path / "evil.pt")
    app = sent(app, ("evil.pt", (tmp_path / "evil.pt").read_bytes(), ""))
    assert faults(app) and not Path("/tmp/robustviz-was-here").exists()
    for content in (pickle.dumps(Evil()), b"text", save({"w": torch.zeros(3)})):
        app = sent(app, ("![x](http://evil.example/x.png).pt", content, ""))
        assert faults(app) and "](http" not in faults(app) and len(app.error) == 1
    assert not Path("/tmp/robustviz-was-here").exists()
    assert not [run for run in runs.all_runs() if not run.shipped]
    assert not [path for path in own.home().rglob("*") if path.is_file()]


def test_one_that_is_no_picture_is_one_sentence(visit):
    app = sent(visit("your_data", bring="one"), ("me.png", b"text", "image/png"))
    assert "me.png cannot be taken: it is not a picture" in faults(app)


@pytest.mark.parametrize("mode", [{"ROBUSTVIZ_DEMO": "1"}, {"ROBUSTVIZ_MODE": "class"}])
def test_who_only_looks_uploads_nothing_and_removes_nothing(visit, monkeypatch, mode):
    own_visit = sent(visit("your_data"), photos())
    press(own_visit, "Keep them")
    monkeypatch.setattr(guard, "_invited", {})
    for name, value in mode.items():
        monkeypatch.setenv(name, value)
    app = visit("your_data", bring="one")
    assert not app.file_uploader and "may add pictures here" in words(app)
    assert not [one for one in app.button if one.label in ("Remove", "Train on it", "Keep them")]
    assert not guard._invited
    assert "my-pets" in words(app)


def test_a_server_without_room_takes_nothing(visit, monkeypatch):
    monkeypatch.setenv("ROBUSTVIZ_MOST_GB", "0")
    app = visit("your_data")
    (Path(own.home()) / "x").parent.mkdir(parents=True, exist_ok=True)
    (Path(own.home()) / "x").write_bytes(b"1")
    app = sent(app, photos())
    assert "are allowed" in faults(app) and "12 pictures" not in words(app)


@pytest.mark.parametrize("page", ["your_data", "compare"])
def test_another_page_ends_the_invitation(visit, monkeypatch, page):
    monkeypatch.setattr(guard, "_invited", {})
    app = visit(page)
    if page == "compare":
        assert not guard._invited  # Nobody has opened the drawer of cards yet.
        app.session_state["more-cards"] = True
        app.run()
    assert len(guard._invited) == 1
    app.switch_page("../../pages/glossary.py").run()
    assert not guard._invited
