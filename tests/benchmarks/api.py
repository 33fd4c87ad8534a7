"""The HTTP API: what a request costs beside the image, many clients at once, many followers, large bodies, the start.

The images are gradients that are drawn within the server, so nearly all of a request's time is overhead. The server
without the page runs in this process but for the start, whose figures are of processes of their own.
"""

from __future__ import annotations

import base64
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
os.environ.setdefault("REPRISE_API_ONLY", "1")
FULL, SHORT = (40, 50, 1000, 200, 100), (15, 20, 200, 50, 40)
"""Requests that are timed; clients and requests of a crowd; followers of one job, and its steps."""


def main(*, full: bool = False) -> None:
    """Print one line a figure; with ``full`` as much of everything as its figures are noted for."""
    timed, clients, requests, followers, steps = FULL if full else SHORT
    import httpx
    import numpy as np
    from PIL import Image

    from modules.imaging.files import png_bytes
    from tests.webui.fake_server import Painter, services

    data = Path(tempfile.mkdtemp())
    drawn = Image.fromarray(np.random.default_rng(1).integers(0, 255, (512, 512, 3), np.uint8))
    encoding, _ = _median(lambda: png_bytes(drawn), 10)

    class Quick(Painter):
        """A 512x512 image of noise at once; what it takes to encode is subtracted."""

        def __call__(self, job_id: str, spec: dict[str, Any], emit: Any, control: Any) -> dict[str, Any]:
            params = spec["params"]
            for step in range(1, params["steps"] + 1):
                working = time.thread_time()
                emit({"type": "step", "step": step, "steps": params["steps"], "image": 1, "images": 1, "eta_s": 0})
                telling.append(time.thread_time() - working)
                time.sleep(PACE_S if "slow" in params["prompt"] else 0)
            begin, working = time.perf_counter(), time.thread_time()
            image = drawn if params["width"] == 512 else drawn.resize((64, 64))
            saved = self.gallery.save(image, seed=params["seed"], infotext="a fox\nSteps: 1", job=job_id)
            spent.append(time.perf_counter() - begin)
            worked.append(time.thread_time() - working)
            told = {"path": str(saved.path), "infotext": "a fox", "seed": params["seed"], "width": 512, "height": 512}
            emit({"type": "image", **told})
            return {"images": [told], "infotext": "a fox", "notes": [], "seconds": 0.0}

    import tests.webui.fake_server as fake

    spent: list[float] = []
    worked: list[float] = []
    telling: list[float] = []
    fake.Painter = Quick  # type: ignore[misc]
    with services(data) as given, _Served(given) as url, httpx.Client(base_url=url, timeout=600) as client:
        body = {"prompt": "a fox", "steps": 1, "width": 512, "height": 512, "seed": 1}
        client.post("/sdapi/v1/txt2img", json=body)
        spent.clear()
        worked.clear()
        whole, busy = _median(lambda: client.post("/sdapi/v1/txt2img", json=body).raise_for_status(), timed)
        saving, drawing = statistics.median(spent), statistics.median(worked)
        print(f"/sdapi/v1/txt2img of 512x512: {whole * 1e3:.1f} ms, of which saving {saving * 1e3:.1f} ms", end="")
        print(f" (PNG alone {encoding * 1e3:.1f} ms): overhead {(whole - saving) * 1e3:.1f} ms", end="")
        print(f", {(busy - drawing) * 1e3:.1f} ms of processor time with the client's")
        spent.clear()
        worked.clear()
        whole, busy = _median(lambda: _ours(client, body), timed)
        saving, drawing = statistics.median(spent), statistics.median(worked)
        print(
            f"/api/v1/jobs, its events and the image: {whole * 1e3:.1f} ms: overhead {(whole - saving) * 1e3:.1f} ms",
            end="",
        )
        print(f", {(busy - drawing) * 1e3:.1f} ms of processor time with the client's")
        _crowd(url, body | {"width": 64, "height": 64}, clients, requests)
        _followers(url, followers, steps, telling)
        if full:
            _large(client)
    if full:
        _starts()


PACE_S = 0.02


class _Served:
    """The application on a port of 127.0.0.1, in a thread."""

    def __init__(self, services: Any):
        import uvicorn

        from webui.server import create_app, listen

        self._listener = listen("127.0.0.1", 0)
        config = uvicorn.Config(create_app(services, page=False), log_level="error", access_log=False)
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, kwargs={"sockets": [self._listener]}, daemon=True)

    def __enter__(self) -> str:
        self._thread.start()
        while not self._server.started:
            time.sleep(0.01)
        return f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def __exit__(self, *_: object) -> None:
        self._server.should_exit = True
        self._thread.join()


