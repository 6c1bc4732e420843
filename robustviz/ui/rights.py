"""Who may do what. On one's own computer everybody at it may do everything. In a class one person
teaches, and a public demo has nobody: all others look, and move what moves.

The mode is the environment's (`ROBUSTVIZ_MODE`, which `app --class` sets; `ROBUSTVIZ_DEMO=1`), so
nothing that a browser sends can change it. A teacher comes by a link whose token is good once;
the server prints the next one, for a browser that was reloaded.
"""

from __future__ import annotations

import os
import secrets
import sys
import threading

import streamlit as st

from robustviz.types import UserError

TEACHER = "robustviz-teacher"  # in a session's state, which no browser can write
SECRET = "X-Robustviz-Token"  # the header by which a proxy shows that it is the one
_turn = threading.Lock()
_tokens: set[str] = set()
_known: set[str] = set()


def mode() -> str:
    """`own`, `class`, `demo`, or `lab`: behind a proxy that says who asks."""
    if os.environ.get("ROBUSTVIZ_DEMO", "").strip() not in ("", "0"):
        return "demo"
    named = os.environ.get("ROBUSTVIZ_MODE", "").strip() or "own"
    return named if named in ("own", "class", "demo", "lab") else "demo"


def may_act() -> bool:
    """Whether this session may train, stop, remove, read folders and measure what takes long."""
    found = mode()
    if found == "own":
        return True
    if found == "lab":
        return user() in _listed("ROBUSTVIZ_TEACHERS")
    return found == "class" and bool(st.session_state.get(TEACHER))


def user() -> str:
    """Who the proxy in front says is asking: the header that `ROBUSTVIZ_USER_HEADER` names; empty
    where no proxy is trusted or nobody is named. Where there is a ROBUSTVIZ_TOKEN, the proxy must
    say that, too: others who have an account on the server can ask it without the proxy.
    """
    header = os.environ.get("ROBUSTVIZ_USER_HEADER", "").strip()
    secret = os.environ.get("ROBUSTVIZ_TOKEN", "")
    sent = st.context.headers if header else {}
    if secret and not _same(secret, str(sent.get(SECRET) or "")):
        return ""
    return str(sent.get(header) or "").strip()


def check(what: str) -> None:
    """Raises UserError where this session may not do `what`, as in "train"."""
    if not may_act():
        raise UserError(sentence(what))


def sentence(what: str) -> str:
    """That somebody else may do `what`, and what everybody may."""
    return f"{who()} may {what} here; everybody may look and move the sliders."


def who() -> str:
    """Who may act here, for a sentence."""
    return {"class": "Only the teacher", "lab": "Only who is named as a teacher"}.get(
        mode(), "Nobody"
    )


def _listed(name: str) -> list[str]:
    return [one.strip() for one in os.environ.get(name, "").split(",") if one.strip()]


def _same(one: str, other: str) -> bool:
    return secrets.compare_digest(one.encode(), other.encode("utf-8", "replace"))


def new_token() -> str:
    """A token that is good once."""
    with _turn:
        _tokens.add(token := secrets.token_urlsafe(18))
    return token


def greet() -> None:
    """Take up a token from the address, and take it out of the address, which may be on a
    projector.
    """
    said = st.query_params.get("teacher")
    if said is None:
        return
    del st.query_params["teacher"]
    if mode() != "class" or st.session_state.get(TEACHER):
        return
    first = os.environ.get("ROBUSTVIZ_TOKEN", "")
    with _turn:
        if first and first not in _known:
            _known.add(first)
            _tokens.add(first)
        good = next((one for one in _tokens if _same(one, said)), None)
        _tokens.discard(good or "")
    if good is None:
        st.warning("This teacher's link was used before; the server printed the next one.")
        return
    st.session_state[TEACHER] = True
    print(f"Next teacher's link: …/?teacher={new_token()}", file=sys.stderr, flush=True)
