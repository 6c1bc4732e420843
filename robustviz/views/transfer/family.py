"""Which runs are related by model alignment. Not in `probe`, because `probe` imports torch."""

from __future__ import annotations

from robustviz.runs.folder import Run


def origin(run: Run) -> tuple[str, ...]:
    """The ids (source, witness) of a run trained by `model_alignment`, "" where unknown: the source
    is the network that was aligned, the witness the one to which it was aligned. () for any other
    run.
    """
    return tuple(
        str(run.info.get("method", {}).get(role) or "").rstrip("/").rsplit("/", 1)[-1]
        for role in ("source", "witness")
        if run.method_key == "model_alignment"
    )
