"""Loads face detectors and face restorers from files: no code is run, and the network is identified by its tensors'
names.
"""

from __future__ import annotations

from pathlib import Path

from modules.checkpoints.upscalers import empty, read_tensors, unusable
from modules.devices import Device
from modules.errors import CheckpointError
from modules.nn import codeformer, gfpgan, retinaface

FIELD = "face_restorer"
SIDES = range(32, 1025)
"""Allowed sizes, in pixels, of a network's face crops."""


def load_detector(path: Path, device: Device) -> retinaface.RetinaFace:
    """Load the face detector in ``path`` onto ``device``; raises `CheckpointError` if it is none."""
    network = _load(path, device)
    if not isinstance(network, retinaface.RetinaFace):
        raise unusable(path, "it finds no faces", FIELD)
    return network


def load_restorer(path: Path, device: Device) -> gfpgan.GFPGAN | codeformer.CodeFormer:
    """Load the face restorer in ``path`` onto ``device``; raises `CheckpointError` if it is none."""
    network = _load(path, device)
    if isinstance(network, retinaface.RetinaFace):
        raise unusable(path, "it restores no faces", FIELD)
    return network


def _load(path: Path, device: Device) -> retinaface.RetinaFace | gfpgan.GFPGAN | codeformer.CodeFormer:
    state = {key: tensor.float() for key, tensor in read_tensors(path, FIELD).items()}
    network: retinaface.RetinaFace | gfpgan.GFPGAN | codeformer.CodeFormer
    try:
        if retinaface.is_retinaface(state):
            network = empty(retinaface.RetinaFace, retinaface.config_of(state))
        elif gfpgan.is_gfpgan(state):
            state, network = gfpgan.needed(state), empty(gfpgan.GFPGAN, gfpgan.config_of(state))
        elif codeformer.is_codeformer(state):
            network = empty(codeformer.CodeFormer, codeformer.config_of(state))
        else:
            raise CheckpointError(
                f"{path.name} holds a network of a family that is not read here",
                hint="these are: GFPGAN 1.2 to 1.4, CodeFormer, and RetinaFace with ResNet",
                field=FIELD,
            )
        if not isinstance(network, retinaface.RetinaFace) and network.size not in SIDES:
            raise unusable(path, f"it asks for faces of {network.size} pixels a side", FIELD)
        network.load_state_dict(state, strict=True, assign=True)
        return device.prepare(network.eval().requires_grad_(False))
    except CheckpointError:
        raise
    except Exception as error:  # a file may claim any shapes
        raise unusable(path, "its tensors do not fit each other", FIELD) from error
