"""Who may train, stop and remove. On one's own computer everybody may; in a class only the teacher,
in a public demo nobody. All others may look and move the sliders.

The mode is set by environment variables (`ROBUSTVIZ_MODE`, `ROBUSTVIZ_DEMO=1`), so a browser cannot
change it.
"""

from __future__ import annotations

import os
import secrets
import sys
import threading

import streamlit as st

from robustviz.types import UserError

TEACHER = "robustviz-teacher"  # a key of the session state, which a browser cannot change
SECRET = "X-Robustviz-Token"  # the header with which the proxy proves that it is the right one
_turn = threading.Lock()
_tokens: set[str] = set()
_known: set[str] = set()


def mode() -> str:
    """The mode: `own` (the default: everybody may act), `class` (the teacher), `lab` (the users
    listed as teachers; a proxy says who the user is) or `demo` (nobody). It is `demo` if
    `ROBUSTVIZ_DEMO` is set, but not to 0, and for an unknown `ROBUSTVIZ_MODE`.
    """
    if os.environ.get("ROBUSTVIZ_DEMO", "").strip() not in ("", "0"):
        return "demo"
    named = os.environ.get("ROBUSTVIZ_MODE", "").strip() or "own"
    return named if named in ("own", "class", "demo", "lab") else "demo"


def may_act() -> bool:
    """Whether this session may train, stop, remove, read folders and start long measurements."""
    found = mode()
    if found == "own":
        return True
    if found == "lab":
        named = os.environ.get("ROBUSTVIZ_TEACHERS", "").split(",")
        return user() in [one.strip() for one in named if one.strip()]
    return found == "class" and bool(st.session_state.get(TEACHER))


def user() -> str:
    """The user's name according to the proxy: the header that `ROBUSTVIZ_USER_HEADER` names; empty
    if no header is named or it is missing. If ROBUSTVIZ_TOKEN is set, the proxy must also send that
    token, in the header `SECRET` (X-Robustviz-Token); else the name is empty, because other users
    of the server can send requests without the proxy.
    """
    header = os.environ.get("ROBUSTVIZ_USER_HEADER", "").strip()
    secret = os.environ.get("ROBUSTVIZ_TOKEN", "")
    sent = st.context.headers if header else {}
    if secret and not _same(secret, str(sent.get(SECRET) or "")):
        return ""
    return str(sent.get(header) or "").strip()


def check(what: str) -> None:
    """Raises UserError if this session may not do `what`, such as "train"."""
    if not may_act():
        raise UserError(sentence(what))


def sentence(what: str) -> str:
    """A sentence that says who may do `what` here, such as "train", and what everybody may do. In a
    class it also says where the teacher's link is, because a tab that was reloaded, or whose
    address was typed, is not the teacher's any more.
    """
    hint = " Teachers: the terminal has your link." if mode() == "class" else ""
    return f"{who()} may {what} here; everybody may look and move the sliders.{hint}"


def who() -> str:
    """Who may act here, as the subject of a sentence; for modes other than `own`."""
    return {"class": "Only the teacher", "lab": "Only users listed as teachers"}.get(
        mode(), "Nobody"
    )


def _same(one: str, other: str) -> bool:
    return secrets.compare_digest(one.encode(), other.encode("utf-8", "replace"))


def new_token() -> str:
    """Make a token for the teacher's link, valid once, and return it."""
    with _turn:
        _tokens.add(token := secrets.token_urlsafe(18))
    return token


def greet() -> None:
    """Remove the teacher's token from the address, if there is one, because the address may be
    visible on a projector. In a class, a valid token makes this session the teacher's, and a wrong
    one gives a warning. Each token is valid once: the server then prints a link with a new one,
    which the teacher needs after reloading the page.
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
        st.warning(
            "This teacher's link is wrong or was used before. The terminal has the next one."
        )
        return
    st.session_state[TEACHER] = True
    host = st.context.headers.get("Host")
    address = f"http://{host}" if host else "…"
    print(f"Next teacher's link: {address}/?teacher={new_token()}", file=sys.stderr, flush=True)
