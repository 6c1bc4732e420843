"""Files that a browser uploads: who may upload, and how the files leave the server's memory as soon
as a page has taken them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import streamlit as st
from streamlit import runtime
from streamlit.runtime.scriptrunner import get_script_run_ctx
from streamlit.runtime.uploaded_file_manager import UploadedFile

from robustviz.ui import guard, rights

PAGES = ("your-data", "compare")  # the addresses of the pages with uploads


def take(
    label: str,
    key: str,
    use: Callable[[list[UploadedFile]], object],
    *,
    several: bool | str = False,
    help: str | None = None,
    megabytes: int | None = None,
) -> None:
    """Draw a place to upload files, each of at most `megabytes` (None: the server's limit).
    `several`: False for one file, True for many, "directory" for a folder. Uploaded files are
    passed to `use` and then removed from memory, also if `use` raises an error, which is passed on;
    else the page is rerun. Raises UserError if this session may not upload.
    """
    rights.check("upload")
    session = _invite()
    turn = st.session_state.setdefault(f"turn-{key}", 0)
    options: Any = {"accept_multiple_files": several, "max_upload_size": megabytes}
    found = st.file_uploader(label, key=f"{key}-{turn}", help=help, **options)
    files = [one for one in (found if isinstance(found, list) else [found]) if one is not None]
    if not files:
        return
    try:
        use(files)
    finally:
        _forget(session, files)
        st.session_state[f"turn-{key}"] = turn + 1  # a new widget without files
    st.rerun()


def leave(address: str) -> None:
    """If the page at `address` has no uploads, forbid this session to upload, and remove the files
    that it has sent.
    """
    context = get_script_run_ctx()
    if context and address not in PAGES and guard.dismiss(context.session_id):
        context.uploaded_file_mgr.remove_session_files(context.session_id)


def _invite() -> str:
    context = get_script_run_ctx()
    session = context.session_id if context else ""
    known = runtime.get_instance().is_active_session if runtime.exists() else (lambda _: True)
    guard.invite(session, known)
    return session


def _forget(session: str, files: Sequence[UploadedFile]) -> None:
    context: Any = get_script_run_ctx()
    for one in files:
        one.close()
        if context:
            context.uploaded_file_mgr.remove_file(session_id=session, file_id=one.file_id)
