from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import torch

from modules.training import autoencoder, export, start, unet
from modules.training.config import Config, Start


@pytest.fixture
def version(tiny: Config, tmp_path: Path) -> Start:
    """An exported file with weights of its own."""
    made = export.Trained(unet.new(tiny), autoencoder.new(tiny), 1.0, 1)
    with torch.no_grad():
        for parameter in (*made.model.parameters(), *made.vae.parameters()):
            parameter.add_(0.25)
    path = tmp_path / "first.safetensors"
    export.save(tiny, made, path)
    return Start(path.name, hashlib.sha256(path.read_bytes()).hexdigest())


def test_training_goes_on_from_the_weights_of_an_earlier_version(tiny: Config, version: Start, tmp_path: Path) -> None:
    fresh, model, vae = unet.new(tiny), unet.new(tiny), autoencoder.new(tiny)
    start.begin(version, tmp_path, unet=model.unet, text=model.text, vae=vae)
    parameters = dict(model.named_parameters())
    for name, before in fresh.named_parameters():
        written = export.with_unknown(before) if name.endswith("token_embedding.weight") else before
        assert torch.equal(parameters[name], (written + 0.25).half().float())


def test_another_file_is_refused(tiny: Config, version: Start, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="SHA-256"):
        start.begin(Start(version.file, "0" * 64), tmp_path, vae=autoencoder.new(tiny))
    with pytest.raises(FileNotFoundError, match="models/README"):
        start.begin(Start("second.safetensors", ""), tmp_path, vae=autoencoder.new(tiny))
