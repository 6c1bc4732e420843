"""The page Your data: uploaded pictures are checked, shown as a network will see them, stored under
a name, and can be removed; networks can be imported.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

import streamlit as st
from streamlit.runtime.uploaded_file_manager import UploadedFile

from robustviz import memory, registry
from robustviz.data import arrays, own, sent, singles, uploads, zips
from robustviz.imports import load
from robustviz.runs import folder, queue
from robustviz.types import UserError, harmless
from robustviz.ui import networks, rights, shell, widgets
from robustviz.ui.context import OWN, attack
from robustviz.ui.line import LONG
from robustviz.ui.uploads import take
from robustviz.views.pictures import png
from robustviz.views.your_data import preview

TITLE = "How does a network classify your own pictures?"
BRING = {
    "zip": "A zip or NumPy file",
    "folder": "A folder",
    "class": "One class at a time",
    "one": "One picture",
    "net": "A network",
}
HOW = {
    "zip": "Drop a zip with one folder of pictures per class, or a file of images x and labels y.",
    "folder": "Drop a folder that holds one folder of pictures for each class.",
    "class": "Name a class, and drop all its pictures.",
    "one": "Drop a picture, choose its class, and attack it.",
    "net": "Drop the weights of a known architecture: safetensors, or torch's state dict.",
}
FEW = 200  # test images used to find out which input normalisation a network expects
LARGER = (
    "Up to 20,000 pictures of at most 50 MB each. A zip or NumPy file may have 200 MB. For more,"
    " run on the computer with robustviz: `python -m robustviz data add folder:PATH --name NAME`."
)


def page() -> None:
    """Draw the whole page."""
    with st.container(key="title-row"):
        st.title(TITLE, anchor=False)
    st.space("small")
    st.markdown(
        "They stay on the computer that runs robustviz, until you press *Remove*."
        + " Everybody who can open this page can see them." * (rights.mode() != "own")
    )
    if rights.may_act():
        _bring()
    else:
        st.info(rights.sentence("add pictures"))
    _sets()
    _singles()
    shell.reset_button()


def _bring() -> None:
    """Draw the upload field for what the user brings, and a preview before anything is stored."""
    kind = st.segmented_control(
        "You bring",
        list(BRING),
        required=True,
        format_func=BRING.__getitem__,
        **shell.linked("bring", "zip", BRING),
    )
    st.markdown(HOW[str(kind)])
    if kind == "one":
        take("A picture", "one", partial(_used, _take_one), megabytes=sent.MOST_BYTES // 10**6)
        _faults()
        _one()
        return
    if kind == "net":
        _network()
        return
    if kind == "class":
        name = st.text_input("What is on all of these pictures?", key="your-class").strip()
        if name:
            given = partial(_used, partial(_take_files, name=name))
            take(f"Pictures of {name}", "class", given, several=True, help=LARGER)
    elif kind == "folder":
        take("A folder", "folder", partial(_used, _take_files), several="directory", help=LARGER)
    else:
        take("A zip or NumPy file", "zip", partial(_used, _take_packed), help=LARGER)
    _faults()
    if (draft := _draft()) is not None:
        if (draft / "arrays").exists():
            _numbers(draft)
        _look(draft)


def _used(use: Callable[[list[UploadedFile]], object], files: list[UploadedFile]) -> None:
    """Wait in the line `LONG`, then call `use(files)`. `_faults` shows a UserError later."""
    spot = st.empty()
    try:
        queue.check_room()
        with LONG.turn(lambda place: spot.info(f"Waiting: position {place} in the queue.")):
            use(files)
    except UserError as error:
        st.session_state["your-fault"] = shell.spoken(error)
    finally:
        spot.empty()


def _faults() -> None:
    if fault := st.session_state.pop("your-fault", ""):
        st.error(fault, icon=":material/error:")


def _draft() -> Path | None:
    """This session's draft folder; None if there is none or if it has been removed."""
    draft = Path(str(st.session_state.get("your-draft") or os.devnull))
    return draft if draft.is_dir() else None


def _new_or_old_draft() -> Path:
    if (draft := _draft()) is None:
        draft = uploads.new_draft()
        st.session_state["your-draft"] = str(draft)
        st.session_state["your-notes"] = []
    return draft


@contextmanager
def _counting(what: str) -> Any:
    """A context with a progress bar; yields the function `tell(done, total)` that updates it."""
    bar = st.progress(0.0, text=what)

    def tell(done: int, total: int) -> None:
        if done == total or done % 20 == 0:
            bar.progress(done / max(total, 1), text=f"{what}: {done:,} of {total:,}")

    try:
        yield tell
    finally:
        bar.empty()


