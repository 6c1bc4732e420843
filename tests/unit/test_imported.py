"""Tests imported networks as runs: they are rebuilt exactly, get inputs scaled as in their
training, and are refused with one sentence if anything does not fit.
"""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from robustviz import cli, data, import_run, nets, open_run, plugins, registry, trusted
from robustviz.cli.evaluate import _doubt
from robustviz.nets import known
from robustviz.nets.wrapped import wrap
from robustviz.runs import folder, origin, readings
from robustviz.runs.folder import Run
from robustviz.runs.naming import architecture, labels
from robustviz.training.evaluate import evaluate
from robustviz.types import UserError
from robustviz.ui import networks

CODE = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, classes, channels):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(channels, 8, 3, 1, 1), nn.BatchNorm2d(8), nn.ReLU())
        self.out = nn.Linear(8, classes)

    def forward(self, x):
        return self.out(self.body(x).mean((2, 3)))

class Noisy(Net):
    def forward(self, x):
        return super().forward(x) + torch.randn(len(x), 1)

def make(classes, channels):
    return Net(classes, channels)

def noisy(classes, channels):
    return Noisy(classes, channels)

def broken():
    raise RuntimeError("no <b>luck</b>")

def nothing():
    return 5
"""


@pytest.fixture
def code(tmp_path: Path, runs_home: Path, unplugged: None) -> Path:
    """Writes a file with functions that build networks, and returns its path."""
    path = tmp_path / "theirs.py"
    path.write_text(CODE, encoding="utf-8")
    return path


def theirs(code: Path, channels: int = 1) -> nn.Module:
    torch.manual_seed(0)
    made: nn.Module = plugins.resolve(f"{code}:make")(10, channels)
    return made.eval()


def ordinary(data_key: str) -> Run:
    every = (run for run in folder.all_runs() if run.data_key == data_key and run.ordinary)
    return next(run for run in every if run.architecture == "small_cnn" or data_key == "digits")


@pytest.mark.long
def test_a_module_is_made_again_by_what_makes_it(code: Path) -> None:
    net = theirs(code)
    run = import_run(net, data="digits", model=f"{code}:make", label="Mine", reading="raw", n=20)
    x = data.load("digits", "test").take(5).x
    again = open_run(run.id).net()
    assert torch.equal(again(x), net(x)) and not again.training
    parts = again.parts(x)
    assert parts.maps.shape == (5, 8, 8, 8) and torch.equal(parts.logits, net(x))
    assert run.status()["state"] == "imported" and run.imported and run.label == "Mine"
    assert labels([run]) == ["Mine"] and architecture(run) == "theirs.py:make"
    assert networks.label(run).startswith("Mine · theirs.py:make · ")
    assert run.id in networks.trained() and run.method_key not in registry.keys("method")
    assert "epochs" not in run.info and run.config.method.key == "imported"
    assert evaluate(run, n=20).n == 20 and run.evaluation() is not None


def test_the_code_that_makes_it_is_trusted_only_as_it_was(code: Path) -> None:
    run = import_run(theirs(code), data="digits", model=f"{code}:make", reading="raw", n=20)
    assert trusted.every()[str(code)]["sha256"] == run.info["network"]["sha256"]
    assert run.lacks == "" and run.info["plugins"][0]["source"] == str(code)


def test_nothing_is_imported_because_a_folder_says_so(code: Path) -> None:
    run = import_run(theirs(code), data="digits", model=f"{code}:make", reading="raw", n=20)
    info = json.loads((run.path / "config.json").read_text())
    ran = code.with_name("ran")
    other = code.with_name("other.py")
    other.write_text(f"open({str(ran)!r}, 'w')\ndef make(): pass\n")
    info["network"] |= {"source": f"{other}:make", "sha256": "0" * 64}
    for code_of in (info.get("plugins"), []):
        info["plugins"] = code_of
        (run.path / "config.json").write_text(json.dumps(info))
        with pytest.raises(UserError, match=r"needs the plug-in .*other.py"):
            Run(run.path).net()
    assert not ran.exists()


@pytest.mark.long
@pytest.mark.parametrize("reading", ["raw", "half"])
def test_the_reading_that_answers_best_is_found(runs_home: Path, reading: str) -> None:
    """Moves a shipped network for shapes from its own normalisation to another one. Colours in
    shapes carry no information, so the blue-first reading is equally good and cannot be told apart.
    """
    net = ordinary("shapes").net()
    one = readings.named(reading, 3)
    layer = readings.normalise_of(net)
    first = next(part for part in net.modules() if isinstance(part, nn.Conv2d))
    # Rewrites conv((x − m)/s) as another convolution of (x − m')/s'. Only the border differs.
    with torch.no_grad():
        mean, std = (
            torch.tensor(each or [usual] * 3).view(1, 3, 1, 1)
            for each, usual in ((one.mean, 0.0), (one.std, 1.0))
        )
        shift = (mean - layer.mean) / layer.std
        first.bias = nn.Parameter((first.weight * shift).sum((1, 2, 3)))
        first.weight.mul_(std / layer.std)
    layer.mean.zero_()
    layer.std.fill_(1)
    split = data.load("shapes", "test").take(120)
    found = readings.likely(net, split.x, split.y, 10)
    assert found.reading == one and not found.clear, found.lines
    assert found.text.startswith(f"Unclear: {reading}, bgr-{reading} cannot be told apart")
    assert (layer.mean == 0).all() and (layer.std == 1).all()  # The layer is as it was.


def test_blue_first_is_found_where_colour_tells() -> None:
    rng = torch.Generator().manual_seed(0)
    y = torch.arange(90) % 3
    x = 0.4 * torch.rand((90, 3, 4, 4), generator=rng)
    x[torch.arange(90), 2 - y] += 0.5  # Class 0 is blue and class 2 is red.
    head = nn.Linear(3, 3, bias=False)
    head.weight = nn.Parameter(torch.eye(3))
    net = nets.Classifier(readings.Normalise(3, None, None), head)
    found = readings.likely(net, x, y, 3)
    assert found.reading.flip and found.clear and found.reading.name.startswith("bgr-"), found.lines
    assert "is the best of those tried: 90 of 90 right" in found.text


def test_the_images_own_statistics_are_found_only_where_they_are_clearly_better() -> None:
    y = torch.arange(90) % 3
    x = (0.48 + 0.02 * y).view(90, 1, 1, 1).expand(90, 1, 4, 4)
    head = nn.Linear(1, 3)  # of the value v: class 0 below −0.5, class 2 above 0.5
    head.weight = nn.Parameter(torch.tensor([[-1.0], [0.0], [1.0]]))
    head.bias = nn.Parameter(torch.tensor([0.0, 0.5, 0.0]))
    net = nets.Classifier(readings.Normalise(1, None, None), head)
    found = readings.likely(net, x, y, 3)
    assert (found.reading.name, found.reading.mean, found.clear) == ("data", (0.5,), True)
    assert "data is the best of those tried: 90 of 90 right" in found.text
    head.bias = nn.Parameter(torch.tensor([0.0, 5.0, 0.0]))  # then no reading is better
    assert "data" not in readings.likely(net, x, y, 3).right
    none = readings._verdict({readings.Reading("raw"): np.zeros(90, bool)}, 3)
    assert "the order of the classes (likely: so few are right)" in none.text


def test_a_network_that_reads_blue_first_becomes_one_of_ours(runs_home: Path) -> None:
    net = ordinary("shapes").net()
    state = dict(net.state_dict())
    conv = next(name for name, value in state.items() if value.ndim == 4 and value.shape[1] == 3
                and value.shape[2] > 1)  # fmt: skip
    state[conv] = state[conv].flip(1)
    mean = state.pop("maps.0.mean").flatten().tolist()
    std = state.pop("maps.0.std").flatten().tolist()
    half = readings.named("bgr-half", 3)
    x = data.load("shapes", "test").take(8).x
    run = import_run(state, data="shapes", model="small_cnn", reading="bgr-half", n=20)
    expected = nets.build("small_cnn", 10, 3, 32, half.mean, half.std)
    expected.load_state_dict(state | {k: v for k, v in expected.state_dict().items()
                                      if k.startswith("maps.0.")})  # fmt: skip
    torch.testing.assert_close(run.net()(x), expected.eval()(x.flip(1)))
    assert run.net().parts(x).maps.shape[1] == expected.maps(x).shape[1] and len(mean) == len(std)
    assert run.info["network"]["flip"] and run.info["network"]["maps"] == "net.maps"


def test_what_cannot_be_told_apart_is_said(runs_home: Path) -> None:
    said: list[object] = []
    net = nets.build("small_cnn", 10, 1, 8)
    run = import_run(net, data="digits", n=40, say=said.append)
    assert "Unclear: no reading is better than chance" in str(said[-1])
    assert "No others were tried. If you know yours, give mean and std" in str(said[-1])
    assert run.info["network"]["reading"] == "raw"
    hits = {readings.Reading("a"): [True] * 30 + [False] * 10,
            readings.Reading("b"): [True] * 29 + [False] * 11,
            readings.Reading("c"): [False] * 40}  # fmt: skip
    verdict = readings._verdict({one: np.array(each) for one, each in hits.items()}, 10)
    assert not verdict.clear and "Unclear: a, b cannot be told apart on 40 images" in verdict.text


def test_a_network_that_is_mostly_wrong_is_asked_for_its_normalisation(
    runs_home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said: list[object] = []
    net = nets.build("small_cnn", 10, 1, 8)
    run = import_run(net, data="digits", reading="raw", n=40, say=said.append)
    assert "That is less than half: do mean, std and the order of the classes fit?" in str(said[-1])
    assert cli.main(["evaluate", run.id, "--n", "20", "--attack", "fgsm"]) == 0
    asks = "of 20 untouched images are right. Do its mean, std and order of classes fit? See docs/"
    assert asks in capsys.readouterr().out
    said.clear()
    right = import_run(ordinary("digits").net(), data="digits", n=40, say=said.append)
    assert str(said[-1]).endswith(" of 40 right.")
    order = "are taken for 0, 1, 2, 3, 4, 5, 6, 7, 8, …, in this order."
    assert any("handwritten digits" in str(one) and order in str(one) for one in said)
    assert cli.main(["evaluate", right.id, "--n", "20", "--attack", "fgsm"]) == 0
    assert "untouched images are right. Do" not in capsys.readouterr().out
    for hits, classes, doubted in ((16, 10, True), (45, 100, False), (60, 2, True), (90, 2, False)):
        rows = ((100 // classes, 0, 0),) * classes
        found: Any = SimpleNamespace(clean_k=hits, n=100, by_class=rows)
        assert bool(_doubt(right, found)) == doubted, (hits, classes)


def test_messages_name_the_data_as_its_user_does(code: Path) -> None:
    made = code.with_name("seven.py")
    made.write_text(
        "import torch\ndef make(split):\n"
        "    return torch.zeros(70, 8, 8), torch.arange(70) % 7, list('abcdefg')\n",
        encoding="utf-8",
    )
    plugins.take([str(made)])
    data.own.add("sevens", data.Made(make=f"{made}:make"))
    assert data.load("sevens", "test").key == "sevens"
    code.write_text(f"{CODE}\ndef fixed():\n    return Net(10, 1)\n", encoding="utf-8")
    net = plugins.resolve(f"{code}:fixed")()
    said = "This network has 10 classes, but sevens has 7"
    refused(net, said, model=f"{code}:fixed", data="sevens")
    said = " Its first convolution takes 1 channel; shapes has 3."
    refused(net, said, model=f"{code}:fixed", data="shapes")


def test_what_a_network_says_is_told_also_if_its_first_convolution_is_not_its_entry() -> None:
    class Late(nn.Module):
        def __init__(self, spare: int) -> None:
            super().__init__()
            self.spare = nn.Conv2d(spare, 4, 1)  # first to be registered, last to be used
            self.body = nn.Conv2d(3, spare, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.spare(self.body(x)).mean((2, 3)).reshape(7, -1, 7)

    for spare, more in ((5, " Its first convolution takes 5 channels; shapes has 3."), (3, "")):
        with pytest.raises(UserError) as error:
            origin.looked_into(origin.Found(Late(spare), "mine"), (10, 3, 32), print, "shapes")
        said = str(error.value)
        assert "invalid for input of size" in said and said.endswith(
            more or "give the size with size=…"
        )


def test_weights_say_what_they_are_of(runs_home: Path, tmp_path: Path) -> None:
    run = ordinary("digits")
    state = {f"module.{name}": value for name, value in run.net().state_dict().items()}
    torch.save({"epoch": 3, "model": state}, tmp_path / "F.pth")
    said: list[object] = []
    again = import_run(tmp_path / "F.pth", data="digits", name="twin", say=said.append, n=50)
    assert f"The weights fit nets:{run.architecture}." in said
    x = data.load("digits", "test").take(9).x
    torch.testing.assert_close(again.net()(x), run.net()(x))
    # The imported network already contains its normalisation.
    assert again.info["network"]["reading"] == "as given"
    with pytest.raises(UserError, match="A run named twin exists"):
        import_run(tmp_path / "F.pth", data="digits", name="twin")


def refused(net: Any, said: str, **asked: Any) -> None:
    with pytest.raises(UserError) as error:
        import_run(net, **{"data": "digits", "n": 20, **asked})
    assert said in str(error.value), str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.long
def test_what_does_not_fit_is_one_sentence_and_leaves_nothing(code: Path) -> None:
    net = theirs(code)
    refused(net, "can only be kept with the code that makes it: name that with model=…")
    refused(net, "raised RuntimeError: no ‹b›luck‹/b›", model=f"{code}:broken")
    refused(net, "returned a int, but must return an nn.Module", model=f"{code}:nothing")
    refused(net, "has no function called absent", model=f"{code}:absent")
    refused(
        net.state_dict(),
        "different logits for the same images",
        model=f"{code}:noisy",
        reading="raw",
    )
    refused(net, "do not fit nets:small_cnn", model="small_cnn")
    refused(net.state_dict(), "fits no network of robustviz")
    refused(net, "has a network called 'resnet3'", model="resnet3")
    refused(net, "torchvision has no network called 'none'", model="torchvision:none")
    refused(net, "no reading 'bgr' for images of 1 channels", model=f"{code}:make", reading="bgr")
    refused(net, "mean has 2 numbers", model=f"{code}:make", mean=[0.5, 0.5])
    refused(net, "all numbers must be above 0", model=f"{code}:make", std=[0.0])
    refused(net, "classes names 2 classes", model=f"{code}:make", classes=["a", "b"])
    refused(net, "no run id", model=f"{code}:make", name="No Id")
    refused(net, "no layer called 'bodx'", model=f"{code}:make", maps="bodx")
    state = theirs(code).state_dict() | {
        "out.weight": torch.zeros(7, 8),
        "out.bias": torch.zeros(7),
    }
    refused(state, "has 7 classes, but 10 are needed", model=f"{code}:make")
    order = list(data.load("digits", "test").classes)[::-1]
    refused(net, "another order than the data's", model=f"{code}:make", classes=order)
    order[-1] = "zero"  # one name of the reader's own does not hide that the others are moved
    refused(net, "another order than the data's", model=f"{code}:make", classes=order)
    assert not [run.id for run in folder.all_runs() if not run.shipped]
    home = folder.home()
    assert not home.exists() or not [
        path for path in home.iterdir() if path.name != ".plugins.json"
    ]


def test_a_wrapped_network_keeps_how_it_is_looked_into(code: Path) -> None:
    net = wrap(theirs(code), maps="body.0", mean=[0.3], std=[0.4], shape=(1, 8, 8))
    run = import_run(net, data="digits", model=f"{code}:make", n=20)
    x = data.load("digits", "test").take(3).x
    torch.testing.assert_close(run.net()(x), net(x))
    torch.testing.assert_close(run.net().parts(x).maps, net.parts(x).maps)
    assert run.info["network"]["maps"] == "body.0"


def test_random_twins_keep_the_normalisation(runs_home: Path) -> None:
    from robustviz.views.attention.maps import random_nets

    run = import_run(nets.build("small_cnn", 10, 1, 8, [0.3], [0.2]), data="digits", n=20)
    (twin,) = random_nets(run, 1, 0)
    assert torch.equal(readings.normalise_of(twin).mean, readings.normalise_of(run.net()).mean)
    name = next(
        name for name, value in twin.state_dict().items() if value.ndim == 4 and value.numel() > 9
    )
    assert not torch.equal(twin.state_dict()[name], run.net().state_dict()[name])


def test_a_folder_that_says_nonsense_of_its_network_is_one_sentence(runs_home: Path) -> None:
    run = import_run(nets.build("small_cnn", 10, 1, 8), data="digits", reading="raw", n=20)
    info = json.loads((run.path / "config.json").read_text())
    for network, said in (
        (None, "does not describe its network"),
        ({"source": "timm:hf-hub:x/y"}, "timm has no network called"),
        ({"source": "nets:none"}, "There is no net called"),
        ({"source": 5}, "damaged"),
        ({"source": "nets:small_cnn", "size": 10**9}, "out of range"),
        ({"source": "nets:small_cnn", "logits": [1]}, "out of range"),
        ({"source": "nets:small_cnn", "maps": "nowhere"}, "no layer called"),
    ):
        new = {k: v for k, v in info.items() if k != "network"}
        (run.path / "config.json").write_text(
            json.dumps(new if network is None else new | {"network": network})
        )
        with pytest.raises(UserError, match=said):
            Run(run.path).net()
    assert known.is_code("timmy:x") and not known.is_code("timm:x")


def test_the_command_line_imports_and_sends(
    code: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save({"model": theirs(code).state_dict()}, tmp_path / "F.pth")
    asked = ["--weights", str(tmp_path / "F.pth"), "--data", "digits", "--reading", "raw"]
    made = ["--model", f"{code}:make", "--label", "Mine", "--name", "mine", "--n", "20"]
    assert cli.main(["import", *asked, *made, "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert (answer["id"], answer["label"], answer["source"]) == ("mine", "Mine", f"{code}:make")
    file = str(tmp_path / "mine.zip")
    assert cli.main(["run", "export", "mine", "--out", file, "--json"]) == 0
    assert cli.main(["run", "import", file, "--name", "twin", "--json"]) == 0
    x = data.load("digits", "test").take(3).x
    assert torch.equal(open_run("twin").net()(x), open_run("mine").net()(x))
    assert cli.main(["train", "--method", "imported", "--data", "digits"]) == 2
    assert cli.main(["resume", "mine"]) == 2
    assert "not trained: choose a method" in (said := capsys.readouterr().err)
    assert "was imported" in said and len(folder.of_user()) == 2
