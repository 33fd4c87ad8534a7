"""A loaded checkpoint: its networks on their device, and what they do with pictures and texts."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor, nn

from modules.checkpoints.detect import UNET, VAE
from modules.checkpoints.embeddings import NONE, Listing, Suited
from modules.checkpoints.families import ModelConfig, detect, detect_vae, text_prefix
from modules.checkpoints.files import Header, read_header
from modules.checkpoints.vaes import OWN
from modules.devices import Device
from modules.errors import CheckpointError, RepriseError
from modules.nn import vae as vae_nn
from modules.nn.clip import Inserted, TextEncoder
from modules.nn.unet import UNet

log = logging.getLogger(__name__)
_GROUP = 128 * 2**20
"""Bytes mapped at a time while loading: what is converted is let go before more is touched."""


@dataclass
class LatentDiffusion:
    """UNet, autoencoder and text encoder of one file, in evaluation mode, without gradients."""

    name: str
    path: Path
    sha256: str
    config: ModelConfig
    device: Device
    unet: UNet
    vae: vae_nn.VAE
    """Without weights as long as the file has none of its own and no other stands in for it (`config.own_vae`)."""
    text: TextEncoder
    nbytes: int
    vae_path: Path | None = None
    """Of an autoencoder that is not the file's own, its hash, and its name as a request says it."""
    vae_sha256: str = ""
    vae_name: str = OWN
    embeddings: Listing = NONE
    """The textual inversions that its texts may name, if they are as wide as its text encoder."""
    invariant_shapes: dict[tuple[int, ...], bool] = field(default_factory=dict)
    """What `pipeline.company` found out about the UNet's kernels, by shape."""

    @property
    def short_hash(self) -> str:
        """A1111's model hash: the first ten digits of the file's SHA-256."""
        return self.sha256[:10]

    @property
    def own_embeddings(self) -> Suited:
        return self.embeddings.for_width(self.config.text.width)

    def encode_text(self, ids: Tensor, inserted: Sequence[Inserted] = (), clip_skip: int = 1) -> Tensor:
        """Token ids (b, 77) -> float32 states (b, 77, width)."""
        return self.text(ids.to(self.device.device), clip_skip, inserted).float()  # type: ignore[no-any-return]

    def encode(self, images: Tensor) -> Tensor:
        """Pictures (n, 3, h, w) in [-1, 1] -> scaled latents (n, 4, h / 8, w / 8) float32, one picture at a time."""
        means = [self.vae.encode(self._to_vae(image[None]))[0] for image in images]
        return torch.cat(means).float() * self.config.scale_factor

    def decode(self, latents: Tensor) -> Tensor:
        """Scaled latents (n, 4, h, w) -> pictures (n, 3, 8 h, 8 w) in [-1, 1], float32, one picture at a time.

        An autoencoder that overflows in half precision is moved to float32 once and for all.
        """
        return torch.cat([self._decode_one(latent[None]) for latent in latents])

    def _decode_one(self, latent: Tensor) -> Tensor:
        if not latent.isfinite().all():
            raise RepriseError(
                "the model answered with values that are no numbers",
                hint="choose another sampler or a lower CFG scale, or start with --dtype float32",
            )
        z = latent / self.config.scale_factor
        image: Tensor = self.vae.decode(self._to_vae(z)).float()
        if not image.isfinite().all() and self._vae_dtype() != torch.float32:
            log.warning("the autoencoder of %s overflows in %s; it runs in float32 now", self.name, self._vae_dtype())
            self.vae.float()
            image = self.vae.decode(self._to_vae(z)).float()
        if not image.isfinite().all():
            raise RepriseError("the autoencoder gave no finite picture", hint="choose another checkpoint")
        return image.clamp(-1.0, 1.0)

    def _to_vae(self, x: Tensor) -> Tensor:
        return self.device.place(x).to(self._vae_dtype())

    def _vae_dtype(self) -> torch.dtype:
        return self.vae.post_quant_conv.weight.dtype


