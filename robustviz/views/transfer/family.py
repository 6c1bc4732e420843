"""Which runs are related by model alignment; apart from `probe`, which imports torch."""

from __future__ import annotations

from robustviz.runs.folder import Run


def origin(run: Run) -> tuple[str, ...]:
    """Run ids of (source, witness) of an aligned copy, as its training recorded them; empty for any
    other run.
    """
    return tuple(
        str(run.info.get("method", {}).get(role) or "").rstrip("/").rsplit("/", 1)[-1]
        for role in ("source", "witness")
        if run.method_key == "model_alignment"
    )
