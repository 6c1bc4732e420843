"""Tests a class's server against people who are not its teacher: no message from a browser can
start, stop, resume or remove a training, or make a student a teacher.

Server and teacher are real. The teacher's messages are recorded byte by byte and sent again by
students, whose widgets have the same ids.
"""

from __future__ import annotations

import ast
import contextlib
import hashlib
import http.client
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from conftest import eventually
from sessions import Person
from streamlit.proto.BackMsg_pb2 import BackMsg
from streamlit.proto.ForwardMsg_pb2 import ForwardMsg

from benchmarks import b12_app
from robustviz import paths
from robustviz.runs import queue

TOKEN = "the-first-token-of-this-test"
ACTS = ("train-go", "pause", "resume", "stop")


class Taped(Person):
    """A session that records the messages it sends."""

    def __init__(self, server: b12_app.Server, page: str = "", query: str = "") -> None:
        self.tape: list[BackMsg] = []
        super().__init__(server, page, query)

    def _run(self, *given: Any, **named: Any) -> float:
        if not hasattr(self.socket, "plain"):
            self.socket.plain = self.socket.send  # type: ignore[attr-defined]
            self.socket.send = self._send  # type: ignore[method-assign]
        return super()._run(*given, **named)

    def _send(self, message: bytes) -> None:
        self.tape.append(BackMsg.FromString(message))
        self.socket.plain(message)  # type: ignore[attr-defined]

    def say(self, message: BackMsg) -> None:
        """Sends any message, and reads the answers until the script has finished. Fails where the
        server does not answer.
        """
        self.socket.send(message.SerializeToString())
        got: list[ForwardMsg] = []
        while not got or got[-1].WhichOneof("type") != "script_finished":
            got.append(ForwardMsg.FromString(bytes(self.socket.recv(timeout=120))))
        self._read([one for one in got if one.WhichOneof("type") != "ref_hash"], "")


