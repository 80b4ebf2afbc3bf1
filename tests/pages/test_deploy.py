"""The Python of docs/deploy.md runs as it stands there; its commands are run by test_docs_commands.py."""

from __future__ import annotations

import http.client
import io
import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from lightning_ood.deploy import load
from tests.helpers.exported import write
from tests.helpers.runs import ROOT
from tests.helpers.tiny import Images
from tests.pages.test_docs_commands import BLOCK

BLOCKS = [text for _, kind, text in BLOCK.findall((ROOT / "docs" / "deploy.md").read_text()) if kind == "python"]
PICTURES = [Images(12, seed=6)[i][0] for i in range(12)]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with an exported detector, whose network the page's reader trusts, and images."""
    write(tmp_path / "deployed")
    PICTURES[0].save(tmp_path / "image.png")
    monkeypatch.chdir(tmp_path)
    trusting = load.load_detector

    def with_trust(folder: Any) -> Any:
        return trusting(folder, trust_code=True)

    monkeypatch.setattr(load, "load_detector", with_trust)
    monkeypatch.setattr("lightning_ood.deploy.monitor.load_detector", lambda folder, *_: with_trust(folder))
    return tmp_path


def block(word: str) -> str:
    found = [text for text in BLOCKS if word in text]
    assert len(found) == 1, word
    return found[0].replace('detector="energy"', 'detector="knn"').replace('["nap", "energy"]', '["nap", "knn"]')


def test_predict_and_watch(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, Any] = {"images": PICTURES, "paths": ["image.png"] * 3}
    exec(block('predict("image.png")'), names)
    assert "class" in capsys.readouterr().out
    exec(block("detector.stream"), names)
    assert capsys.readouterr().out.count("image.png") == 3
    exec(block("Monitor("), names)
    assert (place / "watched" / "index.html").is_file() and "False" in capsys.readouterr().out


def test_in_a_trainer(place: Path) -> None:
    names: dict[str, Any] = {"images": PICTURES}
    exec(
        block("class Guard").replace("logger=False", 'logger=False, accelerator="cpu", enable_progress_bar=False'),
        names,
    )
    assert [len(batch) for batch in names["found"]] == [4, 4, 4]


@pytest.fixture
def service(place: Path) -> Iterator[tuple[dict[str, Any], int]]:
    """The page's service on a port of loopback: its names and the port."""
    uvicorn = pytest.importorskip("uvicorn")
    names: dict[str, Any] = {"__name__": "service"}
    exec(compile(block("app = FastAPI"), "service.py", "exec"), names)
    server = uvicorn.Server(uvicorn.Config(names["app"], port=0, log_level="error"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield names, server.servers[0].sockets[0].getsockname()[1]
    server.should_exit = True
    thread.join()


def ask(port: int, body: bytes, stated: int | None = None) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("POST", "/", body, {} if stated is None else {"Content-Length": str(stated)})
    answer = connection.getresponse()
    return answer.status, answer.read()


def test_the_service_answers_8_clients(service: tuple[dict[str, Any], int]) -> None:
    names, port = service
    buffer = io.BytesIO()
    PICTURES[0].save(buffer, "PNG")
    expected = names["DETECTOR"].predict(PICTURES[0])[0]
    with ThreadPoolExecutor(8) as clients:
        answers = list(clients.map(lambda body: ask(port, body), [buffer.getvalue()] * 80))
    assert {status for status, _ in answers} == {200}
    assert {json.loads(body)["score"] for _, body in answers} == {expected.score}


def test_the_service_bounds_what_it_takes(service: tuple[dict[str, Any], int]) -> None:
    names, port = service
    assert ask(port, b"no image")[0] == 400 and ask(port, b"")[0] == 400
    names["LIMIT"], names["SECONDS"] = 100, 0.2
    assert ask(port, b"x" * 101)[0] == 413
    assert ask(port, b"x", stated=50)[0] == 408, "49 bytes never arrive"
