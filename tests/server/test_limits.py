"""Too much of everything, against a server process whose memory, threads and open files are counted."""

from __future__ import annotations

import base64
import io
import json
import socket
import struct
import time
import zlib
from collections.abc import Callable, Iterator

import pytest
from PIL import Image

from tests.server.real_server import Process, serving

MB = 2**20
BODY_S = 3.0
"""The program waits 30 s for a body."""


@pytest.fixture(scope="module")
def process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    with serving(tmp_path_factory.mktemp("limits"), "--body-s", str(BODY_S)) as found:
        warm(found)
        yield found


def warm(process: Process) -> None:
    """Once through what is measured, so that what is imported on first use is not counted."""
    for body in (b'{"image": "x"}', json.dumps({"image": encoded(picture(64))}).encode()):
        asked(process, "/api/v1/replay", body)
    asked(process, "/gradio_api/upload", form(b"x"), FORM)


FORM = "multipart/form-data; boundary=xx"


def form(data: bytes) -> bytes:
    head = b'--xx\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\n'
    return head + data + b"\r\n--xx--\r\n"


def asked(process: Process, path: str, body: bytes, kind: str = "application/json") -> tuple[int, str]:
    connection = process.connection()
    connection.request("POST", path, body, {"content-type": kind})
    answer = connection.getresponse()
    text = answer.read().decode()
    connection.close()
    return answer.status, text


# -- S15


def send(process: Process, head: str, parts: Iterator[bytes]) -> int:
    """The status that is answered to a request whose body comes in ``parts``; the server may hang up on the rest."""
    with socket.create_connection(("127.0.0.1", process.port), 60) as line:
        line.sendall(f"{head}\r\nHost: 127.0.0.1\r\n\r\n".encode().replace(b"\r\n\r\n\r\n", b"\r\n\r\n"))
        try:
            for part in parts:
                line.sendall(part)
        except (BrokenPipeError, ConnectionResetError):
            pass
        try:
            answer = line.recv(65536)
        except ConnectionResetError:
            return 0  # hung up, and what was answered is lost with what we still sent
        return int(answer.split()[1]) if answer else 0


def chunks(count: int, frame: Callable[[bytes], bytes] = bytes) -> Iterator[bytes]:
    for _ in range(count):
        yield frame(b"x" * MB)


def chunk(data: bytes) -> bytes:
    return f"{len(data):x}\r\n".encode() + data + b"\r\n"


@pytest.mark.parametrize("path", ["/gradio_api/queue/join", "/gradio_api/upload"])
@pytest.mark.parametrize("way", ["length", "chunked", "false length", "slow drip"])
def test_a_body_of_100_mb_is_cut_off_and_leaves_nothing_behind(process: Process, way: str, path: str) -> None:
    """S15: 413 or 408; memory grows by at most 64 MB and the temporary folder by 40. A length that is too small is
    answered for as much as it announces."""
    memory, temp, begin = process.memory(), process.temp_bytes(), time.monotonic()
    upload = path.endswith("upload")
    head = f"POST {path} HTTP/1.1\r\nContent-Type: {FORM if upload else 'application/json'}"
    opening = form(b"").removesuffix(b"\r\n--xx--\r\n") if upload else b'{"data": ["'

    def drip() -> Iterator[bytes]:
        yield opening
        while time.monotonic() < begin + BODY_S + 1:
            time.sleep(0.1)
            yield b"x"

    statuses, parts = {
        "length": ((413, 0), chunks(100)),
        "chunked": ((413, 0), iter([chunk(opening), *chunks(100, chunk)])),
        "false length": ((200, 400, 413, 422, 0), iter([opening, *chunks(100)])),
        "slow drip": ((408,), drip()),
    }[way]
    lengths = {"length": 100 * MB, "false length": 100, "slow drip": 20 * MB}
    framing = f"Content-Length: {lengths[way]}" if way in lengths else "Transfer-Encoding: chunked"
    status = send(process, f"{head}\r\n{framing}", parts)
    assert status in statuses, status
    connection = process.connection()
    connection.request("GET", "/healthz")
    assert connection.getresponse().status == 200
    grown, left = process.memory() - memory, process.temp_bytes() - temp
    print(f"{way} {path}: {status}, memory +{grown / MB:.1f} MB, temp +{left / MB:.1f} MB")
    assert grown <= 64 * MB
    assert left <= 40 * MB


