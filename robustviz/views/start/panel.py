"""The first page: guess which picture was tampered with, then see what it did to a network and to
another one.

Everything shown was computed by `python -m robustviz.views.start.pack` and lies in
`checkpoints/story`; no torch, no Plotly.
"""

import streamlit as st

from robustviz import paths
from robustviz.runs.files import read_json
from robustviz.types import JSON, UserError
from robustviz.ui.shell import reset

FOLDER = paths.ROOT / "checkpoints" / "story"


def load() -> JSON:
    """The story pack. Raises UserError where it is missing."""
    if not (FOLDER / "story.json").exists():
        raise UserError("The story pack is missing: make it with `make story`.")
    return read_json(FOLDER / "story.json")


def picture(name: str, alt: str, width: int = 288) -> None:
    """One picture of the pack."""
    # not the picture's own width: Streamlit would pack it anew at every click
    st.container(width=width).image((FOLDER / name).read_bytes(), width="stretch", alt=alt)


def title() -> None:
    """The page's heading."""
    st.title("How little does it take to fool a network?")


def rounds(pack: JSON) -> bool:
    """Ask the next question; False once all are answered. A guess is kept in the session only."""
    guesses: list[str] = st.session_state.setdefault("guesses", [])
    if len(guesses) >= (total := len(pack["rounds"])):
        return False
    now = pack["rounds"][len(guesses)]
    st.header("One of these two pictures was tampered with. Which?", divider=False)
    st.markdown(
        f"Round {len(guesses) + 1} of {total} · drawn shapes, 32×32 pixels · no pixel moved by more"
        f" than {pack['eps_text']}"
    )
    for side, column in zip(("left", "right"), st.columns(3, gap="large"), strict=False):
        with column:
            picture(now[side], f"The {side} picture: {now['article']} on a textured background")
            st.button(
                side.capitalize(),
                key=f"guess-{side}",
                on_click=_guess,
                args=(len(guesses), side),
                type="primary",
                width=288,
            )
    return True


def _guess(number: int, side: str) -> None:
    """Take the answer to a question once: a second click on it may arrive when the next question is
    there.
    """
    if len(st.session_state["guesses"]) == number:
        st.session_state["guesses"].append(side)


def reveal(pack: JSON) -> None:
    """What was guessed, and what the ordinarily trained network said."""
    guesses = st.session_state["guesses"]
    right = sum(
        guess == now["tampered"] for guess, now in zip(guesses, pack["rounds"], strict=True)
    )
    net = pack["standard"]
    st.header(
        f"You found {right} of {len(guesses)}. The network was fooled by"
        f" {sum(now['standard']['fooled'] for now in pack['rounds'])}."
    )
    for column, guess, now in zip(
        st.columns(len(guesses), gap="medium"), guesses, pack["rounds"], strict=True
    ):
        with column:
            picture(now["tampered_picture"], f"The tampered picture, {now['article']}", 224)
            said = now["standard"]
            st.markdown(
                f"The **{now['tampered']}** one was tampered with; you said {guess}"
                f" {'✓' if guess == now['tampered'] else '✗'}  \nUntouched, the network says"
                f" **{said['clean']}** ({said['clean_p']:.0%}); tampered, **{said['adv']}**"
                f" ({said['adv_p']:.0%})."
            )
    st.markdown(
        f"No pixel changed by more than **{pack['eps_level']} of 255**. This ordinarily trained"
        f" network is right on {net['clean_k']} of {net['n']} untouched test images; tampering"
        f" **fooled it on {net['fooled_k']} of those {net['clean_k']}**. The three pictures were"
        " drawn by seed, not chosen."
    )


def hold(pack: JSON) -> None:
    """The second question: would a network that trained on attacked pictures hold?"""
    st.header("Will a network trained on attacked pictures hold?")
    if "hold" not in st.session_state:
        with st.container(horizontal=True):
            for answer in ("Yes", "No"):
                st.button(
                    answer,
                    key=f"hold-{answer}",
                    type="primary",
                    width=144,
                    on_click=st.session_state.__setitem__,
                    args=("hold", answer),
                )
        return
    net, ordinary = pack["robust"], pack["standard"]
    low, high = (f"{100 * share:.0f}" for share in net["interval"])
    st.markdown(
        f"You said {st.session_state['hold'].lower()}. Attacked anew, with full knowledge of its"
        f" weights, the network trained by **{net['label']}** stays right on **{net['robust_k']} of"
        f" {net['n']}** test images ({low}–{high} %); the ordinary one on {ordinary['robust_k']}."
        f" The price: untouched, it is right on {net['clean_k']} of {net['n']}, the ordinary one on"
        f" {ordinary['clean_k']}."
    )
    for column, now in zip(
        st.columns(len(pack["rounds"]), gap="medium"), pack["rounds"], strict=True
    ):
        with column:
            said = now["robust"]
            picture(
                now["robust_picture"],
                f"The picture tampered with against the second network, {now['article']}",
                224,
            )
            st.markdown(
                f"Untouched **{said['clean']}** ({said['clean_p']:.0%}); tampered **{said['adv']}**"
                f" ({said['adv_p']:.0%}): {'fooled' if said['fooled'] else 'it holds'}."
            )
    st.markdown(
        f"Measured with {pack['attack']}, ε = {pack['eps_text']}, seed {pack['seed']}, by"
        f" `{pack['command']}`. An attack gives an upper bound on robustness."
    )
    if worst := net.get("worst"):
        st.markdown(
            f"Of a set of {worst['n']} images **{worst['worst_acc']:.0%}** are right under every"
            f" attack run: {', '.join(worst['worst_attacks'])}."
        )


def onward() -> None:
    """Where to go from here."""
    st.divider()
    with st.container(horizontal=True):
        if st.session_state.get("guesses"):
            st.button("Start again", key="again", on_click=reset, icon=":material/restart_alt:")
        if st.button("How little does it take?", key="to-attack", icon=":material/bolt:"):
            st.switch_page(str(paths.ROOT / "pages" / "attack.py"))
        if st.button("Train your own", key="to-train", icon=":material/model_training:"):
            st.switch_page(str(paths.ROOT / "pages" / "train.py"))
