"""The users' guesses. In a class each student's guess is a vote, one per person and question, kept
in memory until the teacher clears the votes or the server ends. The guesses of the teacher, and of
everybody outside a class, are kept in their session and are no votes. The teacher may let the
students' pages hold back each answer until the teacher's page shows it.

A person is identified by Streamlit's cookie in the browser, or without it by the session.
"""

from __future__ import annotations

import hashlib
import secrets
import threading
from collections import Counter
from collections.abc import Sequence

import streamlit as st
from streamlit.web.server.starlette.starlette_app_utils import decode_xsrf_token_string

from robustviz.types import UserError
from robustviz.ui import rights

COOKIE = "_streamlit_xsrf"
MOST = 2000  # the most persons per question
_turn = threading.Lock()
_votes: dict[str, dict[str, int]] = {}  # question -> person -> position of the option
# the questions that the teacher has answered; None: the students' pages do not wait for that
_answered: set[str] | None = None


def mine() -> dict[str, int]:
    """This person's guesses: for each question, the index of the chosen option. A student's are
    read from the votes, so after `clear` every student can guess again.
    """
    if not _counted():
        return {str(key): int(at) for key, at in st.session_state.get("voted", {}).items()}
    voter = _voter()
    with _turn:
        return {key: cast[voter] for key, cast in _votes.items() if voter in cast}


def cast(question: str, option: int) -> None:
    """Save `option`, an index, as this person's guess, which replaces an earlier one; a student's
    is the person's vote. Raises UserError if `MOST` other people have voted on this question.
    """
    if not _counted():
        st.session_state.setdefault("voted", {})[question] = option
        return
    voter = _voter()
    with _turn:
        cast_so_far = _votes.setdefault(question, {})
        if voter not in cast_so_far and len(cast_so_far) >= MOST:
            raise UserError(f"This question has {MOST} votes, and no more are accepted.")
        cast_so_far[voter] = option


def hold(wait: bool) -> None:
    """From now on let the students' pages wait with each answer until the teacher's page shows it;
    if `wait` is False, let them show it after each student's own guess. Raises UserError if this
    session may not act; in a class only the teacher may.
    """
    global _answered
    rights.check("hold the answers back")
    with _turn:
        _answered = (_answered or set()) if wait else None


def answered(question: str) -> None:
    """Note that this session's page shows the answer to a question. If the session is the teacher's
    and the students' pages wait (`hold`), they now show it, too.
    """
    with _turn:
        if rights.may_act() and _answered is not None:
            _answered.add(question)


def waits(question: str) -> bool:
    """Whether this session is a student's, and its page must not show this answer yet."""
    with _turn:
        return _counted() and _answered is not None and question not in _answered


def held() -> bool:
    """Whether the students' pages hold back answers (see `hold`)."""
    return _answered is not None


def count(question: str) -> str:
    """How many have voted on a question, as a sentence; empty outside a class."""
    if rights.mode() != "class":
        return ""
    with _turn:
        total = len(_votes.get(question, {}))
    return f"{total} {'has' if total == 1 else 'have'} voted."


def told(question: str, options: Sequence[str]) -> str:
    """How the class voted, the most frequent option first, as Markdown: `31 of 40 say *17 of 200* ·
    9 say *100 of 200*.`; empty outside a class and before the first vote.
    """
    if rights.mode() != "class":
        return ""
    with _turn:
        counted = Counter(_votes.get(question, {}).values())
    total = sum(counted.values())
    each = [
        f"{count} of {total} say *{options[option]}*"
        if not place
        else f"{count} say{'s' * (count == 1)} *{options[option]}*"
        for place, (option, count) in enumerate(counted.most_common())
    ]
    return f"{' · '.join(each)}." if each else ""


def clear() -> None:
    """Remove all votes, this session's own guesses, and the notes of which questions are answered,
    for the next class. Raises UserError if this session may not act; in a class only the teacher
    may.
    """
    rights.check("clear the votes")
    for name in ("voted", "revealed"):
        st.session_state.pop(name, None)
    with _turn:
        _votes.clear()
        if _answered is not None:
            _answered.clear()


def _counted() -> bool:
    """Whether this session's guesses are votes of a class."""
    return rights.mode() == "class" and not rights.may_act()


def _voter() -> str:
    said = st.context.cookies.get(COOKIE)
    token = decode_xsrf_token_string(said)[0] if said else None
    if token:
        return hashlib.sha256(token).hexdigest()
    return str(st.session_state.setdefault("voter", secrets.token_hex(16)))
