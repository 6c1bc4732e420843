"""Tests the Train page: the form follows the registry, bad input gives one sentence, and every
state of a job is shown.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import shutil
import time
from pathlib import Path

import pytest

from robustviz import data, registry
from robustviz.attacks import FGSM
from robustviz.data import Dataset, Digits, Folder, Source
from robustviz.methods import PGDAT
from robustviz.registry import option
from robustviz.runs import folder as runs, naming, queue
from robustviz.training import loop
from robustviz.training.config import TrainConfig
from robustviz.training.ladder import best_ladder, headline
from robustviz.training.presets import PRESETS
from robustviz.types import UserError
from robustviz.ui import networks, rights, shell
from robustviz.ui.networks import GROUPS
from robustviz.views.screen import wordy
from robustviz.views.train import estimate, form, jobs, live
from tests.pages.conftest import ordinary, sound, words


@pytest.fixture(autouse=True)
def _folders(monkeypatch, tmp_path):
    """Allows the tests' image folders, which lie outside the home folder."""
    monkeypatch.setenv("ROBUSTVIZ_FOLDERS", os.pathsep.join(["/no/such", str(tmp_path)]))


@pytest.fixture
def no_process(monkeypatch):
    """Keeps jobs in the queue: no training process is started."""
    monkeypatch.setattr(queue, "pump", lambda: [])


@pytest.fixture
def untimed(monkeypatch):
    """Makes the time estimate check the settings as usual, but return fixed times."""

    @functools.cache
    def checked(settings: str) -> tuple[float, int]:
        loop.check(TrainConfig.from_json(json.loads(settings)))
        return 60.0, 10

    monkeypatch.setattr(estimate, "_seconds", checked)


@pytest.fixture
def submitted(monkeypatch):
    """Collects the configs that would be trained, and trains nothing."""
    seen: list[TrainConfig] = []

    def submit(config: TrainConfig) -> runs.Run:
        seen.append(config)
        return ordinary("digits", "standard")

    monkeypatch.setattr(queue, "submit", submit)
    return seen


def write_weights(folder: Path) -> None:
    """Saves untrained weights that fit the network of the run folder."""
    from safetensors.torch import save_file

    from robustviz import nets

    info = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    images = info["images"]
    net = nets.build(info["net"], images["classes"], images["channels"], images["size"])
    save_file(net.state_dict(), folder / "net.safetensors")


def test_the_form_offers_every_method_and_data_set(visit):
    app = sound(visit("train"))
    assert len(app.selectbox(key="train-method").options) == len(registry.keys("method"))
    assert len(app.selectbox(key="train-data").options) == len(registry.keys("data"))
    assert "About" in words(app)


@pytest.mark.parametrize("data", ["digits", "shapes"])
def test_each_method_has_its_form_its_words_and_a_config(visit, untimed, submitted, data):
    app = visit("train")
    app.selectbox(key="train-data").set_value(data)
    for method in registry.keys("method"):
        app.selectbox(key="train-method").set_value(method).run()
        cls = registry.get("method", method)
        assert (
            cls.text in words(sound(app)) and cls.paper in words(app) and cls.choices in words(app)
        )
        assert GROUPS[cls.group].caution in words(app) and not app.error, method
        usual = TrainConfig.make(None, {"data": data, "method": method}).on_this_machine(
            runs.find_run
        )
        go = app.button(key="train-go")
        # If the run is shipped already, the button offers the next seed.
        seed = int(go.label.split()[-1]) if go.label != "Train" else 0
        go.click().run()
        assert (
            submitted.pop().run_id == dataclasses.replace(usual, seed=seed).run_id and not submitted
        )
        sound(app)


def test_the_groups_stand_in_order_and_in_every_name(visit, untimed):
    names = visit("train").selectbox(key="train-method").options
    first = [name.split(" · ")[0] for name in names]
    assert first == sorted(first, key=[own.name for own in GROUPS.values()].index)
    assert set(first) == {"Defence", "No adversarial training", "Red team"}
    assert "Red team · Model alignment" in names and "No adversarial training · Standard" in names