def _add(entries: Sequence[uploads.Entry], name: str = "") -> None:
    draft = _new_or_old_draft()
    with _counting("Looking at what you sent") as tell:
        report = uploads.take_in(draft, entries, name, tell)
    st.session_state["your-notes"] = [*st.session_state["your-notes"], *report.notes]


def _take_files(files: list[UploadedFile], name: str = "") -> None:
    _add([uploads.Entry(PurePosixPath(_inside(one.name)), one.getvalue) for one in files], name)
    if not name:
        _suggest(PurePosixPath(_inside(files[0].name)).parts[0])


def _inside(name: str) -> str:
    """A path that a browser sent, without parts that leave a folder, and as `harmless` text."""
    parts = PurePosixPath(harmless(name.replace("\\", "/"))).parts
    return "/".join(part for part in parts if part not in ("/", "..")) or "picture"


def _take_packed(files: list[UploadedFile]) -> None:
    file = files[0]
    head = file.read(8)
    file.seek(0)
    if not zips.is_zip(head) and not head.startswith(b"\x93NUMPY"):
        raise UserError(
            f"{_inside(file.name)} is neither a zip nor a NumPy file: pack the folders of your"
            " classes into a zip, or drop the folder itself."
        )
    if zips.is_zip(head):
        with zips.opened(file) as inside:
            if not inside.names or {name.suffix for name in inside.names} != {".npy"}:
                _add([uploads.Entry(name, partial(inside.read, name)) for name in inside.names])
                _suggest(file.name)
                return
    draft = _new_or_old_draft()
    _suggest(file.name)
    target = draft / "arrays"
    target.write_bytes(file.getvalue())
    try:
        found = arrays.load(target)
        for part in found.parts:
            arrays.diagnose(part.x)
    except UserError:
        target.unlink()
        raise


def _suggest(file: str) -> None:
    """Suggest the uploaded file's name as the draft's name, unless the user has typed one."""
    slug = re.sub(r"[^a-z0-9_]+", "-", Path(_inside(file)).stem.lower()).strip("-_")[:32]
    if slug and not st.session_state.get("your-name"):
        st.session_state["your-name"] = slug


def _numbers(draft: Path) -> None:
    """Draw pickers of how to interpret the numbers of a NumPy file, a suggestion and a preview.
    The button *Take them* converts the numbers to pictures of the draft.
    """
    found = arrays.load(draft / "arrays")
    verdict = arrays.diagnose(found.parts[0].x)
    (st.success if verdict.sure else st.warning)(verdict.sentence)
    left, right = st.columns(2)
    keys = list(preview.readings(found))
    reading = left.selectbox(
        "The numbers mean",
        keys,
        keys.index(verdict.reading),
        format_func=lambda key: arrays.READINGS[key].label,
        key="your-reading",
    )
    order = arrays.RGB
    if found.parts[0].x.shape[3] == 3:
        orders = [arrays.RGB, arrays.BGR]
        order = str(right.selectbox("Channels are", orders, key="your-order"))
    picture, count, doubt = preview.of_arrays(found, reading, order)
    if doubt:
        st.warning(doubt)
    with st.container(width=560):
        widgets.fitted(picture, f"{count} images as they are read now")
    name = ""
    if any(part.y is None for part in found.parts):
        name = st.text_input("No labels here. Which class do all images show?", key="your-label")
    with st.container(horizontal=True):
        if st.button("Take them", type="primary", key="your-take", icon=":material/check:"):
            rights.check("add pictures")
            with _counting("Making pictures of numbers") as tell:
                report = uploads.take_arrays(draft, found, reading, order, name.strip(), tell)
            st.session_state["your-notes"] = [*st.session_state["your-notes"], *report.notes]
            (draft / "arrays").unlink()
            st.rerun()
        if st.button("Discard them", key="your-leave"):
            (draft / "arrays").unlink()
            st.rerun()