def load(path: Path, device: Device, *, name: str = "", sha256: str = "") -> LatentDiffusion:
    """Read a safetensors checkpoint onto ``device``; raises `CheckpointError` with the file and the reason.

    Networks are built without storage, then each tensor is taken from the mapped file, converted and put in its place,
    so the peak stays near the size of the model itself.
    """
    name = name or path.stem
    header = read_header(path)
    config = detect(name, header, path)
    with torch.device("meta"):
        unet, vae, text = UNet(config.unet), vae_nn.VAE(config.vae), TextEncoder(config.text)
    parts: dict[str, nn.Module] = {"unet": unet, "text": text, **({"vae": vae} if config.own_vae else {})}
    _fill(name, path, header, _places(header), parts, device)
    text.place_buffers(device.device)
    nbytes = sum(p.nbytes for module in parts.values() for p in module.parameters())
    return LatentDiffusion(name, path, sha256, config, device, unet, vae, text, nbytes)


def load_vae(path: Path, device: Device, own: vae_nn.VAEConfig) -> vae_nn.VAE:
    """The autoencoder in a file of its own, for a checkpoint whose autoencoder is ``own``."""
    header = read_header(path, field="vae")
    with torch.device("meta"):
        vae = vae_nn.VAE(detect_vae(path.name, header, own))
    prefixed = any(key.startswith(VAE) for key in header.tensors)
    keys = [key for key in header.tensors if key.startswith(VAE) or not prefixed]
    own_names = {key: key.removeprefix(VAE) for key in keys}
    places = {key: ("vae", own) for key, own in own_names.items() if not own.startswith(_TRAINING)}
    _fill(path.name, path, header, places, {"vae": vae}, device, field="vae")
    return vae


Places = Mapping[str, tuple[str, str]]
"""Where each tensor of a file belongs: (part, name within the part). Foreign tensors are left out."""


def _fill(
    name: str,
    path: Path,
    header: Header,
    places: Places,
    modules: Mapping[str, nn.Module],
    device: Device,
    field: str = "checkpoint",
) -> None:
    """Give networks that were built without storage the file's tensors, in evaluation mode and without gradients.

    What no network knows is logged and left out, as A1111 does; what one lacks is fatal.
    """
    foreign: set[str] = set()
    for part, module in modules.items():
        keys = {own: key for key, (p, own) in places.items() if p == part}
        foreign |= {keys[own] for own in keys.keys() - module.state_dict().keys()}
        _check(name, header, keys, module, field)
    if foreign:
        log.info("%s: %d tensors belong to no network and are left out: %s", name, len(foreign), min(foreign))
    places = {key: place for key, place in places.items() if key not in foreign and place[0] in modules}
    states: dict[str, dict[str, Tensor]] = {part: {} for part in modules}
    for group in _groups(header, places):
        with safe_open(path, framework="pt") as file:
            for key in group:
                part, own = places[key]
                states[part][own] = device.weight(file.get_tensor(key))
    for part, module in modules.items():
        module.load_state_dict(states.pop(part), strict=True, assign=True)
        module.requires_grad_(False).eval()


_TRAINING = ("loss", "model_ema.")
"""Beginnings of what an autoencoder's trainer leaves in its file: its judges, and averages of the weights."""


def _places(header: Header) -> Places:
    """Of a whole checkpoint."""
    prefixes = {UNET: ("unet", ""), VAE: ("vae", ""), text_prefix(header.tensors): ("text", "transformer.")}
    places = {}
    for key in header.tensors:
        for prefix, (part, own) in prefixes.items():
            rest = key.removeprefix(prefix)
            training = part == "vae" and rest.startswith(_TRAINING)
            if key.startswith(prefix) and not key.endswith(".position_ids") and not training:
                places[key] = (part, own + rest)
    return places


def _check(name: str, header: Header, keys: Mapping[str, str], module: nn.Module, field: str) -> None:
    expected = {key: tuple(tensor.shape) for key, tensor in module.state_dict().items()}
    missing = sorted(expected.keys() - keys.keys())
    wrong = sorted(key for key in expected.keys() & keys.keys() if header.tensors[keys[key]].shape != expected[key])
    for what, names in (("lacks", missing), ("has the wrong shape for", wrong)):
        if names:
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            raise CheckpointError(
                f"{name} does not fit its architecture: it {what} {names[0]}{more}",
                hint="fetch or copy it again, or choose another",
                field=field,
            )


def _groups(header: Header, places: Places) -> Iterator[list[str]]:
    group: list[str] = []
    size = 0
    for key in header.tensors:  # in the order of the file
        if key not in places:
            continue
        group.append(key)
        size += header.tensors[key].nbytes
        if size >= _GROUP:
            yield group
            group, size = [], 0
    if group:
        yield group
