"""Sends requests to the service of docs/deploy.md from several clients at once and measures their latency.

python experiments/deploy/load.py --detector deployed --image image.png
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import re
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
import uvicorn
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from lightning_ood.report.markdown import markdown_table  # noqa: E402


def service(detector: Path) -> dict[str, Any]:
    """Returns the names of the page's service, for an exported folder."""
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "deploy.md").read_text(), re.S)
    text = next(block for block in blocks if "FastAPI()" in block).replace('"deployed"', repr(str(detector)))
    names: dict[str, Any] = {"__name__": "service"}
    exec(compile(text, "service.py", "exec"), names)
    return names


def ask(port: int, body: bytes) -> tuple[float, float | None]:
    """Returns the seconds of a request and the score in its answer, None after an error."""
    start = time.perf_counter()
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("POST", "/", body)
    answer = connection.getresponse()
    text = answer.read()
    return time.perf_counter() - start, json.loads(text)["score"] if answer.status == 200 else None


def forwards(names: dict[str, Any], image: Path, count: int = 50) -> list[float]:
    """Returns the seconds of bare forward passes of one image."""
    detector, found = names["DETECTOR"], []
    tensor = detector.preprocess.transform()(Image.open(image).convert("RGB"))[None]
    with torch.inference_mode():
        for _ in range(count):
            start = time.perf_counter()
            detector.backbone.network(tensor)
            found.append(time.perf_counter() - start)
    return found


def measure(names: dict[str, Any], image: Path, clients: int, requests: int) -> dict[str, str]:
    """Starts the service, sends the requests, and returns the row of the table."""
    server = uvicorn.Server(uvicorn.Config(names["app"], port=0, log_level="error"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    port, body = server.servers[0].sockets[0].getsockname()[1], image.read_bytes()
    ask(port, body)  # the first loads what is loaded late
    alone = [ask(port, body)[0] for _ in range(50)]
    start = time.perf_counter()
    with ThreadPoolExecutor(clients) as pool:
        found = list(pool.map(lambda one: ask(port, one), [body] * requests))
    spent = time.perf_counter() - start
    server.should_exit = True
    thread.join()
    seconds, scores = [row[0] for row in found], [row[1] for row in found]
    return {
        "clients": str(clients),
        "requests": str(requests),
        "errors": str(scores.count(None)),
        "distinct scores": str(len({*scores} - {None})),
        "requests/s": f"{requests / spent:.0f}",
        "median ms": f"{1000 * np.median(seconds):.1f}",
        "95 % ms": f"{1000 * np.quantile(seconds, 0.95):.1f}",
        "one client, ms": f"{1000 * np.median(alone):.1f}",
        "bare forward, ms": f"{1000 * np.median(forwards(names, image)):.1f}",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--detector", type=Path, required=True)
    parser.add_argument("--image", type=Path, required=True)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--requests", type=int, default=1000)
    options = parser.parse_args()
    names = service(options.detector)
    row = measure(names, options.image, options.clients, options.requests)
    print(markdown_table(list(row), [list(row.values())]))
    print(f"{os.cpu_count()} cores, {torch.get_num_threads()} threads; {', '.join(names['DETECTOR'].detectors)}")


if __name__ == "__main__":
    main()
