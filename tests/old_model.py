"""The checkpoint that `tests/fixtures/data-0.1` was made with: its weights are those of a formula, not of our code."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

CONFIG = Path(__file__).parent / "fixtures" / "data-0.1-model.json"
"""What version 0.1 wrote into the metadata of a tiny checkpoint."""
SHA256 = "eec709c64abdeef5d38ee19c8e940e3eacafa0c728002608b27285e867399e52"


def write_old_model(shapes_of: Path, path: Path) -> Path:
    """Write it with the layers of the checkpoint ``shapes_of``, which no version may change for SD 1.x."""
    random = np.random.RandomState(0)  # its stream is frozen for good, unlike those of newer generators
    state = {}
    for key, tensor in sorted(load_file(shapes_of).items()):
        if tensor.ndim > 1:
            values = random.standard_normal(tensor.shape) / np.sqrt(np.prod(tensor.shape[1:]))
        else:
            values = np.full(tensor.shape, key.endswith("weight"))
        state[key] = values.astype(np.float16)
    save_file(state, path, metadata={"reprise.config": CONFIG.read_text(encoding="utf-8")})
    return path
