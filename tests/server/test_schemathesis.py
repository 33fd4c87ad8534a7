"""schemathesis over our own API: requests made of the OpenAPI document, good and bad, and no answer is a 5xx."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.server.real_server import serving

MOST_S = 50
"""What of its plan does not fit is left out, so that all checks together stay short."""
RUN = "import sys; from schemathesis.cli import schemathesis; sys.exit(schemathesis())"


def test_no_request_of_our_own_api_is_answered_with_a_5xx(tmp_path: Path) -> None:
    with serving(tmp_path / "data") as server:
        url = f"http://127.0.0.1:{server.port}/api/v1/openapi.json"
        command = [sys.executable, "-c", RUN, "run", url, "--checks", "not_a_server_error", "--max-examples", "5"]
        command += ["--phases", "examples,coverage,fuzzing", "--generation-deterministic", "--max-time", str(MOST_S)]
        command += ["--exclude-path-regex", "/events$"]  # a stream lasts as long as its job
        command += ["--request-timeout", "30", "--wait-for-schema", "60", "--warnings", "off", "--no-color"]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=400, check=False)
        assert done.returncode == 0 and "No issues found" in done.stdout, (done.stdout + done.stderr)[-6000:]