def test_the_main_settings_of_a_method_stand_beside_it_and_the_rest_below(visit, untimed):
    app = visit("train")
    app.selectbox(key="train-method").set_value("part").run()
    below = {
        element.label
        for element in [
            *app.expander[0].text_input,
            *app.expander[0].selectbox,
            *app.expander[0].number_input,
        ]
    }
    every = {element.label for element in [*app.text_input, *app.selectbox, *app.number_input]}
    main = {"Recipe", "Data", "Method", "eps low", "rule", "warmup"}
    assert every - below == main | {"Compared with"}
    assert {"cam class", "attack.steps", "net", "epochs", "weight decay"} <= below


def test_the_settings_of_part_reach_the_config(visit, untimed, submitted):
    app = visit("train")
    app.selectbox(key="train-method").set_value("part").run()

    def field(kind, label):
        return next(one for one in getattr(app, kind) if one.label == label)

    assert (
        field("text_input", "eps low").value == ""
        and "oracle" in field("selectbox", "rule").options
    )
    # Other rules can be typed, such as z>0.7.
    assert field("selectbox", "rule").proto.accept_new_options
    field("text_input", "eps low").set_value("4/255")
    field("selectbox", "rule").set_value("oracle").run()
    app.button(key="train-go").click().run()
    method = submitted.pop().method
    assert (method.rule, method.eps_low) == ("oracle", 4 / 255)


@pytest.mark.parametrize(
    ("method", "kind", "label", "value", "said"),
    [
        ("part", "text_input", "eps low", "9/255", "eps_low=9/255 is above eps=8/255"),
        ("part", "text_input", "eps low", "a little", "is not a number"),
        ("part_t", "selectbox", "attack.norm", "l2", "linf only"),
        ("supcon_margin", "number_input", "batch size", 2, "batch_size to 4"),
        ("afa", "text_input", "temperature", "0", "out of range"),
    ],
)
def test_what_does_not_fit_is_a_sentence_before_there_is_a_job(
    visit, untimed, method, kind, label, value, said
):
    app = visit("train")
    app.selectbox(key="train-method").set_value(method).run()
    next(one for one in getattr(app, kind) if one.label == label).set_value(value).run()
    assert said in " ".join(error.value for error in sound(app).error)
    assert not [button for button in app.button if button.label == "Train"]


def test_model_alignment_says_what_it_lacks_and_takes_a_run_of_the_users(
    visit, untimed, submitted, few, tmp_path
):
    own = tmp_path / "runs" / "my-witness"
    own.mkdir(parents=True)
    like = ordinary("digits", "standard")
    config = dataclasses.replace(like.config, net="small_cnn", seed=3).to_json() | {
        "images": like.info["images"]
    }
    (own / "config.json").write_text(json.dumps(config), encoding="utf-8")
    write_weights(own)
    app = visit("train")
    app.selectbox(key="train-recipe").set_value("digits-model-alignment").run()
    assert "no ordinary small_cnn on digits to use as the witness" in " ".join(
        error.value for error in sound(app).error
    )
    source, witness = (
        next(one for one in app.selectbox if one.label == label) for label in ("source", "witness")
    )
    assert source.options == [
        "the shipped Small ResNet with standard training on this data",
        "No adversarial training · Standard · small_resnet · seed 0",
    ]
    assert witness.options[1:] == [
        "No adversarial training · Standard · small_resnet · seed 0",
        "No adversarial training · Standard · small_cnn · seed 3 · -witness",
    ]
    witness.set_value("my-witness").run()
    app.button(key="train-go").click().run()
    found = submitted.pop()
    assert (found.method.source, found.method.witness) == (like.id, "my-witness") and not sound(
        app
    ).error


def test_recipes_are_grouped_and_bring_their_settings(visit, untimed, submitted):
    app = visit("train")
    options = app.selectbox(key="train-recipe").options
    kinds = [name.split(" · ")[0] for name in options]
    assert kinds == ["Choose freely"] + ["Lesson"] * kinds.count("Lesson") + [
        "Published, for a GPU"
    ] * kinds.count("Published, for a GPU")
    assert len(options) == len(PRESETS) + 1
    app.selectbox(key="train-recipe").set_value("digits-afa-slf").run()
    assert PRESETS["digits-afa-slf"].text in words(sound(app))
    app.button(key="train-go").click().run()
    assert submitted.pop().run_id == TrainConfig.make("digits-afa-slf").run_id
    app.selectbox(key="train-recipe").set_value("svhn-part").run()
    assert "Differs:" in words(sound(app)) and "0.0035" in [one.value for one in app.text_input]
    # A schedule can be chosen or typed.
    assert [box.proto.accept_new_options for box in app.selectbox if box.value == "step@79/80"] == [
        True
    ]
    app.button(key="train-go").click().run()
    assert submitted.pop().run_id == TrainConfig.make("svhn-part").run_id


