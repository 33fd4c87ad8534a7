"""schemathesis over our own API: requests made of the OpenAPI document, good and bad, and no answer is a 5xx.

The same requests every time, as many as come within the time that is set.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from tests.server.real_server import serving

SEED, WORKERS = 20261127, 1
EXAMPLES = 12
"""Requests of each kind for each route, so many that all of it takes less than a minute on two cores."""
RUN = "import sys; from schemathesis.cli import schemathesis; sys.exit(schemathesis())"


def test_no_request_of_our_own_api_is_answered_with_a_5xx(tmp_path: Path) -> None:
    with serving(tmp_path / "data") as server:
        url = f"http://127.0.0.1:{server.port}/api/v1/openapi.json"
        command = [sys.executable, "-c", RUN, "run", url, "--checks", "not_a_server_error", "--seed", str(SEED)]
        command += ["--max-examples", str(EXAMPLES), "--phases", "examples,coverage,fuzzing", "--no-color"]
        command += ["--generation-deterministic", "--request-timeout", "30", "--workers", str(WORKERS)]
        command += ["--exclude-path-regex", "/events$", "--report", "ndjson", "--report-dir", str(tmp_path / "report")]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=540, check=False)
        told = done.stdout + done.stderr
        assert done.returncode == 0, told[-6000:]
        connection = server.connection()
        connection.request("GET", "/api/v1/openapi.json")
        paths = json.loads(connection.getresponse().read())["paths"]
        assert f"{len(paths) - 1}" and "No issues found" in told, told[-3000:]
