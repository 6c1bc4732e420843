"""Tests own pictures in a real browser: uploaded, checked, trained on, attacked, compared, taken
home and removed; and refused where they are hostile.
"""

from __future__ import annotations

import io
import json
import re
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.request import ProxyHandler, build_opener

import nbformat
import numpy as np
import pytest
from nbclient import NotebookClient
from PIL import Image
from playwright.sync_api import FilePayload, Page, expect

from tests.browser.test_journeys import choose, serious

ROOT = Path(__file__).resolve().parents[2]
Settled = Callable[[Page], Page]


def photographs(count: int, side: int = 48) -> dict[str, bytes]:
    """Returns JPEG files, by file name, cut from two photographs that scikit-learn ships."""
    from sklearn.datasets import load_sample_images

    rng, files = np.random.default_rng(0), {}
    for name, photo in zip(("china", "flower"), load_sample_images().images, strict=True):
        for i in range(count):
            y, x = (int(rng.integers(0, most - side)) for most in photo.shape[:2])
            out = io.BytesIO()
            Image.fromarray(photo[y : y + side, x : x + side]).save(out, "JPEG", quality=95)
            files[f"photos/{name}/{i}.jpg"] = out.getvalue()
    return files


def packed(files: dict[str, bytes], name: str = "Photos.zip") -> FilePayload:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for path, content in files.items():
            archive.writestr(path, content)
    return FilePayload(name=name, mimeType="application/zip", buffer=out.getvalue())


def send(page: Page, settled: Settled, *files: FilePayload) -> None:
    """Drops files, and waits until the page has received them."""
    with page.expect_response(lambda answer: "/upload_file/" in answer.url) as answer:
        page.locator("input[type=file]").set_input_files(list(files))
    assert answer.value.status == 204
    expect(page.get_by_test_id("stFileUploaderFile")).to_have_count(0)
    settled(page)


def in_memory(server: str) -> str:
    """Returns what the server reports of the memory used by uploads; empty if there are none."""
    opener = build_opener(ProxyHandler({}))
    told = opener.open(f"{server}/_stcore/metrics", timeout=60).read().decode()
    return "".join(line for line in told.splitlines() if "UploadedFileManager" in line)


def files_below(folder: Path) -> list[str]:
    return [path.name for path in folder.rglob("*") if path.is_file()]


def hostile() -> dict[str, tuple[FilePayload, str]]:
    """Returns hostile files, each with a part of the message that refuses it."""
    link = io.BytesIO()
    with zipfile.ZipFile(link, "w") as archive:
        info = zipfile.ZipInfo("a/passwords.png")
        info.external_attr = 0o120777 << 16
        archive.writestr(info, "/etc/passwd")
    many = packed({"a/x.png": b""})["buffer"]
    at = many.rindex(b"PK\x05\x06") + 8
    many = many[:at] + struct.pack("<HH", 60_000, 60_000) + many[at + 4 :]
    small = io.BytesIO()
    Image.new("RGB", (1, 1)).save(small, "PNG")
    # 70 files of 30 MB, as the archive itself says: that it says so is enough to refuse it.
    bomb = packed({f"a/{i}.png": b"0" for i in range(70)})["buffer"]
    sizes = struct.pack("<II", 3, 1), struct.pack("<II", 3, 30_000_000)
    bomb = FilePayload(name="b.zip", mimeType="application/zip", buffer=bomb.replace(*sizes))
    zipped = "application/zip"
    return {
        "outside": (packed({"../../evil.png": b"x"}), "outside itself"),
        "absolute": (packed({"/tmp/evil.png": b"x"}), "outside itself"),
        "a link": (FilePayload(name="l.zip", mimeType=zipped, buffer=link.getvalue()), "a link"),
        "a bomb": (bomb, "would unpack to 2.1 GB"),
        "too many": (FilePayload(name="m.zip", mimeType=zipped, buffer=many), "50,000 files"),
        "one pixel": (packed({"a/x.png": small.getvalue()}), "it has 1×1 pixels"),
        "text": (packed({"a/x.png": b"hello"}), "it is not a picture"),
        "no zip": (FilePayload(name="x.zip", mimeType=zipped, buffer=b"hello"), "neither a zip"),
    }


def test_what_is_hostile_is_one_sentence_and_leaves_nothing(page, fresh_server, settled):
    app = fresh_server()
    page.goto(f"{app.url}/your-data")
    settled(page)
    for what, (file, said) in hostile().items():
        send(page, settled, file)
        fault = page.get_by_test_id("stAlert")
        expect(fault, what).to_have_count(1)
        expect(fault, what).to_contain_text(said)
        assert not in_memory(app.url), what
    assert not files_below(app.log.parent / "runs")
    send(page, settled, packed(photographs(10)))
    expect(page.get_by_text("20 pictures")).to_be_visible()
    assert not in_memory(app.url)
    found = serious(page)
    assert not found, "\n".join(found)
    page.get_by_role("button", name="Throw away").click()
    settled(page)
    assert not files_below(app.log.parent / "runs")
    assert "Traceback" not in app.said()


def test_a_folder_keeps_its_classes(page, server, server_runs, settled, tmp_path):
    for path, content in photographs(3).items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_bytes(content)
    page.goto(f"{server}/your-data?bring=folder")
    settled(page)
    page.locator("input[type=file]").set_input_files(tmp_path / "photos")
    expect(page.get_by_text("6 pictures")).to_be_visible()
    expect(page.get_by_text("china, 3 pictures")).to_be_visible()
    settled(page)
    expect(page.get_by_role("textbox", name="Name")).to_have_value("photos")
    page.get_by_role("button", name="Throw away").click()
    settled(page)