def _median(call: Any, times: int) -> tuple[float, float]:
    """Seconds on the clock, and of this process's processor time: those hardly change where others work beside it."""
    seconds, busy = [], []
    for _ in range(times):
        begin, working = time.perf_counter(), time.process_time()
        call()
        seconds.append(time.perf_counter() - begin)
        busy.append(time.process_time() - working)
    return statistics.median(seconds), statistics.median(busy)


def _ours(client: Any, params: dict[str, Any]) -> None:
    """A job of our own API: submitted, followed to its end, its image fetched."""
    job = client.post("/api/v1/jobs", json={"params": params}).raise_for_status().json()
    events = client.get(job["events"]).raise_for_status().text
    last = json.loads(events.strip().rpartition("data: ")[2])
    client.get(last["output"]["images"][0]["url"]).raise_for_status()


def _resident() -> float:
    """MB of this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS"))


def _peak() -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))


def _crowd(url: str, body: dict[str, Any], clients: int, requests: int) -> None:
    import httpx

    def asked(number: int) -> bool:
        answer = httpx.post(f"{url}/sdapi/v1/txt2img", json={**body, "seed": number}, timeout=600)
        found = json.loads(answer.json()["info"]) if answer.status_code == 200 else {}
        marks.append(_resident())
        return bool(found) and found["seed"] == number

    marks: list[float] = []
    begin = time.perf_counter()
    with ThreadPoolExecutor(clients) as pool:
        kept = sum(pool.map(asked, range(requests)))
    seconds, half = time.perf_counter() - begin, len(marks) // 2
    print(f"{requests} requests of {clients} clients: {requests - kept} lost, {seconds:.0f} s, resident ", end="")
    middle, last = statistics.mean(marks[half : half + 50]), statistics.mean(marks[-50:])
    print(f"{middle:.0f} MB at the half, {last:.0f} MB at the end")


def _followers(url: str, count: int, steps: int, telling: list[float]) -> None:
    """What following a job costs its sampler: ``telling`` is the processor time of its thread for each step that it
    tells of. The followers are threads of this process, so that the clock counts their work as well."""
    import httpx

    def lasting(followers: int) -> tuple[float, int]:
        job = httpx.post(
            f"{url}/api/v1/jobs", json={"params": {"prompt": "slow", "steps": steps, "width": 64, "height": 64}}
        )
        events = f"{url}{job.json()['events']}"
        begin = time.perf_counter()
        with ThreadPoolExecutor(followers + 1) as pool:
            told = list(
                pool.map(lambda _: httpx.get(events, timeout=600).text.count("event: done"), range(followers + 1))
            )
        return time.perf_counter() - begin, sum(told)

    telling.clear()
    alone, _ = lasting(0)
    few = statistics.median(telling)
    telling.clear()
    crowded, ended = lasting(count)
    many = statistics.median(telling)
    print(f"telling of a step takes the sampler {few * 1e3:.2f} ms, {many * 1e3:.2f} ms with {count} more followers")
    print(
        f"{steps} steps of {PACE_S * 1e3:.0f} ms: {alone:.2f} s with one follower, {crowded:.2f} s with {count} more",
        end="",
    )
    print(f", {ended} of {count + 1} were told the end")


def _large(client: Any) -> None:
    """A picture of 100 MB in base64; the body is sent from the disk, so that it counts in the server alone."""
    from PIL import Image

    out = BytesIO()
    Image.new("RGB", (512, 512)).save(out, "PNG")
    png = out.getvalue()
    path = Path(tempfile.mkdtemp()) / "body.json"
    with path.open("wb") as file:
        file.write(b'{"image": "')
        file.write(base64.b64encode(png + b"\0" * ((3 - len(png)) % 3)))
        file.write(b"AAAA" * (25_000_000 - len(png) // 3))
        file.write(b'"}')
    before = _resident()
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    with path.open("rb") as file:
        headers = {"content-type": "application/json", "content-length": str(path.stat().st_size)}
        answer = client.post("/api/v1/inputs", content=file, headers=headers)
    print(f"100 MB of base64: status {answer.status_code}, {_peak() - before:.0f} MB above {before:.0f} MB")


def _starts() -> None:
    for flags in (["--api-only"], []):
        data = tempfile.mkdtemp()
        command = [sys.executable, str(ROOT / "app.py"), "--data-dir", data, "--port", "23819", *flags]
        begin = time.perf_counter()
        env = {name: value for name, value in os.environ.items() if name != "REPRISE_API_ONLY"}
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=env)
        assert process.stdout
        line = next((line for line in process.stdout if "serves" in line), "")
        seconds = time.perf_counter() - begin
        status = Path(f"/proc/{process.pid}/status").read_text().splitlines()
        resident = next(int(one.split()[1]) // 1024 for one in status if one.startswith("VmRSS"))
        process.terminate()
        process.wait()
        named = "with --api-only" if flags else "with the page"
        print(f"start {named}: {seconds:.1f} s, {resident} MB{'' if line else ' (failed)'}")
