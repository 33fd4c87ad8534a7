"""Behind nginx, with the prefix left on and taken off; and who is believed about where a request came from."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote, urljoin, urlsplit

import pytest
from starlette.types import Receive, Scope, Send

from modules.errors import UserError
from tests.server.real_server import Process, free_port, serving, wait_for
from tests.server.test_limits import FORM, form, picture
from webui.security.proxy import Proxied, subpath_of

NGINX = shutil.which("nginx", path="/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin")
CONFIG = """
daemon off; worker_processes 1; pid {folder}/nginx.pid; error_log {folder}/error.log;
events {{ worker_connections 64; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/f;
    uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
    server {{
        listen 127.0.0.1:{port};
        client_max_body_size 32m;
        location /pictures/ {{
            proxy_pass http://127.0.0.1:{back}{strip};
            proxy_set_header Host $http_host;
            proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
            proxy_set_header X-Forwarded-Proto $scheme;
            proxy_http_version 1.1;
            proxy_buffering off;
            proxy_read_timeout 1h;
        }}
    }}
}}
"""
PASSWORD = "correct horse"


@contextlib.contextmanager
def nginx(back: int, folder: Path, *, strip: bool) -> Iterator[int]:
    """A port of 127.0.0.1 that leads to ``back`` below /pictures/."""
    if NGINX is None:
        pytest.fail("there is no nginx for the proxy's tests; install it with: apt-get install nginx-light")
    port = free_port()
    folder.mkdir()
    config = folder / "nginx.conf"
    config.write_text(CONFIG.format(folder=folder, port=port, back=back, strip="/" if strip else ""))
    with (folder / "out.log").open("wb") as log:
        process = subprocess.Popen([NGINX, "-p", str(folder), "-c", str(config)], stdout=log, stderr=log)
        try:
            wait_for(port, process, folder / "out.log")
            yield port
        finally:
            process.terminate()
            process.wait(20)


@dataclass
class Browser:
    """Follows nothing by itself, keeps cookies, speaks to one port."""

    port: int
    cookies: dict[str, str] = field(default_factory=dict)

    def ask(self, path: str, method: str = "GET", body: bytes | None = None, **headers: str) -> Any:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        told = {"accept": "text/html,*/*", **{name.replace("_", "-"): value for name, value in headers.items()}}
        if method != "GET":
            told["origin"] = f"http://127.0.0.1:{self.port}"
        if self.cookies:
            told["cookie"] = "; ".join(f"{name}={value}" for name, value in self.cookies.items())
        connection.request(method, path, body, told)
        answer = connection.getresponse()
        answer.body = answer.read()  # type: ignore[attr-defined]
        for cookie in answer.headers.get_all("set-cookie") or ():
            name, _, value = cookie.partition(";")[0].partition("=")
            self.cookies[name] = value
        return answer


def fields(values: dict[str, str]) -> bytes:
    parts = [f'--xx\r\nContent-Disposition: form-data; name="{k}"\r\n\r\n{v}\r\n' for k, v in values.items()]
    return ("".join(parts) + "--xx--\r\n").encode()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    arguments = ("--user", f"alice:{PASSWORD}", "--subpath", "pictures", "--trusted-proxy", "127.0.0.1")
    with serving(tmp_path_factory.mktemp("proxied"), *arguments) as process:
        yield process


@pytest.mark.parametrize("strip", [False, True], ids=["prefix left on", "prefix taken off"])
def test_the_whole_way_works_behind_nginx(server: Process, tmp_path: Path, strip: bool) -> None:
    """Login, every file of the page, an upload, an event with its stream, a picture, and the way out."""
    with nginx(server.port, tmp_path / "nginx", strip=strip) as port:
        browser = Browser(port)
        site = f"http://127.0.0.1:{port}"
        led = browser.ask("/pictures/")
        assert (led.status, led.headers["location"]) == (303, "/pictures/login")
        page = browser.ask("/pictures/login")
        assert 'action="/pictures/login"' in page.body.decode()
        given = fields({"username": "alice", "password": PASSWORD, "next": "/"})
        answer = browser.ask("/pictures/login", "POST", given, content_type=FORM)
        assert (answer.status, answer.headers["location"]) == (303, "/pictures/")
        assert "path=/pictures" in answer.headers["set-cookie"].lower()

        page = browser.ask("/pictures/")
        assert page.status == 200
        html = page.body.decode()
        assert f'"root":"{site}/pictures"' in html.replace(": ", ":").replace("\\/", "/")
        asked = {urljoin(f"{site}/pictures/", found) for found in re.findall(r'(?:src|href)="([^"#]+)"', html)}
        # Gradio names its manifest by an absolute address; only a browser that installs the page asks for it.
        ours = [address for address in asked if not address.startswith("data:") and address != f"{site}/manifest.json"]
        assert len(ours) >= 3
        for address in ours:
            assert address.startswith(f"{site}/pictures/"), address
            assert browser.ask(urlsplit(address).path).status == 200, address

        sent = browser.ask("/pictures/gradio_api/upload", "POST", form(picture(64)), content_type=FORM)
        assert sent.status == 200, sent.body
        (path,) = json.loads(sent.body)
        assert browser.ask("/pictures/gradio_api/file=" + quote(path)).body == picture(64)

        config = json.loads(browser.ask("/pictures/config").body)
        assert config["username"] == "alice"
        number = next(c["id"] for c in config["components"] if c["props"].get("elem_id") == "png_info_picture")
        function = next(f for f in config["dependencies"] if [number, "change"] in [list(t) for t in f["targets"]])
        file = {"path": path, "meta": {"_type": "gradio.FileData"}, "orig_name": "a.png", "url": None}
        body = json.dumps({"data": [file], "fn_index": function["id"], "session_hash": "s"}).encode()
        joined = browser.ask("/pictures/gradio_api/queue/join", "POST", body, content_type="application/json")
        assert joined.status == 200, joined.body
        stream = browser.ask("/pictures/gradio_api/queue/data?session_hash=s", accept="text/event-stream")
        assert stream.headers["content-type"].startswith("text/event-stream")
        assert b"process_completed" in stream.body

        assert browser.ask("/pictures/logout", "POST", fields({}), content_type=FORM).headers["location"] == (
            "/pictures/login"
        )
        assert browser.ask("/pictures/config").status == 303
    log = (server.data_dir / "logs" / "access.log").read_text()
    assert " 127.0.0.1 alice GET /pictures/config 200 " in log
    assert PASSWORD not in log


def test_addresses_on_the_page_are_below_the_path_even_without_its_slash(server: Process) -> None:
    answer = Browser(server.port).ask("/pictures")
    assert (answer.status, answer.headers["location"]) == (307, "/pictures/")


# -- whom to believe


def seen(scope: dict[str, Any], **settings: Any) -> dict[str, Any]:
    """What stands behind `Proxied` for a request."""
    found: dict[str, Any] = {}

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        found.update(scope)

    headers = [(name.encode(), value.encode()) for name, value in scope.pop("headers").items()]
    whole = {"type": "http", "method": "GET", "path": "/x", "scheme": "http", "headers": headers, **scope}
    asyncio.run(Proxied(app, **settings)(whole, None, None))  # type: ignore[arg-type]
    return found


FORGED = {
    "host": "localhost",
    "x-forwarded-for": "1.2.3.4",
    "x-forwarded-proto": "https",
    "x-forwarded-host": "evil.example",
    "x-forwarded-prefix": "/evil",
    "forwarded": "for=1.2.3.4;host=evil.example",
}


def test_what_a_stranger_says_of_other_hosts_and_addresses_is_thrown_away() -> None:
    found = seen({"client": ("10.0.0.9", 1), "headers": dict(FORGED)}, trusted=["127.0.0.1"])
    assert found["client"] == ("10.0.0.9", 1)
    assert found["scheme"] == "http"
    assert found["headers"] == [(b"host", b"localhost")]


def test_a_trusted_proxy_is_believed() -> None:
    found = seen({"client": ("127.0.0.1", 1), "headers": dict(FORGED)}, trusted=["127.0.0.1"])
    assert found["client"] == ("1.2.3.4", 0)
    assert found["scheme"] == "https"
    assert found["headers"] == [(b"host", b"evil.example")]  # which the guard then judges


@pytest.mark.parametrize(
    ("told", "address"),
    [
        ("6.6.6.6, 1.2.3.4", "1.2.3.4"),  # the visitor sent the first himself
        ("6.6.6.6, 1.2.3.4, 10.0.0.2", "1.2.3.4"),  # through two of our proxies
        ("10.0.0.3", "10.0.0.3"),
        ("", "10.0.0.1"),
    ],
)
def test_the_visitor_is_the_last_address_that_is_no_proxy_of_ours(told: str, address: str) -> None:
    headers = {"host": "x", **({"x-forwarded-for": told} if told else {})}
    found = seen({"client": ("10.0.0.1", 1), "headers": headers}, trusted=["10.0.0.0/8"])
    assert found["client"][0] == address


@pytest.mark.parametrize("path", ["/pictures/a b", "/a b"])
def test_paths_have_the_prefix_whether_the_proxy_left_it_on_or_not(path: str) -> None:
    found = seen({"client": ("10.0.0.1", 1), "headers": {}, "path": path}, subpath="pictures")
    assert (found["path"], found["root_path"]) == ("/pictures/a b", "/pictures")


def test_a_subpath_is_a_plain_path() -> None:
    assert [subpath_of(text) for text in ("", "/", "a", "/a/", "a/b-c")] == ["", "", "/a", "/a", "/a/b-c"]
    for text in ("..", "a/../b", "a b", 'a"b', "a//b", "http://x/", "a?b"):
        with pytest.raises(UserError, match="no path to serve under"):
            subpath_of(text)
    with pytest.raises(UserError, match="no address of a proxy"):
        Proxied(None, trusted=["nginx"])  # type: ignore[arg-type]