def test_an_eps_of_8_is_a_sentence(visit):
    app = visit("train")
    field = next(one for one in app.text_input if one.label == "eps")
    field.set_value("8").run()
    assert "8/255" in " ".join(error.value for error in sound(app).error)
    assert not [button for button in app.button if button.label == "Train"]


def test_words_where_a_number_belongs_are_a_sentence(visit):
    app = visit("train")
    next(one for one in app.text_input if one.label == "lr").set_value("fast").run()
    assert "is not a number" in " ".join(error.value for error in sound(app).error)


def test_a_folder_that_is_not_there_is_a_sentence(visit, no_process):
    app = visit("train")
    app.selectbox(key="train-data").set_value("folder").run()
    app.text_input(key="train-folder").set_value("/no/such/folder").run()
    assert "/no/such/folder" in " ".join(error.value for error in sound(app).error)
    assert not [button for button in app.button if button.label == "Train"]


def test_training_puts_a_job_into_the_queue_once(visit, no_process):
    app = visit("train")
    app.selectbox(key="train-data").set_value("digits")
    app.selectbox(key="train-method").set_value("fgsm_rs").run()
    app.button(key="train-go").click().run()
    app.button(key="train-go").click().run()
    mine = queue.mine()
    assert [run.status()["state"] for run in mine] == ["queued"]
    assert mine[0].method_key == "fgsm_rs"
    assert mine[0].id in words(sound(app))


@pytest.mark.parametrize("state", ["queued", "paused", "stopped", "failed", "interrupted", "done"])
def test_each_state_of_a_job_is_shown_with_what_can_be_done(
    visit, no_process, tmp_path, monkeypatch, state
):
    monkeypatch.setenv("ROBUSTVIZ_RUNS", str(tmp_path / "runs"))
    run = runs.create(TrainConfig(data="digits", method="standard", seed=77))
    run.set_status(state=state, error="What happened." if state == "failed" else "")
    app = visit("train", job=run.id)
    assert f"**{state}**" in words(sound(app))
    offered = {button.label for button in app.button}
    assert ("Resume" in offered) == (state in ("paused", "stopped", "failed", "interrupted"))
    assert ("Pause" in offered) == (state == "queued")


@pytest.mark.parametrize("state", ["queued", "paused", "interrupted", "stopped", "done"])
def test_the_newest_unfinished_run_is_shown_first_unless_another_is_chosen(
    visit, no_process, untimed, tmp_path, monkeypatch, state
):
    monkeypatch.setenv("ROBUSTVIZ_RUNS", str(tmp_path / "runs"))
    old, run, done = (
        runs.create(TrainConfig(data="digits", method="standard", seed=seed))
        for seed in (76, 77, 78)
    )
    for at, (each, its) in enumerate(((old, "paused"), (run, state), (done, "done"))):
        each.set_status(state=its, queued=1.0 + at)
    over = state in ("stopped", "done")
    app = sound(visit("train"))
    first, shown = (old, "paused") if over else (run, state)
    assert f"`{first.id}` · **{shown}**" in words(app)
    assert ("resume" in {button.key for button in app.button}) == (shown != "queued")
    assert f"`{done.id}` · **done**" in words(sound(visit("train", job=done.id)))


def test_a_shipped_recipe_is_trained_with_the_next_seed(visit, no_process):
    app = visit("train")
    app.selectbox(key="train-data").set_value("digits")
    app.selectbox(key="train-method").set_value("standard").run()
    assert "robustviz already includes" in words(sound(app))
    # Seeds 0 and 1 of the usual Small ResNet are shipped.
    assert app.button(key="train-go").label == "Train with seed 2"
    app.button(key="train-go").click().run()
    assert [run.info["seed"] for run in queue.mine()] == [2]


