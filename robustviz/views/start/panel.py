"""The first page: the user guesses which of two pictures was attacked, sees the effect on a
network, and then guesses whether another network withstands the attack.

Everything on it was computed by `python -m robustviz.views.start.pack` and is read from
`checkpoints/story`; the page needs neither torch nor Plotly.
"""

from __future__ import annotations

import streamlit as st

from robustviz import paths
from robustviz.runs.files import read_json
from robustviz.types import JSON, UserError
from robustviz.ui import shell

FOLDER = paths.ROOT / "checkpoints" / "story"
NATIVE, LARGE, SMALL = 32, 264, 152  # widths in pixels; the images themselves have 32
# On a phone, too, the pictures are side by side, so that the words Left and Right are correct.
# Streamlit's full-screen button is hidden because it would cover the text above.
STYLE = """<style>
:is(.st-key-pair, .st-key-held) [data-testid="stElementToolbar"] { display: none }
@media (max-width: 40rem) {
  .st-key-pair > div { flex: 0 0 calc(50% - .5rem) !important }
  .st-key-held > div { flex: 0 0 calc(33.3% - .7rem) !important }
  :is(.st-key-pair, .st-key-held) div { max-width: 100% } }
</style>"""


def load() -> JSON:
    """The content of the story's JSON file. Raises UserError if it is missing or damaged."""
    if not (FOLDER / "story.json").exists():
        raise UserError("The story pack is missing: make it with `make story`.")
    return read_json(FOLDER / "story.json")


def page() -> None:
    """Draw the page as far as the user has got: a round or its answer, or after the last round the
    result with a second question; and links. Raises UserError as `load` does.
    """
    pack = load()
    guesses: list[str] = st.session_state.setdefault("guesses", [])
    passed = int(st.session_state.setdefault("passed", 0))
    st.html(STYLE)
    with st.container(key="title-row"):
        st.title("How little does it take to fool a network?", anchor=False)
    if passed >= len(pack["rounds"]):
        reveal(pack, guesses)
        hold(pack)
    elif len(guesses) > passed:
        answer(pack, passed, guesses[passed])
    else:
        question(pack, passed)
    onward(pack)


def picture(name: str, alt: str, width: int) -> None:
    """Show the story's picture in the file `name`, `width` pixels wide."""
    # the width is set by the container: otherwise Streamlit would encode the picture at every click
    st.container(width=width).image((FOLDER / name).read_bytes(), width="stretch", alt=alt)


def question(pack: JSON, number: int) -> None:
    """Draw the question of round `number` (from 0): two pictures with a button each to choose one,
    and a switch that enlarges both.
    """
    now = pack["rounds"][number]
    st.subheader("One of these two pictures was tampered with. Which?", anchor=False)
    st.markdown(
        f"Round {number + 1} of {len(pack['rounds'])} · drawn shapes, {NATIVE}×{NATIVE} pixels · no"
        f" pixel moved by more than {pack['eps_text']}"
    )
    large = bool(st.session_state.get("enlarge"))
    with st.container(horizontal=True, key="pair"):
        for side in ("left", "right"):
            with st.container(width=LARGE, horizontal_alignment="center"):
                picture(
                    now[side],
                    f"The {side} picture: {now['article']} on a textured background",
                    LARGE if large else NATIVE,
                )
                st.button(
                    side.capitalize(),
                    key=f"guess-{side}",
                    on_click=_guess,
                    args=(number, side),
                    type="primary",
                    width="stretch",
                )
    st.toggle(
        "Enlarge",
        key="enlarge",
        help=f"The pictures have {NATIVE}×{NATIVE} pixels; off shows them in this size.",
    )


def _guess(number: int, side: str) -> None:
    """Callback: store the guess `side` (`left` or `right`) for round `number`, unless it is already
    stored: a second click on a button may arrive when the answer is already drawn.
    """
    if len(st.session_state["guesses"]) == number:
        st.session_state["guesses"].append(side)


def answer(pack: JSON, number: int, guess: str) -> None:
    """Draw the answer to round `number` (from 0): whether the user's `guess` (`left` or `right`) is
    the attacked picture, both pictures enlarged with the ordinary network's predictions, the
    magnified perturbation, and a button to go on.
    """
    now = pack["rounds"][number]
    tampered, last = now["tampered"], number + 1 == len(pack["rounds"])
    st.subheader(
        f"{'Yes' if guess == tampered else 'No'}: the {tampered} one was tampered with."
        f" {says(now)}",
        anchor=False,
    )
    with st.container(horizontal=True, key="pair"):
        for side in ("left", "right"):
            with st.container(width=LARGE):
                what = "tampered" if side == tampered else "untouched"
                picture(now[side], f"The {side} picture, {what}: {now['article']}", LARGE)
                word, share = ("adv", "adv_p") if side == tampered else ("clean", "clean_p")
                said = now["standard"]
                st.markdown(f"{side.capitalize()}, {what}: **{said[word]}** ({said[share]:.0%})")
        with st.container(width=LARGE):
            picture(now["added_picture"], "What was added to every pixel; grey is nothing", LARGE)
            st.markdown(f"What was added, {pack['gain']} times as strong")
    st.button(
        "The result" if last else "Next round",
        key="next",
        on_click=_pass,
        args=(number,),
        type="primary",
        icon=":material/arrow_forward:",
    )


def _pass(number: int) -> None:
    if st.session_state["passed"] == number:
        st.session_state["passed"] = number + 1


def says(now: JSON) -> str:
    """A sentence on the two pictures of the round `now` (its entry in `story.json`): that a person
    sees the same class in both, and what the ordinary network predicts.
    """
    said, true = now["standard"], now["class"]
    if said["clean"] != true:
        return f"You see {now['article']} twice; the network says {said['clean']} even untouched."
    if not said["fooled"]:
        return f"You see {now['article']} twice, and so does the network."
    return f"You see {now['article']} twice; the network says {said['adv']}."


