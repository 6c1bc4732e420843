"""Tests data sets of the user's own: their names, tables of pictures, functions that make a data
set, and the messages before a training.
"""

from __future__ import annotations

import json
import unicodedata
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from robustviz import cli, data, memory, nets
from robustviz.attacks import PGD
from robustviz.data import Folder, own
from robustviz.registry import encode
from robustviz.runs import folder as runs
from robustviz.training.config import TrainConfig
from robustviz.training.evaluation import Evaluation, by_class
from robustviz.types import UserError
from robustviz.ui import networks
from robustviz.views.measure import measure
from robustviz.views.misalignment.result import StagesSpec

SIZE = 8


def fill(place: Path, n: int, red: int) -> Path:
    """Creates a folder of `n` different pictures with the given amount of red."""
    place.mkdir(parents=True)
    rng = np.random.default_rng(red)
    for k in range(n):
        pixels = rng.integers(0, 60, (SIZE, SIZE, 3)).astype(np.uint8)
        pixels[..., 0] += np.uint8(red)
        Image.fromarray(pixels).save(place / f"{k}.png")
    return place


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    """Creates two classes of 20 pictures."""
    fill(tmp_path / "pets" / "cat", 20, 10)
    fill(tmp_path / "pets" / "dog", 20, 180)
    return tmp_path / "pets"


@pytest.fixture
def here(tmp_path: Path, runs_home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Makes a temporary folder the working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def said(words: list[str], capsys: pytest.CaptureFixture[str], code: int = 0) -> str:
    """Returns what a command prints, or its error message if it fails."""
    capsys.readouterr()
    assert cli.main(words) == code
    out, err = capsys.readouterr()
    return err if code else out


# Names.


def test_a_name_stands_for_the_folder_wherever_it_is_asked_for(pets: Path, here: Path) -> None:
    added = own.add("my-pets", Folder(path="pets", size=SIZE), "Two classes.")
    assert added.asked == encode(Folder(path=str(pets), size=SIZE)) and not added.uploaded
    found = data.source("my-pets")
    assert found == Folder(path=str(pets), size=SIZE, name="my-pets") == own.resolve("my-pets")
    assert list(own.every()) == ["my-pets"] and own.every()["my-pets"].card == "Two classes."
    assert TrainConfig(data="my-pets").run_id.startswith("my-pets-pgd-at-small-resnet-s0-")


def test_the_name_changes_nothing_about_runs_without_one() -> None:
    """Runs on folders have the same ids as before data sets could have names."""
    config = TrainConfig.make(None, {"data": "folder:/a/b"})
    assert config.run_id == "folder-pgd-at-small-resnet-s0-f446f1c1"
    shipped = "digits-pgd-at-small-resnet-s0-0c56e5c2"
    assert runs.open_run(shipped).config.run_id == shipped


def test_paths_are_resolved_when_a_run_is_made(pets: Path, here: Path) -> None:
    config = TrainConfig(data=Folder(path="pets", size=SIZE)).on_this_machine(runs.find_run)
    assert config.data == Folder(path=str(pets), size=SIZE)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("Pets", "is not a valid name"),
        ("../x", "is not a valid name"),
        ("a" * 33, "is not a valid name"),
        ("猫", "is not a valid name"),
        ("digits", "comes with robustviz"),
        ("made", "comes with robustviz"),
        ("pets", "already"),
    ],
)
def test_a_name_that_cannot_be_is_refused(pets: Path, here: Path, name: str, says: str) -> None:
    own.add("pets", Folder(path=str(pets)))
    with pytest.raises(UserError, match=says):
        own.add(name, Folder(path=str(pets)))
    assert list(own.every()) == ["pets"]


def test_a_source_that_has_a_name_needs_none(here: Path) -> None:
    with pytest.raises(UserError, match="has its own name"):
        own.add("numbers", data.source("digits"))


def test_removing_a_name_leaves_the_pictures_and_what_was_uploaded_goes(
    pets: Path, here: Path
) -> None:
    own.add("pets", Folder(path=str(pets)))
    place = own.folder("sent") / "pictures"
    fill(place / "cat", 3, 10)
    assert own.add("sent", Folder(path=str(place))).uploaded
    own.remove("pets")
    own.remove("sent")
    assert len(list(pets.rglob("*.png"))) == 40 and not own.folder("sent").exists()
    assert own.every() == {}
    with pytest.raises(UserError, match="no data set called 'pets'"):
        own.remove("pets")