@pytest.mark.parametrize("kept", [0, 2])
def test_a_shipped_run_that_kept_snapshots_is_known_for_one_that_keeps_none(tmp_path, kept):
    config = TrainConfig.make("digits-trades")
    run = runs.create(dataclasses.replace(config, snapshots=kept, threads=3), folder=tmp_path)
    assert form._same(config, [run]) == run.id
    assert form._same(dataclasses.replace(config, snapshots=5), [run]) == ""
    assert form._same(dataclasses.replace(config, seed=1), [run]) == ""


@pytest.mark.parametrize("state", ["queued", "paused", "stopped"])
def test_a_demo_server_does_not_train_stop_or_resume(visit, monkeypatch, tmp_path, state):
    monkeypatch.setenv("ROBUSTVIZ_RUNS", str(tmp_path / "runs"))
    run = runs.create(TrainConfig(data="digits", method="standard", seed=77))
    run.set_status(state=state)
    monkeypatch.setattr(queue, "_spawn", None)  # Starting a worker would raise an error.
    live_buttons = visit("train", job=run.id)
    if state != "queued":
        live_buttons.button(key="resume")  # The button is there on one's own computer.
    monkeypatch.setenv("ROBUSTVIZ_DEMO", "1")
    app = sound(visit("train", job=run.id))
    assert "Nobody may train here" in words(app) and f"**{state}**" in words(app)
    assert not {"Train", "Resume", "Pause", "Stop"} & {button.label for button in app.button}
    if state != "queued":  # Pressed on a page that was drawn earlier.
        live_buttons.button(key="resume").click().run()
        assert run.status()["state"] == state
    with pytest.raises(UserError, match="Nobody may train here"):
        form._compare(run.config, "trades")