def _look(draft: Path) -> None:
    """Draw the draft's pictures as a network will see them; buttons store or discard them."""
    if not (counts := uploads.counts(draft)):
        return
    st.subheader("As the network will see them")
    left, right = st.columns(2)
    size = int(
        left.number_input(
            "Pixels a side",
            sent.LEAST_SIDE,
            sent.MOST_SIDE,
            32,
            key="your-size",
            help="32 suits a laptop. Twice as many take about four times as long.",
        )
    )
    name = right.text_input(
        "Name", key="your-name", placeholder="photos", help="Small letters, numbers, - and _."
    )
    st.markdown(" ".join(filter(None, (preview.counted(counts), preview.split(draft, counts)))))
    for row in preview.rows(draft, counts, size):
        st.markdown(f"**{row.name}**, {row.count:,} picture{'s' * (row.count != 1)}:")
        with st.container(width=72 * row.shown):
            widgets.fitted(row.png, f"{row.shown} pictures of {row.name}, {size}×{size} pixels")
    if len(counts) > preview.CLASSES:
        st.markdown(f"And {len(counts) - preview.CLASSES} more classes.")
    for caution in preview.cautions(counts):
        st.warning(caution)
    _notes()
    with st.container(horizontal=True):
        if st.button("Keep them", type="primary", key="your-keep", icon=":material/save:"):
            _keep(draft, name.strip(), size, counts)
        if st.button("Throw away", key="your-throw", icon=":material/delete:"):
            rights.check("add pictures")
            uploads.throw_away(draft)
            st.rerun()
    _faults()


def _notes() -> None:
    """Draw a list of what was changed in the draft's pictures, and of pictures left out."""
    if notes := st.session_state.get("your-notes"):
        with st.expander(f"What was done and left out ({len(notes)})", key="your-notes-box"):
            st.markdown("\n".join(f"- {shell.spoken(UserError(note))}" for note in notes))


def _keep(draft: Path, name: str, size: int, counts: dict[str, dict[str, int]]) -> None:
    rights.check("add pictures")
    try:
        if not name:
            raise UserError("Give them a name first, as in photos.")
        plain = preview.counted(counts).replace("*", "").rstrip(".")
        uploads.keep(draft, name, size, f"{plain}, uploaded, {size}x{size} RGB.")
    except UserError as error:
        st.session_state["your-fault"] = shell.spoken(error)
        return
    for key in ("your-draft", "your-notes", "your-name"):
        st.session_state.pop(key, None)
    st.rerun()


# One picture.


def _take_one(files: list[UploadedFile]) -> None:
    draft, name = uploads.new_draft(), Path(_inside(files[0].name)).name
    try:
        kept = sent.read_one(files[0].getvalue(), draft / "incoming", name)
    except UserError:
        uploads.throw_away(draft)
        raise
    (draft / "one.png").write_bytes(kept.png)
    st.session_state["your-one"] = (str(draft), kept.hash, name)


def _one() -> None:
    """Draw a preview of one picture with predictions, and a button that stores and attacks it."""
    draft, digest, name = st.session_state.get("your-one", ("", "", ""))
    file = Path(draft) / "one.png"
    if not draft or not file.is_file():
        return
    names = sorted(set(map(networks.data_name, networks.trained().values())))
    if not names:
        st.info("There is no trained network yet: train one on the Train page.")
        return
    left, right = st.columns(2)
    start = names.index(networks.FIRST["data"]) if networks.FIRST["data"] in names else 0
    data = str(left.selectbox("Networks trained on", names, start, key="your-on"))
    run = next(iter((here := networks.on(data)).values()))
    label = str(right.selectbox("What is on it?", list(run.classes), key=f"your-label-{data}"))
    shape, content = run.info["images"], file.read_bytes()
    if shape["channels"] == 1 and st.toggle("Invert brightness", key="your-invert"):
        content = singles.inverted(content)
    seen = preview.seen_one(content, int(shape["channels"]), int(shape["size"]))
    st.markdown(f"As these networks see it, {shape['size']}×{shape['size']} pixels:")
    with st.container(horizontal=True, vertical_alignment="center"), widgets.place():
        alt = f"Your picture {name}, as these networks see it"
        st.container(width=192).image(png(seen), width="stretch", alt=alt)
        st.markdown(preview.predicted(seen, [here[one] for one in networks.defaults(here) if one]))
    st.markdown(
        f"They have {len(run.classes)} classes and assign every picture to one of them."
        " For an object of another class, every prediction is wrong."
    )
    if st.button("Attack it", type="primary", key="your-attack", icon=":material/bolt:"):
        rights.check("add pictures")
        one = singles.add(content, digest, name, label, data)
        uploads.throw_away(Path(draft))
        del st.session_state["your-one"]
        _attack(one)


def _attack(one: singles.Single) -> None:
    """Go to the Attack page with this picture chosen."""
    shell.forget("a", "b", "eps")
    _chosen(data=one.data, img=one.number)
    shell.go("attack")


def _chosen(**linked: Any) -> None:
    """Set the pickers of other pages to these values."""
    st.session_state.update(linked)
    st.session_state.setdefault("choices", {}).update(linked)


# A network.