def test_a_damaged_entry_is_one_broken_folder(pets: Path, here: Path) -> None:
    own.add("good", Folder(path=str(pets)))
    for name, text in (("a", "{"), ("b", "[]"), ("c", '{"source": 3}'), ("d", '{"source": {}}')):
        own.folder(name).mkdir()
        (own.folder(name) / "source.json").write_text(text)
    assert list(own.every()) == ["good"]
    with pytest.raises(UserError, match="no data set called 'a'"):
        data.source("a")


def test_an_unknown_name_says_where_a_folder_of_that_name_lies(pets: Path, here: Path) -> None:
    with pytest.raises(UserError, match="write folder:pets"):
        data.source("pets")


# Tables of pictures.


def table(here: Path, *rows: str, head: str = "path,label,split") -> Path:
    (here / "t.csv").write_text("\n".join((head, *rows)) + "\n", encoding="utf-8")
    return here / "t.csv"


def rows_of(pets: Path) -> list[str]:
    return [
        f"pets/{name}/{k}.png,{name},{'test' if k % 4 == 0 else 'train'}"
        for name in ("cat", "dog")
        for k in range(20)
    ]


def test_a_table_says_which_picture_is_what_and_in_which_split(pets: Path, here: Path) -> None:
    source = data.Manifest(path=str(table(here, *rows_of(pets))), size=SIZE)
    split = {each: data.load(source, each) for each in data.SPLITS}
    assert {each: len(found) for each, found in split.items()} == {
        "train": 27,
        "val": 3,
        "test": 10,
    }
    assert split["test"].classes == ("cat", "dog")
    assert split["test"].names == tuple(
        f"pets/{name}/{k}.png" for name in ("cat", "dog") for k in range(0, 20, 4)
    )
    names = [name for found in split.values() for name in found.names or ()]
    assert len(set(names)) == len(names) == 40
    assert data.source("t.csv") == data.Manifest(path="t.csv")


def test_without_a_split_the_content_decides_as_in_a_folder(pets: Path, here: Path) -> None:
    bare = [row.rpartition(",")[0] for row in rows_of(pets)]
    listed = data.Manifest(path=str(table(here, *bare, head="path,label")), size=SIZE)
    for split in data.SPLITS:
        mine, theirs = data.load(listed, split), data.load(Folder(str(pets), SIZE), split)
        assert sorted(mine.names or ()) == sorted(f"pets/{name}" for name in theirs.names or ())


def test_labels_that_are_numbers_keep_their_order_and_any_script_is_a_label(here: Path) -> None:
    for label in ("2", "10", "猫", "ñandú"):
        fill(here / label, 3, 10 + len(label))
    rows = [f"{name}/{k}.png,{name}," for name in ("猫", "10", "ñandú", "2") for k in range(3)]
    source = data.Manifest(path=str(table(here, *rows)), size=SIZE)
    assert data.load(source, "train").classes == ("2", "10", "ñandú", "猫")


@pytest.mark.parametrize(
    ("rows", "head", "says"),
    [
        (["pets/cat/0.png,cat"], "file,label", r"no column path \(its columns: file, label\)"),
        (["pets/cat/0.png,cat,train"], "path,label,split", r"fewer than two labels \(cat\)"),
        (["nope.png,dog,test"], "path,label,split", "Line 3 of .* names nope.png"),
        (["pets/cat/0.png,dog,test"], "path,label,split", "Lines 2 and 3 .* same picture"),
        (["pets/dog/0.png,dog,holdout"], "path,label,split", "has the split 'holdout'"),
        (["pets/dog/0.png,dog,"], "path,label,split", "in every row, or leave"),
        (["pets/dog/0.png,,train"], "path,label,split", "lacks its path or its label"),
    ],
)
def test_a_table_that_cannot_be_used_says_which_line(
    pets: Path, here: Path, rows: list[str], head: str, says: str
) -> None:
    first = ["pets/cat/0.png,cat,train"] if "file" not in head else []
    source = data.Manifest(path=str(table(here, *first, *rows, head=head)), size=SIZE)
    with pytest.raises(UserError, match=says):
        data.load(source, "train")


