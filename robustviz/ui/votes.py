"""What is guessed. In a class it is pooled: one vote a person and question, kept in the server's
memory until the teacher clears it or the server ends. Elsewhere a guess stays in its session.

A person is a browser, by the cookie that Streamlit gives it: a phone that slept and came back, with
a new session, finds what it guessed and adds no vote. Without a cookie a session is a person.
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
MOST = 2000  # persons a question
_turn = threading.Lock()
_votes: dict[str, dict[str, int]] = {}  # by question: who guessed which option


def mine() -> dict[str, int]:
    """What this person guessed, by question: the position of the option. In a class these are the
    votes that count, so whoever's vote was cleared may guess again.
    """
    if rights.mode() != "class":
        return {str(key): int(at) for key, at in st.session_state.get("voted", {}).items()}
    voter = _voter()
    with _turn:
        return {key: cast[voter] for key, cast in _votes.items() if voter in cast}


def cast(question: str, option: int) -> None:
    """Take down this person's guess, in place of an earlier one, and count it in a class. Raises
    UserError where more persons vote than a class has.
    """
    if rights.mode() != "class":
        st.session_state.setdefault("voted", {})[question] = option
        return
    voter = _voter()
    with _turn:
        cast_so_far = _votes.setdefault(question, {})
        if voter not in cast_so_far and len(cast_so_far) >= MOST:
            raise UserError(f"{MOST} votes were cast on this question, which is more than a class.")
        cast_so_far[voter] = option


def told(question: str, options: Sequence[str]) -> str:
    """How the class guessed, most first, as in `31 of 40 say 17 of 200, 9 say 100 of 200`; empty
    outside a class and before anybody voted.
    """
    if rights.mode() != "class":
        return ""
    with _turn:
        counted = Counter(_votes.get(question, {}).values())
    total = sum(counted.values())
    each = [
        f"{count} of {total} say *{options[option]}*"
        if not place
        else f"{count} *{options[option]}*"
        for place, (option, count) in enumerate(counted.most_common())
    ]
    return f"{', '.join(each)}." if each else ""


def clear() -> None:
    """Forget all votes: for the next class. Raises UserError for anybody but the teacher."""
    rights.check("clear the votes")
    with _turn:
        _votes.clear()


def _voter() -> str:
    said = st.context.cookies.get(COOKIE)
    token = decode_xsrf_token_string(said)[0] if said else None
    if token:
        return hashlib.sha256(token).hexdigest()
    return str(st.session_state.setdefault("voter", secrets.token_hex(16)))
