"""A local file server that stands in for the public ones and can break off a download."""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import numpy as np
import pytest

from robustviz.data.mnist import MNIST


@dataclass
class Served:
    """The state of the server. `files`: their contents by name; `ranges`: whether it supports
    `Range` requests; `breaks`: after how many bytes each of the next answers breaks off; `asked`:
    the `Range` header of each request.
    """

    files: dict[str, bytes]
    ranges: bool = True
    breaks: list[int] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    url: str = ""


@contextmanager
def served(files: dict[str, bytes]) -> Iterator[Served]:
    """Serves the files at a free port of 127.0.0.1."""
    state = Served(files)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            content, asked = state.files[self.path.lstrip("/")], self.headers.get("Range", "")
            state.asked.append(asked)
            start = int(asked.removeprefix("bytes=").rstrip("-") or 0) if state.ranges else 0
            self.send_response(206 if start else 200)
            self.send_header("Content-Length", str(len(content) - start))
            self.end_headers()
            end = start + state.breaks.pop(0) if state.breaks else len(content)
            self.wfile.write(content[start:end])

        def log_message(self, *said: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    state.url = f"http://127.0.0.1:{server.server_port}/"
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def digits(monkeypatch: pytest.MonkeyPatch, state: Served, n: int = 60) -> None:
    """Makes torchvision download MNIST from this server, with `n` images of noise in each part."""
    import torchvision

    rng = np.random.default_rng(0)
    packed = {}
    for name in MNIST.packed:
        shape = (n, 28, 28) if "images" in name else (n,)
        head = bytes([0, 0, 8, len(shape)]) + np.array(shape, ">u4").tobytes()
        values = rng.integers(0, 256, shape) if len(shape) > 1 else np.arange(n) % 10
        content = gzip.compress(head + values.astype(np.uint8).tobytes())
        state.files[f"{name}.gz"] = content
        packed[name] = hashlib.md5(content).hexdigest(), len(content)
    monkeypatch.setattr(MNIST, "url", state.url)
    monkeypatch.setattr(MNIST, "packed", packed)
    resources = [(f"{name}.gz", md5) for name, (md5, _) in packed.items()]
    monkeypatch.setattr(torchvision.datasets.MNIST, "resources", resources)
    monkeypatch.setattr(torchvision.datasets.MNIST, "mirrors", [state.url])