def test_a_table_in_another_encoding_is_one_sentence(here: Path) -> None:
    (here / "t.csv").write_bytes("path,label\nä.png,b\n".encode("latin1"))
    with pytest.raises(UserError, match="it is not in UTF-8"):
        data.load(data.Manifest(path=str(here / "t.csv")), "train")


# Functions that make a data set.

CODE = """
import numpy as np

def make(split):
    n = {"train": 30, "test": 12}.get(split)
    if n is None:
        return None
    y = np.arange(n) % 3
    return np.full((n, 8, 8), 0.25) + 0.25 * y[:, None, None], y, ["low", "mid", "high"]

def channels_last(split):
    return np.arange(12 * 8 * 8 * 3).reshape(12, 8, 8, 3) % 256, np.arange(12) % 2

def odd(split):
    return np.full((4, 8, 8), 700.0), [0, 1, 0, 1]

def raises(split):
    return 1 / 0

class Items:
    classes = ["a", "b"]
    def __len__(self): return 10
    def __getitem__(self, k): return np.full((8, 8, 3), 20 * k, np.uint8), k % 2

def items(split):
    return Items()

def pairs(split):
    return [(np.full((8, 8), 20 * k, np.uint8), k) for k in range(2)]
"""


@pytest.fixture
def code(here: Path, unplugged: None) -> Path:
    (here / "mine.py").write_text(CODE)
    return here / "mine.py"