@pytest.fixture
def lesson(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[b12_app.Server]:
    monkeypatch.setenv("ROBUSTVIZ_RUNS", str(tmp_path / "runs"))
    (tmp_path / "runs").mkdir()
    server = b12_app.app(tmp_path / "runs", ROBUSTVIZ_MODE="class", ROBUSTVIZ_TOKEN=TOKEN)
    try:
        yield server
    finally:
        for run in queue.mine():
            with contextlib.suppress(Exception):
                queue.stop(run)
        server.end()


def state() -> str:
    return queue.mine()[0].status()["state"] if queue.mine() else ""


def taught(teacher: Taped) -> None:
    """Presses the buttons that train, pause, resume and stop, one after the other."""
    for key, then in zip(ACTS, ("running", "paused", "running", "stopped"), strict=True):
        teacher.rerun(**{key: True})
        assert eventually(lambda then=then: state() == then), (
            f"{key} did not make it {then}: it is {state()}"
        )
        teacher.rerun()


def workers() -> list[int]:
    """Returns the process ids of workers that train one of this test's runs."""
    homes = [str(run.path) for run in queue.mine()]
    found = []
    for process in psutil.process_iter(["pid", "cmdline"]):
        line = process.info["cmdline"] or []
        if "robustviz.runs.worker" in line and any(home in line for home in homes):
            found.append(process.info["pid"])
    return found


def content(home: Path) -> dict[str, str]:
    return {
        str(path.relative_to(home)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(home.rglob("*"))
        if path.is_file() and ".zoo-cache" not in path.parts and path.suffix != ".lock"
    }


def forged(teacher: Taped, student: Taped) -> list[BackMsg]:
    """Returns messages that no student's page would send: the teacher's buttons, the teacher's mark
    and the form's fields with other values, all at once and one by one.
    """
    out = []
    pressed = (*ACTS, "remove")
    ids = {name: one for name, one in teacher.seen.items() if name in pressed or "train" in name}
    names = [*ids.values(), *ids, "robustviz-teacher", "$$ID-0-robustviz-teacher", "$$STREAMLIT"]
    for chosen in (names, *([name] for name in names)):
        for kind in ("trigger_value", "bool_value", "string_value", "json_value"):
            message = BackMsg()
            message.rerun_script.page_script_hash = student.page
            for name in chosen:
                widget = message.rerun_script.widget_states.widgets.add()
                widget.id = name
                setattr(widget, kind, "true" if kind.startswith(("string", "json")) else True)
            out.append(message)
    return out


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_no_message_of_a_student_starts_stops_resumes_or_removes_anything(lesson, tmp_path):
    home = tmp_path / "runs"
    teacher = Taped(lesson, "train", f"teacher={TOKEN}")
    teacher.seen = {}
    teacher.seen |= teacher.widgets
    taught(teacher)
    teacher.seen |= teacher.widgets
    assert not teacher.faults and "teacher" not in teacher.query
    run = queue.mine()[0]

    student = Taped(lesson, "train", f"job={run.id}")
    assert "remove" in teacher.seen
    assert not {*ACTS, "remove"} & set(student.widgets), "a student's page has a button"
    sent = [*teacher.tape, *forged(teacher, student)]

    def attack() -> None:
        for message in sent:
            message.rerun_script.query_string = f"job={run.id}&teacher={TOKEN}"
            student.say(message)
        assert not student.faults

    before = content(home)
    attack()  # On a run that could be resumed.
    assert content(home) == before and state() == "stopped" and not workers()

    queue.enqueue(run)  # On a run that could be stopped or paused.
    assert eventually(run.records), "the training does not go on"
    attack()
    assert state() == "running" and run.wanted() == "" and len(workers()) == 1
    queue.stop(run)
    shutil.rmtree(run.path)
    attack()  # Without any run.
    assert not queue.mine() and not [name for name in content(home) if "config" in name]

    # The same messages do start a training when a teacher sends them, so the test is meaningful.
    link = re.findall(r"\?teacher=(\S+)", lesson.log.read_text(errors="replace"))[-1]
    second = Taped(lesson, "train", f"teacher={link}")
    for message in teacher.tape[:2]:
        second.say(message)
    assert eventually(lambda: state() in ("queued", "running")), "a teacher's replay does not train"


@pytest.mark.long
@pytest.mark.timeout(300)
def test_a_student_cannot_become_a_teacher(lesson):
    Taped(lesson, "train", f"teacher={TOKEN}").leave()
    for said in (
        "",
        TOKEN,
        TOKEN[:-1],
        TOKEN + "x",
        "%C3%A9%F0%9F%98%80",
        "%00",
        "1&teacher=2",
        "*",
    ):
        student = Taped(lesson, "train", f"teacher={said}")
        assert "train-go" not in student.widgets, said
        assert not student.faults, said
        assert not lesson.log.read_text(errors="replace").count("Traceback")
        student.leave()
    student = Taped(lesson, "train")
    for message in forged_teachers():
        student.say(message)
    assert "train-go" not in student.widgets and not student.faults
    link = re.findall(r"\?teacher=(\S+)", lesson.log.read_text(errors="replace"))[-1]
    assert "train-go" in Taped(lesson, "train", f"teacher={link}").widgets


def forged_teachers() -> list[BackMsg]:
    out = []
    for name in ("robustviz-teacher", "$$ID-0-robustviz-teacher", "$$WIDGET_ID-robustviz-teacher"):
        message = BackMsg()
        widget = message.rerun_script.widget_states.widgets.add()
        widget.id, widget.bool_value = name, True
        out.append(message)
    return out


@pytest.mark.long
@pytest.mark.timeout(300)
def test_who_clears_the_cache_or_ends_the_server_harms_nobody(lesson):
    """Streamlit lets every browser clear the cache of `st.cache_data`, which all sessions share.
    The other messages are for Streamlit's own tests, and the last request is for programs without a
    browser.
    """
    other = Taped(lesson, "attack")
    other.rerun()
    before = dict(other.widgets)
    stranger = Taped(lesson, "attack")
    for said in ("clear_cache", "stop_script", "debug_shutdown_runtime", "load_git_info"):
        stranger.socket.send(BackMsg(**{said: True}).SerializeToString())
    # The server handles a session's messages in order, so this answer comes after the others.
    stranger.rerun()
    asked = http.client.HTTPConnection("127.0.0.1", lesson.port, timeout=10)
    asked.request("POST", "/_stcore/agent/interact", "{}", {"content-type": "application/json"})
    assert asked.getresponse().status in (403, 404)
    asked.close()
    other.widgets = {}
    other.rerun()
    assert not other.faults and other.widgets == before


def test_nothing_of_ours_is_kept_where_others_can_clear_it():
    for path in (*(paths.ROOT / "robustviz").rglob("*.py"), *(paths.ROOT / "pages").glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            name = getattr(node, "attr", getattr(node, "id", ""))
            assert name not in ("cache_data", "cache_resource"), f"{path}:{node.lineno}"


def test_who_acts_asks_whether_they_may():
    """Every function of a page that starts, stops or removes a training is in a file that checks
    the rights.
    """
    acts = re.compile(r"queue\.(submit|enqueue|ask|stop)\b|folder\.remove\b|runs\.remove\b")
    acting = {
        path: text
        for path in (
            *(paths.ROOT / "robustviz/views").rglob("*.py"),
            *(paths.ROOT / "pages").glob("*.py"),
        )
        # study.py runs in a terminal, not on a page.
        if path.name != "study.py" and acts.search(text := path.read_text(encoding="utf-8"))
    }
    assert acting
    assert not [path for path, text in acting.items() if "rights.check(" not in text]