def test_who_only_looks_sees_the_training_that_somebody_else_starts(visit, monkeypatch, tmp_path):
    """Streamlit's test does not repeat fragments, so it is asked whether they would be."""
    monkeypatch.setenv("ROBUSTVIZ_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("ROBUSTVIZ_MODE", "class")
    run = runs.create(TrainConfig(data="digits", method="standard", seed=77))
    run.set_status(state="paused")
    repeated: dict[str, float | None] = {}
    made = shell.fragment

    def noted(view, run_every=None):
        repeated[view.__name__] = run_every
        return made(view, run_every)

    monkeypatch.setattr(shell, "fragment", noted)
    app = sound(visit("train"))
    assert (repeated["_wait_for_a_run"], repeated["_list"]) == (live.LOOK, None)
    run.set_status(state="running", heartbeat=time.time(), epochs=9, **queue.identity())
    app = sound(app.run())
    assert "**running**" in words(app) and repeated["_panel"] == 1.0
    run.set_status(state="paused")
    sound(visit("train", job=run.id))
    assert repeated["_panel"] == live.LOOK


def test_who_only_looks_keeps_the_finished_training_until_the_next_one(
    visit, monkeypatch, tmp_path
):
    monkeypatch.setenv("ROBUSTVIZ_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("ROBUSTVIZ_MODE", "class")
    done, next_one = (
        runs.create(TrainConfig(data="digits", method="standard", seed=seed)) for seed in (77, 78)
    )
    at_work = {"state": "running", "heartbeat": time.time(), "epochs": 9, **queue.identity()}
    done.set_status(**at_work)
    app = sound(visit("train"))
    assert f"`{done.id}` · **running**" in words(app)
    for name in ("eval.json", "net.safetensors"):
        shutil.copy(ordinary("digits", "standard").path / name, done.path)
    done.set_status(state="done", pid=None)
    app = sound(app.run())
    assert f"`{done.id}` · **done**" in words(app) and "Tested: " in words(app)
    headings = [each.value for each in app.header]
    assert "Runs on this server" in headings and "Your runs" not in headings
    next_one.set_status(**at_work)
    app = sound(app.run())
    assert f"`{next_one.id}` · **running**" in words(app) and done.id not in words(app)
    runs.remove(next_one)
    assert next_one.id not in words(sound(app.run()))


def test_a_network_is_attacked_beside_another_one_or_alone(monkeypatch, tmp_path):
    alone = ordinary("digits", "pgd_at")
    here = networks.on("digits")
    usual = networks.defaults(here)
    other = next(run_id for run_id in here if run_id not in usual)
    made = networks.pair(alone, other)
    assert made == {"data": "digits", "a": other, "b": alone.id}
    for a in ("", alone.id, ordinary("shapes", "standard").id):
        assert networks.pair(alone, a) == made | {"a": usual[0]}
    monkeypatch.setattr(networks, "on", lambda data: {alone.id: alone})
    assert networks.pair(alone, usual[0]) == {"data": "digits", "a": alone.id, "b": ""}


@pytest.mark.parametrize("asked", ["/etc", "~root/../etc", "x\0y", "~nobody-of-that-name/x"])
def test_a_typed_path_leads_to_the_home_folder_and_nowhere_else(visit, monkeypatch, asked):
    monkeypatch.delenv("ROBUSTVIZ_FOLDERS", raising=False)
    app = visit("train")
    app.selectbox(key="train-data").set_value("folder").run()
    app.text_input(key="train-folder").set_value(asked).run()
    said = " ".join(error.value for error in sound(app).error)
    assert "is not below" in said or "not the path of a folder" in said


def test_more_epochs_than_the_server_allows_are_a_sentence(visit, untimed, monkeypatch):
    monkeypatch.setenv("ROBUSTVIZ_MOST_EPOCHS", "1")
    app = sound(visit("train"))
    assert "at most 1 are allowed" in words(app)
    assert not [button for button in app.button if button.label == "Train"]


def test_larger_images_of_a_folder_bring_a_smaller_batch(visit, untimed, submitted, tmp_path):
    from PIL import Image

    for name in ("cat", "dog"):
        (tmp_path / "pets" / name).mkdir(parents=True)
        for k in range(12):
            Image.new("RGB", (40, 40), (20 * k, 100, 250 * (name == "cat"))).save(
                tmp_path / "pets" / name / f"{k}.png"
            )
    app = visit("train")
    app.selectbox(key="train-data").set_value("folder").run()
    app.text_input(key="train-folder").set_value(str(tmp_path / "pets")).run()
    size = next(box for box in app.number_input if box.key.endswith("data.size"))
    size.set_value(128).run()
    batch = next(box for box in app.number_input if box.key.endswith("batch_size"))
    assert (
        batch.value
        == TrainConfig.make(
            None, {"data": f"folder:{tmp_path / 'pets'}"}, [("data.size", 128)]
        ).batch_size
        == 16
    )


@pytest.fixture
def newcomers(monkeypatch):
    """Registers a new method, an attack and two data sets. Only their classes say what their
    settings are.
    """
    for kind in registry.ROOMS:
        registry.keys(kind)
    monkeypatch.setattr(
        registry, "_table", {kind: dict(held) for kind, held in registry._table.items()}
    )

    @registry.register("attack/push")
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Push(FGSM):
        reach: float = option(0.5, "How far a push goes.", kind="radius")

    @registry.register("method/pushed")
    @dataclasses.dataclass(frozen=True)
    class Pushed(PGDAT):
        label, text, paper, choices = "Pushed", "Is pushed.", "Nobody: Pushing.", ""
        belt: float = option(3 / 255, "Width of the belt.", low=0, high=1, kind="radius")
        length: float = option(3 / 255, "No radius.", low=0, high=1)
        model: str | None = option(None, "Whom it follows; empty: nobody.", kind="run")
        root: str | None = option(None, "Where it starts; empty: afresh.", kind="starting run")
        spot: str = option("z>1", "Where it pushes.", kind="rule", choices=("z>1", "true object"))
        style: str = option("calm", "How it pushes.", choices=("calm", "wild"))
        attack: FGSM = option(Push, "The push.")

        @property
        def objects(self) -> bool:
            return self.spot == "true object"

    @registry.register("data/dotted")
    @dataclasses.dataclass(frozen=True)
    class Dotted(Digits):
        label, has_masks = "Dotted", True
        dots: int = option(3, "How many dots.", low=1, train_only=True)

    @registry.register("data/album")
    @dataclasses.dataclass(frozen=True)
    class Album(Source):
        label, recipe = "An album", Digits.recipe
        shelf: str = option("", "The shelf", kind="folder")

        def load(self, split: str, n: int | None = None) -> Dataset:
            return Folder(path=self.shelf).load(split, n)

    return Pushed


def test_a_class_that_the_page_does_not_know_has_its_form_its_help_and_its_name(
    visit, untimed, submitted, few, newcomers
):
    app = visit("train")
    assert {"Dotted", "An album"} <= set(app.selectbox(key="train-data").options)
    app.selectbox(key="train-data").set_value("digits")
    app.selectbox(key="train-method").set_value("pushed").run()

    def field(label):
        every = [*app.text_input, *app.selectbox, *app.number_input]
        return next(element for element in every if element.label == label)

    assert "Is pushed." in words(sound(app)) and not app.error
    assert (field("belt").value, field("length").value) == ("3/255", "0.0117647")
    assert field("attack.reach").value == "0.5" and field("attack.reach").help.startswith("How far")
    assert field("model").options == ["nobody", *field("model").options[1:]]
    assert len(field("model").options) == 2 and len(field("root").options) == 2
    assert field("root").options[0] == "afresh"
    assert field("spot").options == ["z>1"] and field("spot").proto.accept_new_options
    assert field("style").options == ["calm", "wild"]
    app.selectbox(key="train-data").set_value("dotted").run()
    assert field("data.dots").value == 3 and field("spot").options == ["z>1", "true object"]
    field("belt").set_value("5/255")
    field("style").set_value("wild").run()
    app.button(key="train-go").click().run()
    method = submitted.pop().method
    assert sound(app) and (method.belt, method.style, method.model) == (5 / 255, "wild", None)
    with pytest.raises(UserError, match="Did you mean calm"):
        newcomers(style="clam")


def test_a_data_set_in_a_folder_asks_for_it_whatever_it_is_called(
    visit, untimed, newcomers, tmp_path
):
    app = visit("train")
    app.selectbox(key="train-data").set_value("album").run()
    assert app.text_input(key="train-folder").label == "The shelf"
    assert "Type the path" in words(sound(app)) and not app.error
    app.text_input(key="train-folder").set_value(str(tmp_path / "no")).run()
    assert "does not exist" in " ".join(error.value for error in sound(app).error)
    assert data.source(f"album:{tmp_path}").shelf == str(tmp_path)


def test_a_data_set_of_the_user_s_own_is_chosen_by_its_name(
    visit, untimed, submitted, tmp_path, monkeypatch
):
    monkeypatch.setattr(form, "estimate", lambda config: f"As long as {config.data.called} takes.")
    data.own.add("pets", data.Folder(path=str(tmp_path / "somewhere")))
    app = visit("train")
    app.selectbox(key="train-data").set_value("pets").run()
    assert "Yours · pets" in app.selectbox(key="train-data").options
    assert not [each for each in sound(app).text_input if each.key == "train-folder"]
    app.button(key="train-go").click().run()
    assert submitted.pop().data == data.source("pets")
    data.own.remove("pets")
    app.run()  # The page was open when the data set was removed.
    assert "As long as pets" not in words(app)
    assert sound(app).selectbox(key="train-data").value != "pets" and not app.error


def test_before_a_training_stands_what_it_will_look_like(visit, untimed):
    app = sound(visit("train"))
    said = words(app)
    assert "timed a moment ago. It takes longer while other work" in said
    assert "The curves get one point per epoch" in said
    assert len(app.get("vega_lite_chart")) == 1
    assert not wordy("\n".join(each.value for each in app.markdown[:2]))


def test_the_test_has_a_bar_that_counts_images_and_the_list_says_the_epoch(tmp_path):
    run = runs.create(TrainConfig(data="digits", method="standard", epochs=12), folder=tmp_path)
    run.set_status(state="running", phase="train", epoch=3, epochs=12, batch=1, batches=2, eta=9.0)
    assert jobs.epochs(run, run.status()) == "in epoch 4 of 12"
    assert live.progressed(run.status()) == (
        pytest.approx(3.5 / 13),
        "Epoch 4 of 12, batch 1 of 2, about 9 s left",
    )
    run.set_status(phase="evaluate", epoch=12, batch=250, batches=960, eta=40.0)
    assert jobs.epochs(run, run.status()) == "0 of 12"
    assert live.progressed(run.status()) == (
        pytest.approx((12 + 250 / 960) / 13),
        "Testing under attack: 250 of 360 images, about 40 s left",
    )
    run.set_status(batch=460, eta=None)
    share, said = live.progressed(run.status())
    assert said == "Checking the test with other attacks: 100 of 600 images"
    assert (12 + 250 / 960) / 13 < share < 1
    run.set_status(batch=60, batches=7 * 60)  # fewer images than the doctor takes
    assert "with other attacks: 0 of 360 images" in live.progressed(run.status())[1]


def test_the_epochs_of_one_are_whole_numbers():
    rows = live.pd.DataFrame([(1, "untouched", 0.5)], columns=["epoch", "on", "share"])
    axis = live._chart("", rows, ".1%", 12, 200).to_dict()["encoding"]["x"]
    assert axis["axis"] == {"format": "d", "tickMinStep": 1}
    assert axis["scale"]["domain"] == [0, 12]


def test_names_of_runs_follow_from_what_a_setting_is(newcomers, tmp_path):
    def run(name, source, **method):
        (tmp_path / name).mkdir()
        config = TrainConfig(data=source, method=newcomers(**method))
        text = json.dumps(config.to_json())
        (tmp_path / name / "config.json").write_text(text, encoding="utf-8")
        return runs.Run(tmp_path / name)

    own = run("a", "dotted", belt=7 / 255, length=7 / 255, model="any", root="any")
    assert naming.unusual(own) == ("belt=7/255", "length=0.027451")
    # This setting matters only in training.
    changed = registry.with_value(own.config, "data.dots", 5)
    assert networks.data_name(run("b", changed.data)) == networks.data_name(own) == "dotted"
    assert networks.data_name(run("c", "album:/home/me/pets")).startswith("pets-")


def test_what_withstood_every_attack_is_the_headline_and_the_ladder_warns(visit, no_process):
    """Uses AFA on shapes, whose weakness the margin loss in the attack ladder and AutoAttack
    reveal.
    """
    own = runs.home() / "my-afa"
    shutil.copytree(ordinary("shapes", "afa").path, own)
    run = runs.Run(own)
    (warning,) = best_ladder(run.evaluations(), run.eps).warnings
    together = headline(run.evaluations(), run.eps)
    told = together.beside(run.evaluation())
    assert together.n == 200 and told.endswith("PGD-20 was run on other images.")
    app = sound(visit("train", job="my-afa"))
    assert told in words(app) and warning in words(app)
    assert "measured on a different set of images" in words(app)
    table = app.dataframe[0].value
    assert table["every attack"][0] == together.acc and table["of n"][0] == 200 != table["n"][0]
    app = sound(visit("attack", data="shapes", b="my-afa"))
    assert told in words(app) and warning in words(app)
    assert any(
        block.proto.popover.label.startswith("Checks") and "warn" in block.proto.popover.label
        for block in app.get("popover")
    )


@pytest.mark.parametrize(
    ("mode", "folders", "asked", "may"),
    [
        ("own", "", "{home}/pets", True),
        ("own", "", "{home}/link", False),  # A link that leads out of the home folder.
        ("own", "", "{data}/folder", True),
        ("own", "{home}/pets", "{home}/other", False),
        ("own", "{home}/pets", "{home}/pets/../other", False),
        ("lab", "", "{home}/pets", False),
        ("lab", "{home}/pets", "{home}/pets/more", True),
    ],
)
def test_which_folders_may_be_typed(monkeypatch, tmp_path, mode, folders, asked, may):
    places = {"home": tmp_path / "home", "data": tmp_path / "data"}
    (tmp_path / "home" / "pets").mkdir(parents=True)
    (tmp_path / "home" / "link").symlink_to(tmp_path)
    monkeypatch.setattr(rights, "may_act", lambda: True)
    for name, value in {
        "HOME": str(places["home"]),
        "ROBUSTVIZ_DATA": str(places["data"]),
        "ROBUSTVIZ_MODE": mode,
        "ROBUSTVIZ_FOLDERS": folders.format(**places),
    }.items():
        monkeypatch.setenv(name, value)
    if may:
        form._check_typed(asked.format(**places))
    else:
        with pytest.raises(UserError, match="is not below"):
            form._check_typed(asked.format(**places))


def test_who_may_not_act_types_no_folder(monkeypatch, tmp_path):
    monkeypatch.setattr(rights, "may_act", lambda: False)
    with pytest.raises(UserError, match="may name folders here"):
        form._check_typed(str(tmp_path))