def test_a_function_is_called_only_where_a_person_named_it(
    code: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = data.source("mine.py:make").placed()
    assert source == data.Made(make=f"{code}:make")
    with pytest.raises(UserError, match=r"--plugin .*mine\.py"):
        data.load(source, "test")
    added = said(["data", "add", "mine.py:make", "--name", "synth"], capsys)
    assert "synth" in added and "They are rounded to 256 grey levels." in added
    made = data.load("synth", "test")
    assert made.classes == ("low", "mid", "high") and made.images.shape == (12, 1, 8, 8)
    assert made.images.unique().tolist() == [64, 128, 191]
    assert [len(data.load("synth", split)) for split in data.SPLITS] == [27, 3, 12]


def test_what_a_function_gives_is_read_or_refused(
    code: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # Adding the data set loads its code.
    said(["data", "add", "mine.py:make", "--name", "x"], capsys)
    wide = data.load(data.Made(make=f"{code}:channels_last"), "test")
    assert wide.images.shape == (12, 3, 8, 8) and wide.images[0, :, 0, 1].tolist() == [3, 4, 5]
    items = data.load(data.Made(make=f"{code}:items"), "test")
    assert "rounded" not in wide.card + items.card
    assert items.classes == ("a", "b") and items.images[9].unique().tolist() == [180]
    pairs = data.load(data.Made(make=f"{code}:pairs"), "test")
    assert pairs.y.tolist() == [0, 1] and pairs.images[:, 0, 0, 0].tolist() == [0, 20]
    for name, says in (
        ("odd", "run from 700 to 700"),
        ("raises", "raised ZeroDivisionError for the split test: division by zero"),
        ("nope", "has no function called nope"),
    ):
        with pytest.raises(UserError, match=says):
            data.load(data.Made(make=f"{code}:{name}"), "test")


# Messages before a training.


def test_a_folder_one_level_too_high_names_the_one_that_is_meant(pets: Path, here: Path) -> None:
    (here / "all").mkdir()
    pets.rename(here / "all" / "pets")
    with pytest.raises(UserError, match=r"one level too high.*Name .*all.pets\."):
        data.load(Folder(str(here / "all"), SIZE), "train")
    fill(here / "all" / "more" / "cat", 4, 20)
    # Two folders of the same classes, so these folders may be the classes that were meant.
    fill(here / "all" / "more" / "dog", 4, 30)
    card = data.load(Folder(str(here / "all"), SIZE), "train").card
    assert "holds the folders cat, dog: if those are the classes" in card


def test_splits_below_the_classes_are_refused_for_nothing_keeps_them_apart(here: Path) -> None:
    for name in ("cat", "dog"):
        for split in ("train", "test"):
            fill(here / "pets" / name / split, 3, len(name + split))
    with pytest.raises(UserError, match=r"contains train and test.*put these folders above"):
        data.load(Folder(str(here / "pets"), SIZE), "train")


def test_a_set_with_splits_that_lies_one_level_below_is_named(here: Path) -> None:
    for split in ("train", "test"):
        for name in ("cat", "dog"):
            fill(here / "all" / "pets" / split / name, 3, len(name + split))
    with pytest.raises(UserError, match=r"one level too high.*Name .*all.pets\."):
        data.load(Folder(str(here / "all"), SIZE), "train")


def test_train_without_a_test_is_said(pets: Path, here: Path) -> None:
    (here / "set").mkdir()
    pets.rename(here / "set" / "train")
    with pytest.raises(UserError, match="neither test nor val"):
        data.load(Folder(str(here / "set"), SIZE), "train")


def test_classes_of_very_unequal_size_are_said_on_the_card(pets: Path) -> None:
    assert "unequal" not in data.load(Folder(str(pets), SIZE), "train").card
    fill(pets / "emu", 3, 90)
    assert "(dog 15, emu 1)" in Folder(str(pets), SIZE).load("train").card


def test_an_accent_is_one_character_and_two_classes_that_look_alike_are_refused(pets: Path) -> None:
    one, two = (unicodedata.normalize(form, "pingüino") for form in ("NFC", "NFD"))
    fill(pets / two, 5, 70)
    assert data.load(Folder(str(pets), SIZE), "train").classes == ("cat", "dog", one)
    fill(pets / one, 5, 75)
    with pytest.raises(UserError, match="would both be shown as pingüino"):
        Folder(str(pets), SIZE).load("train")


# The command line.


def test_the_command_adds_lists_and_removes(
    pets: Path, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    add = ["data", "add", "folder:pets", "--name", "mine", "--set", f"size={SIZE}", "--json"]
    told = json.loads(said(add, capsys))
    assert told["source"]["path"] == str(pets) and told["name"] == "mine"
    assert sum(map(sum, (each.values() for each in told["counts"].values()))) == 40
    assert "mine" in said(["data", "list"], capsys) and "mine" in said(["list", "data"], capsys)
    assert "already" in said(add, capsys, code=1)
    assert str(pets) in said(["data", "remove", "mine"], capsys)
    assert said(["data", "list", "--json"], capsys).strip() == "[]"


@pytest.mark.parametrize(
    ("words", "says", "code"),
    [
        (["add"], "needs what to add", 2),
        (["add", "folder:pets"], "Give the data set a name", 2),
        (["add", "folder:nope", "--name", "x"], "does not exist", 1),
        (["add", "digits", "--name", "x"], "has its own name", 1),
        (["remove", "nope"], "no data set called 'nope'", 1),
    ],
)
def test_wrong_usage_is_one_line(
    here: Path,
    pets: Path,
    words: list[str],
    says: str,
    code: int,
    capsys: pytest.CaptureFixture[str],
) -> None:
    line = said(["data", *words], capsys, code=code)
    assert says in line and line.count("\n") == 1 and own.every() == {}


# A run on own data.


@pytest.fixture
def run(pets: Path, here: Path) -> runs.Run:
    """Creates a run on the pets with a new network."""
    own.add("pets", Folder(path=str(pets), size=SIZE))
    config = TrainConfig(data="pets", method="standard", net="small_cnn")
    images = {"classes": 2, "channels": 3, "size": SIZE, "names": ["cat", "dog"]}
    made = runs.create(config, found={"images": images})
    torch.manual_seed(0)
    net = nets.build("small_cnn", classes=2, channels=3, size=SIZE)
    made.save_weights("net.safetensors", net.state_dict())
    made.set_status(state="done")
    return runs.open_run(made.id)


def test_a_run_goes_by_the_name_as_long_as_that_means_its_images(run: runs.Run, pets: Path) -> None:
    assert run.id.startswith("pets-standard-") and run.data_name == "pets"
    assert networks.data_name(run) == "pets"
    own.remove("pets")
    assert networks.data_name(run).startswith("pets-")
    own.add("pets", Folder(path=str(pets.parent), size=SIZE))
    assert networks.data_name(run).startswith("pets-")


def test_images_that_moved_are_named_and_give_the_same_answers(
    run: runs.Run, pets: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("robustviz.training.evaluate.examine", lambda *given: ())
    before = json.loads(said(["evaluate", run.id, "--steps", "2", "--json"], capsys))
    pets.rename(pets.with_name("moved"))
    memory.WORKING.clear()
    assert "use --data" in said(["evaluate", run.id, "--steps", "3"], capsys, code=1)
    there = f"folder:{pets.with_name('moved')}"  # The image size is the run's.
    again = json.loads(
        said(["evaluate", run.id, "--steps", "2", "--data", there, "--json"], capsys)
    )
    same = ("images", "clean_right", "robust_right", "by_class", "key")
    assert {name: before[name] for name in same} == {name: again[name] for name in same}
    with pytest.raises(UserError, match="does not exist"):
        measure(run, StagesSpec())
    out = ["--out", str(pets.parent / "o.npz"), "--set", "n=4"]
    said(["probe", run.id, "stages", "--data", there, *out], capsys)
    assert (pets.parent / "o.npz").exists() and not (run.path / "probes").exists()


def test_other_classes_are_no_place_that_images_moved_to(
    run: runs.Run, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = said(["evaluate", run.id, "--data", "digits"], capsys, code=1)
    assert "These images have the classes 0, 1, 2" in line and "trained on cat, dog" in line


# Balanced accuracy.


def test_each_class_counts_alike() -> None:
    y = np.array([0] * 8 + [1] * 2)
    clean = np.array([True] * 8 + [True, False])
    robust = np.array([True] * 6 + [False] * 4)
    rows = by_class(y, clean, robust, 3)
    assert rows == ((8, 8, 6), (2, 1, 0), (0, 0, 0))
    found = Evaluation({"key": "pgd", "steps": 20}, 0.1, 10, 9, 6, 0, "test", 1.0, "cpu")
    assert found.balanced is None and found.classwise(("a", "b", "c")) == ""
    counted = Evaluation.from_json({**found.to_json(), "by_class": json.loads(json.dumps(rows))})
    assert counted.by_class == rows and counted.balanced == (0.75, 0.375)
    assert "least robust classes: b 0/2, a 6/8" in counted.classwise(("a", "b", "c"))
    assert counted.to_json()["balanced_robust_acc"] == 0.375
    for wrong in ([[1, 2, 0]], [[1, 1, "0"]], [[1, 1]], [[True, 1, 1]], 3):
        with pytest.raises(UserError, match="damaged"):
            Evaluation.from_json({**found.to_json(), "by_class": wrong})


# Various small tests.


def test_the_settings_of_a_method_are_listed_as_train_takes_them(
    capsys: pytest.CaptureFixture[str],
) -> None:
    lines = said(["list", "methods", "trades"], capsys).splitlines()
    typed = [line.partition("  ")[0].split("=") for line in lines]
    assert ["method.beta", "6"] in typed and ["method.attack.targeted", "false"] in typed
    sets = [(path, value) for path, value in typed if value]
    config = TrainConfig.make(None, {"method": "trades"}, sets)
    assert config == TrainConfig(method="trades")
    assert any(line.startswith("method.beta=6  [0 to 100] ") for line in lines)


def test_what_other_libraries_call_a_setting_is_known_here() -> None:
    for theirs, ours in (("alpha", "step_size"), ("epsilon", "eps"), ("num_steps", "steps")):
        with pytest.raises(TypeError, match=f"Did you mean {ours}"):
            PGD(**{theirs: 0.1})


def test_an_unknown_run_names_the_nearest_five(
    runs_home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = said(["evaluate", "digits-trades"], capsys, code=1)
    assert "Did you mean digits-trades-small-resnet" in line
    assert line.count("small-resnet") <= 7 and " others." in line


def test_a_label_is_given_when_a_run_is_made(runs_home: Path) -> None:
    config = TrainConfig(data="digits", method="standard", net="small_cnn")
    first = runs.create(config, found={"label": "Mine <b>"})
    assert (
        first.label == "Mine ‹b›" and runs.create(config, found={"label": "No"}).label == "Mine ‹b›"
    )