@pytest.mark.parametrize("mode", [{"ROBUSTVIZ_DEMO": "1"}, {"ROBUSTVIZ_MODE": "class"}])
def test_students_and_visitors_upload_nothing(page, fresh_server, settled, problems, mode):
    app = fresh_server(**mode)
    sessions: list[str] = []
    page.on(
        "websocket",
        lambda socket: socket.on(
            "framereceived",
            lambda sent: sessions.extend(
                re.findall(rb"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", bytes(sent))
            ),
        ),
    )
    page.goto(f"{app.url}/your-data")
    settled(page)
    expect(page.get_by_text("may add pictures here")).to_be_visible()
    expect(page.locator("input[type=file]")).to_have_count(0)
    told = {one.decode() if isinstance(one, bytes) else one for one in sessions}
    assert told  # The session's own id must be among them.
    for session in told:
        status = page.evaluate(
            """async session => {
              const form = new FormData()
              form.append("f", new File(["x"], "x.png"))
              const url = `/_stcore/upload_file/${session}/a-file`
              const cookie = document.cookie.match(/_streamlit_xsrf=([^;]*)/)
              const headers = cookie ? {"X-Xsrftoken": decodeURIComponent(cookie[1])} : {}
              return (await fetch(url, {method: "PUT", body: form, headers})).status
            }""",
            session,
        )
        assert status == 403
    assert not in_memory(app.url)
    problems[:] = [problem for problem in problems if "403" not in problem]


def trained(page: Page, settled: Settled, method: str, epochs: int) -> None:
    """Chooses a method on the Train page, where the data is already chosen, and trains."""
    choose(page, "Method", method)
    settled(page)
    page.get_by_text("More settings").click()
    epoch = page.get_by_label("epochs", exact=True)
    epoch.fill(str(epochs))
    epoch.press("Enter")
    settled(page)
    page.get_by_role("button", name="Train", exact=True).click()
    expect(page.get_by_role("button", name="Attack it")).to_be_visible(timeout=900_000)
    settled(page)


def again(content: bytes, where: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Runs a notebook in another folder without any runs, and returns what it prints."""
    made: Any = nbformat.reads(content.decode(), as_version=4)
    where.mkdir()
    monkeypatch.setenv("ROBUSTVIZ_RUNS", str(where / "runs"))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    NotebookClient(made, timeout=900, resources={"metadata": {"path": str(where)}}).execute()
    printed = (cell.get("outputs", ()) for cell in made.cells if cell.cell_type == "code")
    return "".join(output.get("text", "") for outputs in printed for output in outputs)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_photographs_are_sent_trained_on_attacked_compared_and_repeated_elsewhere(
    page, fresh_server, settled, problems, tmp_path, monkeypatch
):
    app = fresh_server(OMP_NUM_THREADS="1")
    runs = app.log.parent / "runs"
    page.goto(f"{app.url}/your-data")
    settled(page)
    send(page, settled, packed(photographs(120)))
    expect(page.get_by_text("240 pictures")).to_be_visible()
    page.get_by_role("button", name="Keep them").click()
    settled(page)
    page.get_by_role("button", name="Train on it").click()
    settled(page)
    trained(page, settled, "Defence · PART", 3)
    page.get_by_role("button", name="Attack it").click()
    settled(page)
    expect(page.get_by_role("heading", name="How little does it take?")).to_be_visible()
    expect(page.locator(".screen .picture")).to_be_visible()
    page.goto(f"{app.url}/your-data")
    settled(page)
    page.get_by_role("button", name="Train on it").click()
    settled(page)
    trained(page, settled, "Defence · PGD-AT", 3)
    with page.expect_download() as download:
        page.get_by_role("button", name="Notebook that repeats it").click()
    notebook = download.value.path().read_bytes()
    made = {
        config["method"]["key"]: path.parent
        for path in sorted(runs.glob("*/config.json"))
        for config in [json.loads(path.read_text(encoding="utf-8"))]
    }
    assert set(made) == {"part", "pgd_at"}
    assert all(path.name.startswith("photos-") for path in made.values())
    page.goto(f"{app.url}/compare?data=photos&a={made['pgd_at'].name}&b={made['part'].name}")
    settled(page)
    expect(page.locator(".screen .answer").first).to_be_visible()
    page.get_by_role("button", name="Take home").first.click()
    with page.expect_download() as download:
        page.get_by_role("button", name=re.compile("This screen")).click()
    assert b"PART" in download.value.path().read_bytes()
    said = again(notebook, tmp_path / "elsewhere", monkeypatch)
    (test,) = json.loads((made["pgd_at"] / "eval.json").read_text())["evaluations"]
    clean, robust = test["clean_k"], test["robust_k"]
    assert f"of {test['n']} images {clean} right untouched, {robust} attacked" in said, said
    assert f"recorded {clean} and {robust}: the same" in said, said
    page.goto(f"{app.url}/your-data")
    settled(page)
    page.get_by_role("button", name="Remove", exact=True).click()
    page.get_by_role("dialog").get_by_role("button", name="Remove", exact=True).click()
    expect(page.get_by_role("dialog")).to_have_count(0)
    settled(page)
    assert not list(runs.glob("photos-*")) and not files_below(runs / ".data")
    assert "Traceback" not in app.said()
    problems[:] = [problem for problem in problems if "/media/" not in problem]
