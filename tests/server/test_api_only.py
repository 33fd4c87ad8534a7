"""The APIs without the page: no Gradio in the process, everything else as it is."""

from __future__ import annotations

import json
import subprocess
import sys

from tests.server.real_server import ROOT

SCRIPT = """
import os, sys, json, tempfile
os.environ["REPRISE_API_ONLY"] = "1"
from pathlib import Path
import app
places = ["--data-dir", tempfile.mkdtemp(), "--models-dir", tempfile.mkdtemp()]
args = app.build_parser().parse_args(["--api-only", *places])
from starlette.testclient import TestClient
from webui.server import create_app
loader, models = app.build_loader(args, "server"), app.build_catalogue(args)
scripts = app.build_scripts(args, loader.host, models)
queue = app.build_queue(args, scripts)
services = app.build_services(args, queue, loader, scripts, app.build_settings(args), models)
with TestClient(create_app(services, page=False), base_url="http://127.0.0.1") as client:
    paths = ("/sdapi/v1/samplers", "/sdapi/v1/scripts", "/api/v1/openapi.json", "/docs", "/healthz", "/")
    found = {path: client.get(path, follow_redirects=False).status_code for path in paths}
    found["location"] = client.get("/", follow_redirects=False).headers["location"]
    found["explained"] = client.post("/api/v1/explain", json={"prompt": "a fox"}).status_code
    found["foreign"] = client.post("/sdapi/v1/interrupt", headers={"origin": "http://evil.example"}).status_code
    found["nowebui"] = client.get("/sdapi/v1/cmd-flags").json()["nowebui"]
found["loaded"] = [name for name in ("gradio", "torch") if name in sys.modules]
print(json.dumps(found))
"""


def test_the_apis_are_served_without_gradio() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found.pop("loaded") == []
    assert (found.pop("location"), found.pop("foreign"), found.pop("nowebui")) == ("/docs", 403, True)
    assert found.pop("/") == 303
    assert set(found.values()) == {200}
