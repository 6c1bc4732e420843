"""Which runs are related by model alignment; apart from `probe`, which imports torch."""

from __future__ import annotations

from robustviz.runs.folder import Run


def origin(run: Run) -> tuple[str, ...]:
    """For a run trained by `model_alignment`: the ids of its source, the network that was aligned,
    and of the witness, to which it was aligned, "" where unknown. () for any other run.
    """
    return tuple(
        str(run.info.get("method", {}).get(role) or "").rstrip("/").rsplit("/", 1)[-1]
        for role in ("source", "witness")
        if run.method_key == "model_alignment"
    )