def reveal(pack: JSON, guesses: list[str]) -> None:
    """Draw how many attacked pictures the user found, on how many of them the ordinary network is
    fooled, and on how many of the test images that it gets right untouched. `guesses`: `left` or
    `right`, one for each round.
    """
    right = sum(
        guess == now["tampered"] for guess, now in zip(guesses, pack["rounds"], strict=True)
    )
    net, total = pack["standard"], len(guesses)
    st.subheader(
        f"You found {right} of {total}. The network was fooled by"
        f" {sum(now['standard']['fooled'] for now in pack['rounds'])} of {total}.",
        anchor=False,
    )
    st.markdown(
        f"No pixel changed by more than **{pack['eps_level']} of 255**. The ordinarily trained"
        f" network is right on {net['clean_k']} of {net['n']} untouched test images. Tampering"
        f" **fooled it on {net['fooled_k']} of those {net['clean_k']}**."
    )


def hold(pack: JSON) -> None:
    """Draw the question whether a network trained on attacked pictures withstands the attack.
    Once the user has guessed, draw the answer instead.
    """
    st.subheader("Will a network trained on attacked pictures withstand the attack?", anchor=False)
    if "hold" not in st.session_state:
        with st.container(horizontal=True):
            for word in ("Yes", "No"):
                st.button(
                    word,
                    key=f"hold-{word}",
                    type="primary",
                    width=144,
                    on_click=st.session_state.__setitem__,
                    args=("hold", word),
                )
        return
    net, ordinary = pack["robust"], pack["standard"]
    st.markdown(
        f"You said {st.session_state['hold'].lower()}. Attacked anew, the network trained by"
        f" **{net['label']}** stays right on **{net['robust_k']} of {net['n']}** test images. The"
        f" ordinary one stays right on {ordinary['robust_k']}. {price(pack)}"
    )
    with st.container(horizontal=True, key="held"):
        for now in pack["rounds"]:
            said = now["robust"]
            with st.container(width=SMALL):
                picture(
                    now["robust_picture"],
                    f"Tampered with against the second network, {now['article']}",
                    SMALL,
                )
                st.markdown(
                    f"**{said['adv']}** ({said['adv_p']:.0%}): "
                    + ("fooled" if said["fooled"] else "not fooled")
                )
    with st.popover("How sure?", type="tertiary"):
        st.markdown("\n".join(f"- {each}" for each in sure(pack)))


def price(pack: JSON) -> str:
    """A sentence on the clean accuracy of the two networks: whether the robust one's is shown to be
    lower or higher than the ordinary one's, with both counts.
    """
    robust, ordinary = pack["robust"]["clean_k"], pack["standard"]["clean_k"]
    low, high = pack["price"]["interval"]
    both = f"{robust} against {ordinary} of {pack['robust']['n']} are right"
    if low > 0:
        return f"Robustness has no price here: on untouched images, {both}."
    if high < 0:
        return f"The price of robustness: on untouched images, {both}."
    return f"On untouched images no difference is shown: {both}."


def sure(pack: JSON) -> list[str]:
    """Sentences on how the story was measured, caveats first."""
    net = pack["robust"]
    low, high = (f"{100 * share:.0f}" for share in net["interval"])
    gained, lost = pack["price"]["gained"], pack["price"]["lost"]
    worst = net.get("worst")
    return [
        "An attack gives an upper bound on robustness.",
        "Each method has one network here: with other seeds the result may differ.",
        f"The attack: {pack['attack']}, ε = {pack['eps_text']}, seed {pack['seed']}, full knowledge"
        " of the weights.",
        f"95% interval of the robust network's share: {low}–{high}%.",
        f"Untouched, {gained} images only the robust network gets right, {lost} only the ordinary"
        " one.",
        *(
            [
                f"Of {worst['n']} images {worst['worst_acc']:.0%} withstood every attack run:"
                f" {', '.join(worst['worst_attacks'])}."
            ]
            if worst
            else []
        ),
        f"The pictures were chosen at random with a fixed seed. Each was attacked on its own, by"
        f" {pack['shown']}, as on the Attack page.",
        f"Made by `{pack['command']}`.",
    ]


def onward(pack: JSON) -> None:
    """Draw the buttons at the bottom: to other pages, to start again (after the first guess), and
    questions that open the page that answers them, some with two networks already chosen.
    """
    st.divider()
    with st.container(horizontal=True, key="doors"):
        doors = (
            ("Take the tour", "tour", ":material/route:"),
            ("See the attack", "attack", ":material/bolt:"),
            ("Train a network", "train", ":material/model_training:"),
            ("Why does it work?", "features", ":material/scatter_plot:"),
        )
        for said, name, icon in doors:
            if st.button(said, key=f"to-{name}", icon=icon):
                shell.go(name)
        if st.session_state["guesses"]:
            st.button("Start again", key="again", on_click=shell.reset, type="tertiary")
    pair = {"data": "shapes", "a": pack["robust"]["run"], "b": pack["part"]}
    questions: tuple[tuple[str, str, JSON], ...] = (
        ("Is PART better than PGD-AT here?", "attack", pair),
        ("What does adversarial training do to the features?", "features", {}),
        ("Why does a larger budget cost clean accuracy?", "budget", {}),
    )
    with st.container(horizontal=True, key="questions"):
        for number, (said, name, chosen) in enumerate(questions):
            if st.button(said, key=f"ask-{number}", type="tertiary", icon=":material/help:"):
                st.session_state.update(chosen)
                shell.go(name)