def _network() -> None:
    """Draw the form that imports weights of a known architecture as a run (others: the CLI)."""
    names = [*own.every(), *(key for key in registry.keys("data") if not _placed(key))]
    left, middle, right = st.columns(3)
    data = left.selectbox("Evaluate on", names, names.index("shapes"), key="your-net-data")
    kinds = ["", *registry.keys("net")]
    kind = middle.selectbox(
        "It is a", kinds, format_func=lambda key: key or "found by its weights", key="your-net-kind"
    )
    label = right.text_input("Called", key="your-net-label", placeholder="RobustBench Rade2021")

    def use(files: list[UploadedFile]) -> None:
        draft, said = uploads.new_draft(), list[str]()
        try:
            file = draft / re.sub(r"[^\w.-]+", "_", Path(_inside(files[0].name)).name)[-60:]
            file.write_bytes(files[0].getvalue())
            with st.spinner("Looking at the network …"):
                run = load("robustviz.runs.imported").import_run(
                    file, data=str(data), label=label, model=str(kind), n=FEW, say=said.append
                )
        finally:
            uploads.throw_away(draft)
        st.session_state["your-net"] = run.id, said

    take(
        "Weights",
        "net",
        partial(_used, use),
        help="Up to 200 MB. Code in the file is not executed.",
    )
    _faults()
    run_id, said = st.session_state.get("your-net", ("", []))
    if run_id and (run := networks.trained().get(run_id)):
        st.success(f"`{run.id}` is here.")
        st.markdown("\n".join(f"- {shell.spoken(UserError(line))}" for line in said))
        if st.button("Attack it", type="primary", key="your-net-attack", icon=":material/bolt:"):
            attack(run)


def _placed(key: str) -> bool:
    """Whether the data set `key` has a setting `name`: such data needs the place of its images."""
    return "name" in registry.hints(registry.get("data", key))


# What is kept.


def _sets() -> None:
    """Draw the user's data sets, each with its buttons."""
    if not (every := own.every()):
        return
    st.subheader("Kept")
    shown = set(map(networks.data_name, networks.trained().values()))
    for name, one in every.items():
        with st.container(horizontal=True, vertical_alignment="center", key=f"set-{name}"):
            st.markdown(f"**{name}** · {one.card or one.place}", width="stretch")
            if name in shown and st.button("Attack", key=f"look-{name}", icon=":material/bolt:"):
                shell.forget("a", "b", "img", "eps")
                _chosen(data=name)
                shell.go("attack")
            if not rights.may_act():
                continue
            if st.button("Train on it", key=f"train-{name}", icon=":material/model_training:"):
                st.session_state.update({"train-data": name, "train-recipe": OWN})
                shell.go("train")
            if st.button("Remove", key=f"remove-{name}", icon=":material/delete:"):
                _removal(one)


@st.dialog("Remove")
def _removal(one: own.Own) -> None:
    runs = [
        run
        for run in folder.all_runs()
        if not run.shipped and folder.sound(run) and run.data_name == one.name
    ]
    st.markdown(
        f"The pictures of **{one.name}** are deleted from this computer."
        if one.uploaded
        else f"**{one.name}** is removed from the list; the pictures in {one.place} are kept."
    )
    too = False
    if runs:
        said = ", ".join(f"`{run.id}`" for run in runs[:5])
        st.markdown(f"These runs were trained on it and contain some of its pictures: {said}.")
        too = st.checkbox(f"Remove {len(runs)} trained network{'s' * (len(runs) > 1)} too", True)
    given = (one.name, runs if too else [])
    if st.button("Remove", type="primary", key="removal", on_click=_remove, args=given):
        st.rerun()


def _remove(name: str, runs: list[folder.Run]) -> None:
    """Callback: remove these runs and the user's data set `name`. `_faults` shows a UserError."""
    try:
        rights.check("remove")
        for run in runs:
            queue.remove(run)
        own.remove(name)
    except UserError as error:
        st.session_state["your-fault"] = shell.spoken(error)
    _forget()


def _forget() -> None:
    """Clear the caches in memory, which may contain removed data."""
    memory.ANSWERS.clear()
    memory.WORKING.clear()


def _singles() -> None:
    """Draw the user's single pictures, each with its buttons."""
    if not (every := singles.every()):
        return
    st.subheader("Single pictures")
    data = set(map(networks.data_name, networks.trained().values()))
    for one in every:
        with st.container(horizontal=True, vertical_alignment="center", key=f"one-{one.number}"):
            st.markdown(f"**{one.name}**, {one.label}, for networks of {one.data}", width="stretch")
            if one.data in data and st.button("Attack", key=f"attack-{one.number}"):
                _attack(one)
            if rights.may_act() and st.button("Remove", key=f"remove-{one.number}"):
                rights.check("remove")
                singles.remove(one.number)
                _forget()
                st.rerun()
