"""The Tour page: seven steps, each with a question that is answered only after a guess. Each step
has its own address. Guesses and score stay in the session; in a class the students' guesses are
votes, which the server counts (`ui.votes`).
"""

from __future__ import annotations

import dataclasses

import streamlit as st

from robustviz import memory
from robustviz.ui import networks, rights, shell, stage, votes
from robustviz.views.tour.step import Step, score
from robustviz.views.tour.steps import DATA, steps

POOLED = 3.0  # seconds between two updates of the class's votes


@memory.remembered(memory.ANSWERS)
def _steps(a: str, b: str) -> list[Step]:
    return steps(a, b)


def page() -> None:
    """Draw the whole page."""
    every = _steps(*networks.defaults(networks.on(DATA)))
    guesses = votes.mine()
    linked = shell.linked("step", 1, range(1, len(every) + 1))
    with st.container(horizontal=True, vertical_alignment="center", key="title-row"):
        st.title("Seven steps: what would you guess?", anchor=False, width="content")
        st.segmented_control(
            "Step",
            range(1, len(every) + 1),
            required=True,
            format_func=lambda number: f"{number} {every[number - 1].title}",
            label_visibility="collapsed",
            wrap=True,
            **linked,
        )
        if known := {key: at for key, at in guesses.items() if not votes.waits(key)}:
            st.markdown(score(every, [known.get(each.key) for each in every]), width="content")
    step = every[int(st.session_state["step"]) - 1]
    st.markdown(step.intro)
    asking = _asking(step) or votes.waits(step.key)
    if _asking(step):
        _ask(step)
    elif asking:
        _wait(step, guesses[step.key])
    else:
        votes.answered(step.key)
        _told(step, guesses.get(step.key), last=step is every[-1])
    if rights.mode() == "class" and rights.may_act():
        _lead(step)
    screen = step.before if asking and step.before else step.screen
    control = screen.control
    if control is not None:  # its position must not be shared with the page that the screen is from
        control = dataclasses.replace(control, key=f"{step.key}-at")
    stage.show(
        f"tour-{step.key}",
        dataclasses.replace(screen, control=control),
        asking=asking and step.hides,
    )
    shell.write_address()


def _asking(step: Step) -> bool:
    """Whether the step's question is open: this person has not guessed yet, and the answer was not
    revealed in this session. While a student's page waits for the teacher's, revealing has no
    effect.
    """
    revealed = not votes.waits(step.key) and step.key in st.session_state.get("revealed", ())
    return step.key not in votes.mine() and not revealed


def _reveal(step: Step) -> None:
    """Show the answer without a guess, as a lecturer does once the class has voted."""
    st.session_state["revealed"] = {*st.session_state.get("revealed", ()), step.key}
    _move(step, step.reveals)


def _ask(step: Step) -> None:
    with st.container(key="tour-ask"), st.form(f"ask-{step.key}", border=False):
        said = st.radio(step.question, step.options, index=None, horizontal=True)
        if st.form_submit_button("That is my guess", type="primary"):
            if said is None:
                st.markdown("Choose one first.")
            else:
                votes.cast(step.key, list(step.options).index(said))
                if not votes.waits(step.key):
                    _move(step, step.reveals)
                st.rerun()
    if votes.waits(step.key):
        st.markdown("The teacher's page will show the answer.")
    elif shell.presenting():
        st.button("Reveal", key="onward", on_click=_reveal, args=(step,))
    if rights.mode() == "class":
        _count(step)


@st.fragment(run_every=POOLED)
def _wait(step: Step, guess: int) -> None:
    """Draw a student's guess, and that the teacher's page will show the answer.
    Checked every `POOLED` seconds: the page reruns if the answer may be shown now, and if the
    teacher has cleared the votes.
    """
    if not votes.waits(step.key):
        _move(step, step.reveals)
        st.rerun()
    if _asking(step):
        st.rerun()
    st.markdown(f"You said *{step.options[guess]}*. The teacher's page will show the answer.")


def _lead(step: Step) -> None:
    """Draw the menu for the class's votes: to hold answers back, and to clear the votes."""
    st.session_state["hold-answers"] = votes.held()  # another page of the teacher may change it
    with st.popover("Votes", type="tertiary"):
        st.toggle(
            "Students see each answer only when I do",
            key="hold-answers",
            on_change=lambda: votes.hold(st.session_state["hold-answers"]),
        )
        st.button("Clear the class's votes", on_click=_clear, args=(step,))
        st.caption("Clearing removes the guesses at all steps, on all phones.")


def _told(step: Step, guess: int | None, last: bool) -> None:
    """Draw the answer, with buttons to the next step (unless this is the `last`) and to the page on
    which to continue. `guess`: the index of the guessed option; None if it was only revealed.
    """
    mine = verdict = ""
    if guess is not None:
        mine = f" You said *{step.options[guess]}*."
        verdict = "Yes. " if guess == step.right else "No. "
    st.markdown(f"{step.question}{mine} **{verdict}{step.told}**")
    if rights.mode() == "class":
        _class(step)
    with st.container(horizontal=True):
        name, _, query = step.address.partition("?")
        if not last:
            st.button("Next step", key="onward", type="primary", on_click=_next)
        if st.button(f"Continue on the page {name.capitalize()}", type="tertiary"):
            for key, value in (each.split("=") for each in query.split("&")):
                st.session_state[key] = int(value) if key == "img" else value
            shell.go(name)


@st.fragment(run_every=POOLED)
def _count(step: Step) -> None:
    """Draw how many students have guessed so far; updated every `POOLED` seconds."""
    st.markdown(votes.count(step.key))


@st.fragment(run_every=POOLED)
def _class(step: Step) -> None:
    """Draw how the class has guessed so far; updated every `POOLED` seconds.
    If the teacher has cleared the votes, the page reruns and asks the question again.
    """
    if _asking(step):
        _hide(step)
        st.rerun()
    st.markdown(f"The class: {votes.told(step.key, step.options) or 'nobody has voted.'}")


def _clear(step: Step) -> None:
    """Callback: remove the class's votes at all steps, so that their questions are asked again."""
    votes.clear()
    _hide(step)


def _hide(step: Step) -> None:
    """Move the slider back to its start, if it has a position that shows the answer."""
    if step.reveals is not None and step.screen.control:
        _move(step, step.screen.control.start)


def _move(step: Step, at: int | None) -> None:
    """Move the slider of the step's picture, if it has one, to the position with index `at`.
    None: do nothing.
    """
    if at is not None and step.screen.control:
        st.session_state[f"{step.key}-at"] = str(step.screen.control.values[at])


def _next() -> None:
    st.session_state["step"] = int(st.session_state["step"]) + 1
