"""Loads upscaler networks from files: no code is run, and the architecture is identified by the tensors' names.

Files come as pickles more often than not: `unpickle` builds tensors and containers alone, and there is no fallback.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import safetensors
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from modules.checkpoints import unpickle
from modules.checkpoints.files import PICKLES, read_header
from modules.checkpoints.unpickle import StoredTensor, tensors_in
from modules.devices import STORED_DTYPES, Device
from modules.errors import CheckpointError
from modules.nn import compact, dat, hat, rrdb, swinir

C = TypeVar("C")
N = TypeVar("N", bound=nn.Module)

FAMILIES = "ESRGAN, Real-ESRGAN with its compact networks, BSRGAN, SwinIR, DAT, and HAT"
WRAPPERS = ("params_ema", "params", "state_dict", "model_state_dict", "model", "net")
"""Keys under which trainers nest the weights; the averaged (EMA) ones first."""
MAX_SCALE = 16
MAX_BYTES = 8 * 2**30
"""Limit of a pickle's unpacked size; the largest networks have a tenth of it."""
VIEWS = 4
"""Limit of the tensors' total size, as a multiple of the file's: some are views of the same values."""


def load(path: Path, device: Device) -> nn.Module:
    """Load the network in ``path`` onto ``device``: (n, 3, h, w) in [0, 1] -> ``scale`` times the size.

    Raises `CheckpointError` with one sentence where the file is broken or of another family.
    """
    state = read_tensors(path)
    try:
        network = device.prepare(_network_of(path, state).eval().requires_grad_(False))
        scale = int(getattr(network, "scale"))  # noqa: B009 - nn.Module types its attributes as tensors
        if not 1 <= scale <= MAX_SCALE:
            raise unusable(path, f"it would enlarge {scale} times")
        _try(path, network, scale, device)
    except CheckpointError:
        raise
    except Exception as error:  # a file may claim any shapes
        raise unusable(path, "its tensors do not fit each other") from error
    return network


def _try(path: Path, network: nn.Module, scale: int, device: Device) -> None:
    """Run a few pixels through the network, so that an unusable one (greyscale, say) fails now and not in the middle
    of a job.
    """
    with torch.no_grad():
        shape = network(device.place(torch.full((1, 3, 8, 8), 0.5))).shape
    if shape != (1, 3, 8 * scale, 8 * scale):
        raise unusable(path, "it does not turn colour pictures into colour pictures")


def _network_of(path: Path, state: Mapping[str, Tensor]) -> nn.Module:
    network: nn.Module
    renamed = rrdb.new_keys(state)
    if rrdb.is_rrdb(renamed):
        state, network = renamed, empty(rrdb.RRDBNet, rrdb.config_of(renamed))
    elif dat.is_dat(state):
        state, network = dat.without_buffers(state), empty(dat.DAT, dat.config_of(state))
    elif hat.is_hat(state):  # before SwinIR, whose keys it has among its own
        state, network = hat.without_buffers(state), empty(hat.HAT, hat.config_of(state))
    elif swinir.is_swinir(state):
        state, network = swinir.without_buffers(state), empty(swinir.SwinIR, swinir.config_of(state))
    elif compact.is_compact(state):
        network = empty(compact.CompactNet, compact.config_of(state))
    else:
        raise CheckpointError(
            f"{path.name} holds a network of a family that is not read here",
            hint=f"these are: {FAMILIES}",
            field="upscaler",
        )
    state = {key: tensor.float() for key, tensor in state.items()}
    network.load_state_dict(state, strict=True, assign=True)
    return network


def empty(kind: Callable[[C], N], config: C) -> N:
    """Build a network on the meta device, without memory for weights; the file's tensors replace them."""
    with torch.device("meta"):
        return kind(config)


def read_tensors(path: Path, field: str = "upscaler") -> dict[str, Tensor]:
    """The weights in a .safetensors, .pth, .pt, .ckpt or .bin file by name, without wrappers added by trainers.

    ``field`` is the parameter that is at fault where it cannot be read.
    """
    if path.suffix.lower() not in PICKLES:
        read_header(path)
        try:
            return _plain(path, load_file(path), field)
        except (OSError, safetensors.SafetensorError) as error:
            raise unusable(path, "it cannot be read", field) from error
    try:
        with unpickle.opened(path, MAX_BYTES) as loaded:
            return _plain(path, loaded, field)
    except FileNotFoundError as error:
        raise unusable(path, "it is not there any more", field) from error
    except OSError as error:
        raise unusable(path, f"it cannot be read: {error.strerror}", field) from error
    except unpickle.UnreadablePickle as error:
        raise unusable(path, str(error), field) from error


def _plain(path: Path, loaded: Any, field: str) -> dict[str, Tensor]:
    while isinstance(loaded, Mapping):
        inner = next((loaded[name] for name in WRAPPERS if isinstance(loaded.get(name), Mapping)), None)
        if inner is None:
            break
        loaded = inner
    tensors = loaded if isinstance(loaded, Mapping) else {}
    found = {key: value for key, value in tensors.items() if isinstance(key, str) and isinstance(value, Tensor)}
    stored = tensors_in(tensors, VIEWS * path.stat().st_size)
    found |= {key: _tensor(value) for key, value in stored.items()}
    if not found:
        raise unusable(path, "it holds no tensors", field)
    for prefix in ("module.", "netG."):
        if all(key.startswith(prefix) for key in found):
            found = {key.removeprefix(prefix): value for key, value in found.items()}
    return found


def _tensor(stored: StoredTensor) -> Tensor:
    kind = STORED_DTYPES[stored.dtype]
    flat = torch.frombuffer(bytearray(stored.raw()), dtype=kind) if stored.nbytes else torch.empty(0, dtype=kind)
    return flat.reshape(stored.shape)


def unusable(path: Path, reason: str, field: str = "upscaler") -> CheckpointError:
    return CheckpointError(f"{path.name} cannot be used: {reason}", hint="fetch or copy it again", field=field)