# -- S16


def encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()


def picture(side: int) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (side, side), "red").save(out, "PNG")
    return out.getvalue()


def png(width: int, height: int, *, bits: int = 1, kind: int = 0) -> bytes:
    """A PNG of zeros that is far smaller than what it unfolds to."""
    row = b"\0" * (1 + (width * bits * {0: 1, 2: 3, 6: 4}[kind] + 7) // 8)
    packer = zlib.compressobj(9)
    data = b"".join(packer.compress(row) for _ in range(height)) + packer.flush()

    def block(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    head = struct.pack(">IIBBBBB", width, height, bits, kind, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + block(b"IHDR", head) + block(b"IDAT", data) + block(b"IEND", b"")


def text_bomb() -> bytes:
    """A small picture with a compressed text of 200 MB."""
    whole = picture(8)
    content = b"parameters\0\0" + zlib.compress(b"\0" * (200 * MB), 9)
    block = struct.pack(">I", len(content)) + b"zTXt" + content + struct.pack(">I", zlib.crc32(b"zTXt" + content))
    return whole[:33] + block + whole[33:]


def saved(format: str) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (64, 64), "red").save(out, format)
    return out.getvalue()


def large_tiff() -> bytes:
    """400 megapixels of white in a few kB."""
    out = io.BytesIO()
    Image.new("1", (20000, 20000), 1).save(out, "TIFF", compression="group4")
    return out.getvalue()


def large_bmp() -> bytes:
    """The header of 900 megapixels, and none of them."""
    return b"BM" + struct.pack("<IHHI", 54, 0, 0, 54) + struct.pack("<IiiHHIIiiII", 40, 30000, 30000, 1, 24, *[0] * 6)


def large_gif() -> bytes:
    """A screen of 3600 megapixels with one image of that size."""
    screen = b"GIF89a" + struct.pack("<HHBBB", 60000, 60000, 0x80, 0, 0) + bytes(6)
    return screen + b"," + struct.pack("<HHHHB", 0, 0, 60000, 60000, 0) + b"\x02\x02\x44\x01\x00;"


BAD: dict[str, Callable[[], bytes]] = {
    "png 20000x20000": lambda: png(20000, 20000),
    "png 6000x6000 rgba 8": lambda: png(6000, 6000, bits=8, kind=6),
    "png one line of 40 million": lambda: png(40_000_000, 1),
    "png of zero": lambda: png(0, 0),
    "png cut off": lambda: picture(2000)[:200],
    "gif": large_gif,
    "eps": lambda: saved("EPS"),
    "tiff": large_tiff,
    "bmp": large_bmp,
    "ico": lambda: saved("ICO"),
    "pcx": lambda: saved("PCX"),
    "psd": lambda: b"8BPS\0\1" + b"\0" * 6 + struct.pack(">HIIHH", 3, 30000, 30000, 8, 3) + b"\0" * 100,
    "fits": lambda: b"SIMPLE  =                    T".ljust(80) + b"END".ljust(2800),
    "svg": lambda: b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>',
    "nothing": lambda: b"",
    "noise": lambda: bytes(range(256)) * 40,
}


@pytest.mark.parametrize("name", BAD)
def test_a_picture_that_is_none_or_unfolds_to_too_much_is_refused(process: Process, name: str) -> None:
    """S16: 422 with a sentence; memory grows by at most 200 MB."""
    data = BAD[name]()
    memory, begin = process.memory(), time.monotonic()
    status, text = asked(process, "/api/v1/replay", json.dumps({"image": encoded(data)}).encode())
    grown, spent = process.memory() - memory, time.monotonic() - begin
    print(f"{name}: {len(data)} bytes, {status}, {spent * 1000:.0f} ms, memory +{grown / MB:.1f} MB")
    assert status == 422, text
    assert json.loads(text)["detail"]
    assert grown <= 200 * MB


def test_a_text_that_unfolds_to_too_much_does_no_harm(process: Process) -> None:
    """S16: the picture is sound, its text is not: it is read as one without a recipe, or refused."""
    memory = process.memory()
    status, text = asked(process, "/api/v1/replay", json.dumps({"image": encoded(text_bomb())}).encode())
    assert status in (202, 422), text
    assert process.memory() - memory <= 200 * MB


# -- R18


def test_pages_that_go_away_in_the_middle_leave_no_thread_and_no_connection_behind(process: Process) -> None:
    """R18: twenty pages follow a job each and are closed; the jobs are done all the same."""
    connection = process.connection()
    connection.request("GET", "/config", headers={"accept-encoding": "identity"})
    config = json.loads(connection.getresponse().read())
    number = next(c["id"] for c in config["components"] if c["props"].get("elem_id") == "txt2img_generate")
    click = next(f for f in config["dependencies"] if [number, "click"] in [list(t) for t in f["targets"]])
    wake = next(c["id"] for c in config["components"] if c["props"].get("elem_id") == "txt2img_wake")
    follow = next(f for f in config["dependencies"] if [wake, "change"] in [list(t) for t in f["targets"]])
    values = {c["id"]: c["props"].get("value") for c in config["components"]}

    def pages(names: range) -> None:
        lines = []
        for n in names:
            join(click["id"], [values.get(i) for i in click["inputs"]], f"page{n}")
            with opened(f"page{n}") as line:
                said = read_until(line, b"process_completed")
            job = next(word for word in said.decode().replace('"', " ").split() if len(word) == 32 and is_hex(word))
            join(follow["id"], [f"0 {job}"], f"page{n}")
            lines.append(opened(f"page{n}"))
        for line in lines:
            line.recv(1)
            line.close()

    def join(function: int, data: list[object], session: str) -> None:
        body = json.dumps({"data": data, "fn_index": function, "session_hash": session}).encode()
        assert asked(process, "/gradio_api/queue/join", body)[0] == 200

    def opened(session: str) -> socket.socket:
        line = socket.create_connection(("127.0.0.1", process.port), 60)
        line.sendall(f"GET /gradio_api/queue/data?session_hash={session} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())
        return line

    pages(range(20))  # what is made once stays
    settle(process)
    threads, files = process.threads(), process.files()
    pages(range(20, 40))
    settle(process)
    print(f"threads {threads} -> {process.threads()}, descriptors {files} -> {process.files()}")
    assert process.threads() <= threads + 2
    assert process.files() <= files + 5
    assert len(list((process.data_dir / "outputs").rglob("*.png"))) == 40


def settle(process: Process) -> None:
    """Until nothing is at work: the worker is idle and as many descriptors are open as a moment ago."""
    end, before = time.monotonic() + 120, -1
    while time.monotonic() < end:
        connection = process.connection()
        connection.request("GET", "/healthz")
        idle = json.loads(connection.getresponse().read())["worker"] == "ready"
        connection.close()
        now = process.files()
        if idle and now == before:
            return
        before = now
        time.sleep(0.7)
    pytest.fail("the server does not come to rest")


def read_until(line: socket.socket, word: bytes) -> bytes:
    said = b""
    while word not in said:
        part = line.recv(65536)
        assert part, said
        said += part
    return said


def is_hex(word: str) -> bool:
    return set(word) <= set("0123456789abcdef")


def test_the_figures_of_the_list_hold_for_the_program() -> None:
    """The limits themselves, as the documents give them: 32 MB, 30 s for a body."""
    from webui.security import guard

    assert (guard.MAX_BODY, guard.BODY_S) == (32 * MB, 30.0)


def test_the_log_of_the_requests_has_no_secret(process: Process) -> None:
    text = (process.data_dir / "logs" / "access.log").read_text()
    assert "POST /gradio_api/queue/join 413" in text
    assert "GET /gradio_api/queue/data 200" in text
    assert "session_hash" not in text
    assert "page1" not in text


def test_the_servers_log_is_quiet(process: Process) -> None:
    text = (process.data_dir / "server.log").read_text()
    assert "Traceback" not in text
