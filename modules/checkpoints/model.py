"""A loaded checkpoint: its networks on their device, and what they do with pictures and texts."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor, nn

from modules.checkpoints.detect import detect, detect_vae
from modules.checkpoints.embeddings import NONE, Listing, Suited
from modules.checkpoints.families.base import TRAINING, VAE, Family, ModelConfig, Places
from modules.checkpoints.files import Header, read_header
from modules.checkpoints.vaes import OWN
from modules.devices import Device
from modules.errors import CheckpointError, RepriseError
from modules.nn import vae as vae_nn
from modules.nn.clip import CLIPText
from modules.nn.configs import CLIP, TextConfig, VAEConfig
from modules.nn.openclip import OpenCLIPText
from modules.nn.text import Inserted, TextEncoder, TextStates
from modules.nn.unet import UNet

log = logging.getLogger(__name__)
_GROUP = 128 * 2**20
"""Bytes mapped at a time while loading: what is converted is let go before more is touched."""


@dataclass
class LatentDiffusion:
    """UNet, autoencoder and text encoders of one file, in evaluation mode, without gradients."""

    name: str
    path: Path
    sha256: str
    config: ModelConfig
    device: Device
    unet: UNet
    vae: vae_nn.VAE
    """Without weights as long as the file has none of its own and no other stands in for it (`config.own_vae`)."""
    text: nn.ModuleList
    """One for each of ``config.family.encoders``."""
    nbytes: int = 0
    vae_path: Path | None = None
    """Of an autoencoder that is not the file's own, its hash, and its name as a request says it."""
    vae_sha256: str = ""
    vae_name: str = OWN
    embeddings: Listing = NONE
    """The textual inversions that its texts may name, if they are as wide as its text encoders together."""
    invariant_shapes: dict[tuple[int, ...], bool] = field(default_factory=dict)
    """What `pipeline.company` found out about the UNet's kernels, by shape."""

    @property
    def short_hash(self) -> str:
        """A1111's model hash: the first ten digits of the file's SHA-256."""
        return self.sha256[:10]

    @property
    def own_embeddings(self) -> Suited:
        return self.embeddings.for_width(self.config.text_width)

    def parts(self) -> dict[str, nn.Module]:
        """Its networks by name: "unet", "vae", "text", and "text_2" for a second text encoder."""
        texts = {spec.part: text for spec, text in zip(self.config.family.encoders, self.text, strict=True)}
        return {"unet": self.unet, "vae": self.vae, **texts}

    def encode_text(
        self,
        ids: Tensor,
        inserted: Sequence[Inserted] = (),
        clip_skip: int = 1,
        *,
        encoder: int = 0,
        skip_anyway: bool = False,
    ) -> TextStates:
        """Token ids (b, 77) -> float32 states of one text encoder, from the layer that the family takes.

        ``skip_anyway``: clip skip counts for SDXL's first encoder too.
        """
        spec = self.config.family.encoders[encoder]
        layer = spec.layer(clip_skip, asked=skip_anyway)
        found: TextStates = self.text[encoder](ids.to(self.device.device), layer, inserted, norm=spec.final_norm)
        return TextStates(found.context.float(), None if found.pooled is None else found.pooled.float())

    def encode(self, images: Tensor) -> Tensor:
        """Pictures (n, 3, h, w) in [-1, 1] -> scaled latents (n, c, h / f, w / f) float32, one picture at a time."""
        means = [self.vae.encode(self._to_vae(image[None]))[0] for image in images]
        return (torch.cat(means).float() - self.config.latent.shift) * self.config.latent.scale

    def decode(self, latents: Tensor) -> Tensor:
        """Scaled latents (n, c, h, w) -> pictures (n, 3, f h, f w) in [-1, 1], float32, one picture at a time.

        An autoencoder that overflows in half precision is moved to float32 once and for all.
        """
        return torch.cat([self._decode_one(latent[None]) for latent in latents])

    def _decode_one(self, latent: Tensor) -> Tensor:
        if not latent.isfinite().all():
            raise RepriseError(
                "the model answered with values that are no numbers",
                hint="choose another sampler or a lower CFG scale, or start with --dtype float32",
            )
        z = latent / self.config.latent.scale + self.config.latent.shift
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
        unet, vae, texts = UNet(config.unet), vae_nn.VAE(config.vae), nn.ModuleList(map(new_text, config.texts))
    model = LatentDiffusion(name, path, sha256, config, device, unet, vae, texts)
    parts = {part: module for part, module in model.parts().items() if part != "vae" or config.own_vae}
    _fill(name, path, header, config.family.places(header.tensors), parts, device)
    model.nbytes = sum(p.nbytes for module in parts.values() for p in module.parameters())
    return model


def new_text(config: TextConfig) -> TextEncoder:
    """With fresh weights."""
    return CLIPText(config) if config.layout == CLIP else OpenCLIPText(config)


def load_vae(path: Path, device: Device, own: VAEConfig) -> vae_nn.VAE:
    """The autoencoder in a file of its own, for a checkpoint whose autoencoder is ``own``."""
    header = read_header(path, field="vae")
    with torch.device("meta"):
        vae = vae_nn.VAE(detect_vae(path.name, header, own))
    prefixed = any(key.startswith(VAE) for key in header.tensors)
    keys = [key for key in header.tensors if key.startswith(VAE) or not prefixed]
    places = {key: ("vae", rest) for key in keys if not (rest := key.removeprefix(VAE)).startswith(TRAINING)}
    _fill(path.name, path, header, places, {"vae": vae}, device, field="vae")
    return vae


def read_again(path: Path, family: Family, device: Device, part: str, own: str) -> Tensor:
    """One weight of a checkpoint as `load` reads it: ``own`` is its name within a part of `LatentDiffusion.parts`."""
    keys = read_header(path).tensors
    key = next(key for key, place in family.places(keys).items() if place == (part, own))
    with safe_open(path, framework="pt") as file:
        return device.weight(file.get_tensor(key))


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
