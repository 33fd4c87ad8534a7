"""The HTTP API: what a request costs beside the image, many clients at once, many followers, large bodies, the start.

The images are gradients that are drawn within the server, so nearly all of a request's time is overhead. The server
without the page runs in this process but for the start, whose figures are of processes of their own.
"""

from __future__ import annotations

import base64
import http.client
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

ROOT = Path(__file__).parents[2]
os.environ.setdefault("REPRISE_API_ONLY", "1")
FULL, SHORT = (40, 50, 1000, 200, 100), (15, 20, 200, 50, 40)
"""Requests that are timed; clients and requests of a crowd; followers of one job, and its steps."""


def main(*, full: bool = False) -> None:
    """Print one line a figure; with ``full`` as much of everything as its figures are noted for."""
    timed, clients, requests, followers, steps = FULL if full else SHORT
    import httpx

    import tests.webui.fake_server as fake
    from modules.imaging.files import png_bytes
    from modules.jobs.executors.process import InlineExecutor, LocalExecutor

    drawn = noise(512)
    encoding = statistics.median(_seconds(lambda: png_bytes(drawn)) for _ in range(10))
    telling: list[float] = []
    worked: list[float] = []
    fake.Painter = partial(_painter(), telling=telling, worked=worked)  # type: ignore[misc,assignment]
    data = Path(tempfile.mkdtemp())
    with fake.services(data) as given, _Served(given) as url, httpx.Client(base_url=url, timeout=600) as client:
        _overheads(given, url, timed, encoding, worked)
        _crowd(url, BODY | {"width": 64, "height": 64}, clients, requests)
        _followers(url, followers, steps, telling)
        if full:
            _large(client)
    command = (sys.executable, "-m", "tests.benchmarks.api", "worker")
    other = Path(tempfile.mkdtemp())
    vars(fake)["InlineExecutor"] = lambda runner: LocalExecutor((*command, str(other / "outputs")))
    try:
        with fake.services(other) as given, _Served(given) as url:
            while not given.queue.executor.slots():  # type: ignore[attr-defined]
                time.sleep(0.05)
            print("the same with the worker process: ", end="")
            _overheads(given, url, timed, encoding, [])
    finally:
        vars(fake)["InlineExecutor"] = InlineExecutor
    if full:
        _starts()


PACE_S = 0.02
BODY = {"prompt": "a fox", "steps": 1, "width": 512, "height": 512, "seed": 1}


def noise(side: int) -> Any:
    """An image that compresses badly, as photographs do."""
    import numpy as np
    from PIL import Image

    return Image.fromarray(np.random.default_rng(1).integers(0, 255, (side, side, 3), np.uint8))


def _painter() -> Any:
    """A runner that has an image of noise at once; its output's ``seconds`` are those that saving it took."""
    from tests.webui.fake_server import Painter

    drawn = {512: noise(512), 64: noise(64)}

    class Quick(Painter):
        def __init__(self, gallery: Any, telling: list[float], worked: list[float]):
            super().__init__(gallery)
            self.telling, self.worked = telling, worked

        def __call__(self, job_id: str, spec: dict[str, Any], emit: Any, control: Any) -> dict[str, Any]:
            params = spec["params"]
            for step in range(1, params["steps"] + 1):
                working = time.thread_time()
                emit({"type": "step", "step": step, "steps": params["steps"], "image": 1, "images": 1, "eta_s": 0})
                self.telling.append(time.thread_time() - working)
                time.sleep(PACE_S if "slow" in params["prompt"] else 0)
            begin, working = time.perf_counter(), time.thread_time()
            image = drawn[params["width"]]
            saved = self.gallery.save(image, seed=params["seed"], infotext="a fox\nSteps: 1", job=job_id)
            seconds = time.perf_counter() - begin
            self.worked.append(time.thread_time() - working)
            told = {"path": str(saved.path), "infotext": "a fox", "seed": params["seed"], "width": 512, "height": 512}
            emit({"type": "image", **told})
            return {"images": [told], "infotext": "a fox", "notes": [], "seconds": seconds}

    return Quick


def _overheads(given: Any, url: str, times: int, encoding: float, worked: list[float]) -> None:
    """What a request takes beside the saving of its image, of both APIs. ``worked``: processor time that the runner
    spends on saving within this process."""
    for way, named in (("sdapi", "/sdapi/v1/txt2img of 512x512"), ("v1", "/api/v1/jobs, its events and the image")):
        with _Asking(url) as ask:
            ask(way)
            worked.clear()
            whole, saving, busy = [], [], []
            for _ in range(times):
                working = time.process_time()
                whole.append(ask(way))
                busy.append(time.process_time() - working)
                saving.append(given.queue.list("local", 1)[0].output["seconds"])
        over = statistics.median(all_ - part for all_, part in zip(whole, saving, strict=True))
        cpu = statistics.median(busy) - (statistics.median(worked) if worked else 0)
        print(f"{named}: {statistics.median(whole) * 1e3:.1f} ms, of which saving ", end="")
        print(f"{statistics.median(saving) * 1e3:.1f} ms (PNG alone {encoding * 1e3:.1f} ms): overhead ", end="")
        print(f"{over * 1e3:.1f} ms, {cpu * 1e3:.1f} ms of the server's processor time")


class _Asking:
    """A client in a process of its own, as every client is: threads of one process wait for each other. It reads with
    http.client, as the clients of A1111 do by way of requests and urllib3; httpx alone would take 4 ms for a megabyte.
    """

    def __init__(self, url: str):
        command = [sys.executable, "-m", "tests.benchmarks.api", "client", url]
        self._process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def __enter__(self) -> _Asking:
        return self

    def __call__(self, way: str) -> float:
        """The seconds that a request took."""
        assert self._process.stdin and self._process.stdout
        self._process.stdin.write(f"{way}\n")
        self._process.stdin.flush()
        return float(self._process.stdout.readline())

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait()


def _client(url: str) -> None:
    """The process behind `_Asking`."""
    connection = http.client.HTTPConnection(urlsplit(url).netloc)

    def ask(method: str, path: str, body: object = None) -> bytes:
        data = None if body is None else json.dumps(body).encode()
        connection.request(method, path, data, {"content-type": "application/json"} if data else {})
        answer = connection.getresponse()
        read = answer.read()
        if answer.status >= 400:
            raise SystemExit(f"{path}: {answer.status} {read[:200]!r}")
        return read

    def ours() -> None:
        """A job of our own API: submitted, followed to its end, its image fetched."""
        job = json.loads(ask("POST", "/api/v1/jobs", {"params": BODY}))
        last = json.loads(ask("GET", job["events"]).decode().strip().rpartition("data: ")[2])
        ask("GET", last["output"]["images"][0]["url"])

    ways = {"sdapi": lambda: ask("POST", "/sdapi/v1/txt2img", BODY), "v1": ours}
    for line in sys.stdin:
        print(_seconds(ways[line.strip()]), flush=True)


def _worker(outputs: str) -> None:
    """A worker process whose runner is the painter."""
    from modules.gallery.outputs import Gallery
    from modules.jobs.worker import serve

    raise SystemExit(serve(lambda report: _painter()(Gallery(Path(outputs)), [], [])))


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


def _seconds(call: Callable[[], object]) -> float:
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin


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


if __name__ == "__main__":
    {"client": _client, "worker": _worker}[sys.argv[1]](sys.argv[2])
