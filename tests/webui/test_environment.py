"""What the environment says of others on the network neither ends the start nor reaches our clients."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from webui import OURS, no_clients

ROOT = Path(__file__).parents[2]
SHOW = "import os, webui.server; print(*(f'{name}={os.environ[name]}' for name in sorted(os.environ)), sep='\\n')"


@pytest.mark.parametrize(
    "said",
    [
        {"ALL_PROXY": "socks5://127.0.0.1:9", "NO_PROXY": "[::1,not a host^"},
        {"http_proxy": "ftp://127.0.0.1:9", "HTTPS_PROXY": "127.0.0.1:no", "SSL_CERT_FILE": "/nowhere"},
        {"GRADIO_SERVER_PORT": "many", "GRADIO_ALLOWED_PATHS": "/", "HF_HUB_DOWNLOAD_TIMEOUT": "long"},
    ],
)
def test_the_server_is_imported_whatever_the_environment_says_of_the_network(said: dict[str, str]) -> None:
    """Each of them ended `import gradio`, or would add to what is served. What is not Gradio's stays for children."""
    found = subprocess.run([sys.executable, "-c", SHOW], cwd=ROOT, env={**os.environ, **said}, capture_output=True)
    assert found.returncode == 0, found.stderr.decode()[-500:]
    told = dict(line.partition("=")[::2] for line in found.stdout.decode().splitlines())
    for name, value in said.items():
        assert told.get(name) == (None if name.startswith("GRADIO_") else value), name
    assert {name: told[name] for name in OURS} == OURS


def test_the_environment_is_put_back_even_where_the_import_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    said = dict.fromkeys(("all_proxy", "FTP_PROXY", "gopher_proxy", "SSLKEYLOGFILE", "HF_HOME"), "socks5://x")
    for name, value in said.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(RuntimeError), no_clients():
        assert not said.keys() & os.environ.keys()
        raise RuntimeError
    assert {name: os.environ[name] for name in said} == said
