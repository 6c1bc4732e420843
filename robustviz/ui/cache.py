"""What pages ask for again and again. Keys are strings only: hashing arrays would take two different images for one."""

from __future__ import annotations

import json
from typing import Any

import streamlit as st

from robustviz import registry, runs
from robustviz.runs import Run
from robustviz.types import UserError


def open_by_id(run_id: str) -> Run:
    """The user's run with an id. An id from an address is never taken for a path."""
    if not runs.ID.fullmatch(run_id or ""):
        raise UserError(f"{run_id!r} is no run id; choose a run from the list.")
    return runs.open_run(run_id)


def probe(run_id: str, name: str, **settings: Any) -> Any:
    """A probe's result, from memory where it was asked for lately."""
    return _probe(run_id, _stamp(run_id), name, json.dumps(settings, sort_keys=True))


def _stamp(run_id: str) -> str:
    """Which weights the run has: a resumed run must not show old results."""
    return runs.open_model(run_id).weights


@st.cache_data(max_entries=512, show_spinner=False)
def _probe(run_id: str, stamp: str, name: str, settings: str) -> Any:
    spec = registry.build(registry.get("probe", name), json.loads(settings))
    return spec(runs.open_model(run_id))


def kept(run_id: str, name: str, **settings: Any) -> Any | None:
    """A slow probe's result if it is on disk already, else None."""
    spec = registry.build(registry.get("probe", name), settings)
    return spec.kept(runs.open_model(run_id))
