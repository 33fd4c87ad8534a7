"""The page over models folders as people leave them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from starlette.testclient import TestClient

from modules.checkpoints.catalogue import CheckpointCatalogue
from modules.checkpoints.files import Hashes
from tests.modules.checkpoints.test_folders import littered, safetensors
from webui.server import create_app
from webui.services import Services


def test_a_file_whose_name_is_no_text_does_not_keep_the_page_from_anybody(given: Services, tmp_path: Path) -> None:
    for folder in ("Stable-diffusion", "VAE", "embeddings"):
        littered(tmp_path / folder, ".safetensors")
    safetensors(tmp_path / "Stable-diffusion" / "spoken.safetensors", {"modelspec.title": "\ud800"})
    models = CheckpointCatalogue(tmp_path, Hashes())
    services = replace(
        given,
        checkpoints=models.checkpoints,
        vaes=models.vaes,
        embeddings=models.embeddings,
        card=models.card,
        native_size=models.native_size,
    )
    with TestClient(create_app(services), base_url="http://127.0.0.1:7860", raise_server_exceptions=False) as client:
        for path in ("/", "/config"):
            answer = client.get(path)
            assert answer.status_code == 200, answer.text[:300]
        assert "sub/good" in answer.text
