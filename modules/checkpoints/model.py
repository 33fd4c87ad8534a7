"""A loaded checkpoint: UNet, autoencoder and text encoders on their device."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn

from modules.checkpoints.detect import detect, detect_vae
from modules.checkpoints.embeddings import NONE, Listing, Suited
from modules.checkpoints.families.base import TRAINING, VAE, Family, ModelConfig, Places
from modules.checkpoints.files import Header
from modules.checkpoints.source import Place, Source, open_source
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
"""Bytes mapped at a time while loading; each group is released before the next is touched."""


@dataclass
class LatentDiffusion:
    """The networks of one checkpoint, in evaluation mode, without gradients."""

    name: str
    path: Path
    sha256: str
    config: ModelConfig
    device: Device
    unet: UNet
    vae: vae_nn.VAE
    """Without weights if the file has no autoencoder and no other replaces it (`config.own_vae`)."""
    text: nn.ModuleList
    """One for each of ``config.family.encoders``."""
    nbytes: int = 0
    vae_path: Path | None = None
    """A standalone VAE: its file, hash and requested name."""
    vae_sha256: str = ""
    vae_name: str = OWN
    embeddings: Listing = NONE
    """The textual inversions that prompts may name, if they have the width of the text encoders."""
    invariant_shapes: dict[tuple[int, ...], bool] = field(default_factory=dict)
    """The results of `pipeline.batch_invariance` for the UNet's kernels, by shape."""

    @property
    def short_hash(self) -> str:
        """A1111's model hash: the first ten digits of the file's SHA-256."""
        return self.sha256[:10]

    @property
    def own_embeddings(self) -> Suited:
        return self.embeddings.for_width(self.config.text_width)

    def parts(self) -> dict[str, nn.Module]:
        """The networks by name: "unet", "vae", "text", and "text_2" for a second text encoder."""
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
        """Token ids (b, 77) -> float32 states of one text encoder, from the layer that the family uses.

        ``skip_anyway``: clip skip counts for SDXL's first encoder too.
        """
        spec = self.config.family.encoders[encoder]
        layer = spec.layer(clip_skip, self.config.texts[encoder].layers, asked=skip_anyway)
        found: TextStates = self.text[encoder](ids.to(self.device.device), layer, inserted, norm=spec.final_norm)
        return TextStates(found.context.float(), None if found.pooled is None else found.pooled.float())

    def encode(self, images: Tensor) -> Tensor:
        """Images (n, 3, h, w) in [-1, 1] -> scaled latents (n, c, h / f, w / f) float32, one image at a time."""
        means = [self.vae.encode(self._to_vae(image[None]))[0] for image in images]
        return (torch.cat(means).float() - self.config.latent.shift) * self.config.latent.scale

    def decode(self, latents: Tensor) -> Tensor:
        """Scaled latents (n, c, h, w) -> images (n, 3, f h, f w) in [-1, 1], float32, one image at a time.

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
    """Load a safetensors checkpoint onto ``device``; raises `CheckpointError` with the file and the reason.

    Networks are built without storage, then each tensor is taken from the mapped file, converted and put in its place,
    so the peak stays near the size of the model itself.
    """
    name = name or path.stem
    source = open_source(path)
    config = detect(name, source.header, path)
    with torch.device("meta"):
        unet, vae, texts = UNet(config.unet), vae_nn.VAE(config.vae), nn.ModuleList(map(new_text, config.texts))
    model = LatentDiffusion(name, path, sha256, config, device, unet, vae, texts)
    parts = {part: module for part, module in model.parts().items() if part != "vae" or config.own_vae}
    _fill(name, source, config.family.places(source.header.tensors), parts, device)
    model.nbytes = sum(p.nbytes for module in parts.values() for p in module.parameters())
    return model


def new_text(config: TextConfig) -> TextEncoder:
    """Create a text encoder with fresh weights."""
    return CLIPText(config) if config.layout == CLIP else OpenCLIPText(config)


def load_vae(path: Path, device: Device, own: VAEConfig) -> vae_nn.VAE:
    """Load a standalone VAE file, for a checkpoint whose autoencoder is ``own``."""
    source = open_source(path, field="vae")
    with torch.device("meta"):
        vae = vae_nn.VAE(detect_vae(path.name, source.header, own))
    prefixed = any(key.startswith(VAE) for key in source.header.tensors)
    keys = [key for key in source.header.tensors if key.startswith(VAE) or not prefixed]
    places = {key: ("vae", rest) for key in keys if not (rest := key.removeprefix(VAE)).startswith(TRAINING)}
    _fill(path.name, source, places, {"vae": vae}, device, field="vae")
    return vae


def read_again(path: Path, family: Family, device: Device, part: str, own: str) -> Tensor:
    """One weight of a checkpoint as `load` reads it: ``own`` is its name within a part of `LatentDiffusion.parts`."""
    source = open_source(path)
    key = next(key for key, place in family.places(source.header.tensors).items() if place == (part, own))
    with ExitStack() as files:
        return device.weight(_tensor(source, key, _opened(source, [key], files)))


def _fill(
    name: str,
    source: Source,
    places: Places,
    modules: Mapping[str, nn.Module],
    device: Device,
    field: str = "checkpoint",
) -> None:
    """Fill networks that were built on the meta device with the file's tensors; sets evaluation mode, disables
    gradients.

    What no network knows is logged and left out, as A1111 does; what one lacks is fatal.
    """
    foreign: set[str] = set()
    for part, module in modules.items():
        keys = {own: key for key, (p, own) in places.items() if p == part}
        foreign |= {keys[own] for own in keys.keys() - module.state_dict().keys()}
        _check(name, source.header, keys, module, field)
    if foreign:
        log.info("%s: %d tensors belong to no network and are left out: %s", name, len(foreign), min(foreign))
    places = {key: place for key, place in places.items() if key not in foreign and place[0] in modules}
    states: dict[str, dict[str, Tensor]] = {part: {} for part in modules}
    for group in _groups(source.header, places):
        with ExitStack() as files:
            opened = _opened(source, group, files)
            for key in group:
                part, own = places[key]
                states[part][own] = device.weight(_tensor(source, key, opened))
    for part, module in modules.items():
        module.load_state_dict(states.pop(part), strict=True, assign=True)
        module.requires_grad_(False).eval()


def _opened(source: Source, keys: Sequence[str], files: ExitStack) -> dict[Path, Any]:
    """The files that tensors are in, mapped until ``files`` ends: with it their pages are let go."""
    paths = {path for key in keys for path in source.origins[key].files}
    return {path: files.enter_context(safe_open(path, framework="pt")) for path in paths}


def _tensor(source: Source, key: str, opened: Mapping[Path, Any]) -> Tensor:
    """One of a source's tensors, out of files that are open."""
    origin = source.origins[key]

    def stored(place: Place) -> Tensor:
        path, name = place
        found: Tensor = opened[path].get_tensor(name)
        return found

    pieces = [stored(place) for place in origin.pieces]
    tensor = torch.cat(pieces) if len(pieces) > 1 else pieces[0]
    tensor = tensor.T if origin.transposed else tensor
    if origin.scale:
        tensor = tensor.float() * stored(origin.scale).float()
    return tensor.reshape(source.header.tensors[key].shape)


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
