"""A loaded checkpoint: UNet, autoencoder and text encoders on their device."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn

from modules.checkpoints.detect import detect, detect_vae, family_of, remarks, shapes_of
from modules.checkpoints.embeddings import NONE, Listing, Suited
from modules.checkpoints.families.base import TRAINING, VAE, EncoderSpec, Family, ModelConfig, Places, Shapes
from modules.checkpoints.files import Header
from modules.checkpoints.memory import Budget, Residence, unet_working, vae_working, weight_bytes
from modules.checkpoints.pickles import is_pickle, opened_state, unreadable
from modules.checkpoints.source import Place, Source, open_source
from modules.checkpoints.text_encoders import with_encoders
from modules.checkpoints.unpickle import StoredTensor, UnreadablePickle
from modules.checkpoints.vaes import OWN
from modules.checkpoints.way import Memory
from modules.devices import STORED_DTYPES, Device, is_finite
from modules.errors import CheckpointError, DamagedCheckpoint, NoNumbers
from modules.nn import vae as vae_nn
from modules.nn.banded_vae import Banded
from modules.nn.clip import CLIPText
from modules.nn.configs import CLIP, TextConfig, VAEConfig
from modules.nn.graphs import GraphPool
from modules.nn.openclip import OpenCLIPText
from modules.nn.streamed import in_8_bits
from modules.nn.text import Inserted, TextEncoder, TextStates
from modules.nn.unet import UNet

log = logging.getLogger(__name__)
_DECODING = 1024
"""Numbers for each pixel that decoding an image holds at most: 914 were measured at 512x512."""
_GROUP = 128 * 2**20
"""Bytes mapped at a time while loading; each group is released before the next is touched."""
"""By safetensors' names."""


_SPOKEN = {"unet": "UNet", "vae": "autoencoder", "text": "text encoder", "text_2": "second text encoder"}


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
    text_files: tuple[Path, ...] = ()
    """The files of text encoders that the checkpoint lacks."""
    tiny_encoder: nn.Module | None = None
    tiny_decoder: nn.Module | None = None
    """Stand in for the autoencoder's parts; they take and give scaled latents."""
    embeddings: Listing = NONE
    """The textual inversions that prompts may name, if they have the width of the text encoders."""
    invariant_shapes: dict[tuple[int, ...], bool] = field(default_factory=dict)
    """The results of `pipeline.batch_invariance` for the UNet's kernels, by shape."""
    residence: Residence | None = None
    """Where its networks lie; None: they never move."""
    memory: Memory = field(default_factory=Memory)
    """The way of the run at hand where memory is short."""
    graphs: GraphPool = field(default_factory=lambda: GraphPool(None))
    """Recorded steps of the UNet, where its device has such a thing."""

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

        def states() -> TextStates:
            self.bring(spec.part)
            out: TextStates = self.text[encoder](ids.to(self.device.device), layer, inserted, norm=spec.final_norm)
            return out

        found = self.memory.attempt(states)
        return TextStates(found.context.float(), None if found.pooled is None else found.pooled.float())

    def bring(self, part: str, working: int = 0) -> None:
        """See to it that a network can be computed with, beside ``working`` bytes of what is computed."""
        if self.residence:
            self.residence.bring(self, part, working)

    def bring_unet(self, images: int, area: int) -> None:
        """The same of the UNet, for so many ``images`` of ``area`` latent pixels at once."""
        if self.residence:
            self.residence.bring(self, "unet", unet_working(self.config.unet, images, area, self.device.dtype))

    def encode(self, images: Tensor) -> Tensor:
        """Images (n, 3, h, w) in [-1, 1] -> scaled latents (n, c, h / f, w / f) float32, one image at a time."""
        if self.tiny_encoder is not None:
            return torch.cat([through(self.tiny_encoder, image[None]) for image in images])
        area = images.shape[2] * images.shape[3] // self.config.vae.factor**2

        def mean(image: Tensor) -> Tensor:
            return self._coded(
                "tiled_encode",
                area,
                lambda: self.vae.encode(self._to_vae(image))[0],
                lambda: self._banded().encode(self._to_vae(image))[0],
            )

        means = [mean(image[None]) for image in images]
        return (torch.cat(means).float() - self.config.latent.shift) * self.config.latent.scale

    def decode(self, latents: Tensor) -> Tensor:
        """Scaled latents (n, c, h, w) -> images (n, 3, f h, f w) in [-1, 1], float32, one image at a time.

        An autoencoder that overflows in half precision is moved to float32 once and for all.
        """
        return torch.cat([self.decode_together(latent[None]) for latent in latents])

    def decodes_at_once(self, latents: Tensor) -> int:
        """How many of ``latents`` (n, c, h, w) the device has room to decode together, at least 1."""
        pixels = latents.shape[2] * latents.shape[3] * self.config.vae.factor**2
        return self.device.fits(pixels * _DECODING * self._vae_dtype().itemsize, len(latents))

    def decode_together(self, latents: Tensor) -> Tensor:
        """As `decode`, all of them in one go: a few bits of an image may then depend on its company."""
        if not latents.isfinite().all():
            raise self.no_numbers("choose another sampler or a lower CFG scale")
        if self.tiny_decoder is not None:
            return through(self.tiny_decoder, latents).clamp(-1.0, 1.0)
        z = latents / self.config.latent.scale + self.config.latent.shift

        def whole() -> Tensor:
            return self.vae.decode(self._to_vae(z))

        def decoded() -> Tensor:
            if len(z) > 1:  # who asks has them made one by one where there is no room
                self.bring("vae")
                return whole().float()
            area = z.shape[2] * z.shape[3]
            return self._coded("tiled_decode", area, whole, lambda: self._banded().decode(self._to_vae(z))).float()

        image = decoded()
        if not image.isfinite().all() and self._vae_dtype() != torch.float32:
            log.warning("the autoencoder of %s overflows in %s; it runs in float32 now", self.name, self._vae_dtype())
            self.vae.float()
            image = decoded()
        if not image.isfinite().all():
            raise self.no_numbers("choose another VAE")
        return image.clamp(-1.0, 1.0)

    def no_numbers(self, hint: str) -> NoNumbers:
        """Why a network answered with values that are no numbers: its weights, or what was done with them, for which
        ``hint`` tells what to try."""
        for part, network in self.parts().items():
            if not all(is_finite(parameter) for parameter in network.parameters() if not parameter.is_meta):
                file = self.vae_path if part == "vae" and self.vae_path else self.path
                return DamagedCheckpoint(
                    f"{file.name} is damaged: weights of its {_SPOKEN.get(part, part)} are no numbers",
                    hint="get the file again, or choose another",
                    field="checkpoint",
                )
        if self.device.dtype != torch.float32:
            hint += ", or start with --dtype float32"
        return NoNumbers("the model answered with values that are no numbers", hint=hint)

    def _coded(self, measure: str, area: int, whole: Callable[[], Tensor], tiled: Callable[[], Tensor]) -> Tensor:
        """What the autoencoder gives for ``area`` latent pixels, as a whole or in bands."""
        needed = vae_working(self.config.vae, area, self._vae_dtype())

        def fits() -> bool:
            self.bring("vae", needed)
            free, total = self.device.memory()
            room = self.residence.room if self.residence else needed
            return needed <= room and (needed <= free or not total)

        def wholly() -> Tensor:
            self.bring("vae", needed)
            return whole()

        def in_bands() -> Tensor:
            self.bring("vae")
            return tiled().to(self.device.device)

        return self.memory.coded(measure, area, wholly, in_bands, fits)

    def _banded(self) -> Banded:
        return Banded(self.vae, torch.device("cpu"))

    def _to_vae(self, x: Tensor) -> Tensor:
        return self.device.place(x).to(self._vae_dtype())

    def _vae_dtype(self) -> torch.dtype:
        return self.vae.post_quant_conv.weight.dtype


def through(network: nn.Module, x: Tensor) -> Tensor:
    """A network's answer in float32, wherever it runs and in whatever numbers."""
    weight = next(network.parameters())
    found: Tensor = network(x.to(weight.device, weight.dtype)).float()
    return found


FindEncoders = Callable[[Family, Shapes], Sequence[tuple[EncoderSpec, Path]]]
"""The files of the text encoders that a checkpoint of a family lacks."""


def _no_encoders(family: Family, shapes: Shapes) -> Sequence[tuple[EncoderSpec, Path]]:
    return ()


def load(
    path: Path,
    device: Device,
    *,
    name: str = "",
    sha256: str = "",
    residence: Residence | None = None,
    fp8: bool = False,
    find_encoders: FindEncoders = _no_encoders,
) -> LatentDiffusion:
    """Load a safetensors checkpoint onto ``device``; raises `CheckpointError` with the file and the reason.

    ``residence`` says where the weights go if not all of them fit on the device. ``fp8``: keep the UNet's in 8 bits.

    Networks are built without storage, then each tensor is taken from the mapped file, converted and put in its place,
    so the peak stays near the size of the model itself.
    """
    name = name or path.stem
    source, files = _whole(path, find_encoders)
    config = detect(name, source.header, path)
    for remark in remarks(source.header, path):
        log.warning("%s", remark)
    with _building(name, "checkpoint"):
        unet, vae, texts = UNet(config.unet), vae_nn.VAE(config.vae), nn.ModuleList(map(new_text, config.texts))
    if fp8 and residence is None:
        residence = Residence(device, Budget(2**62))  # which gives the UNet's layers their weights in full
    model = LatentDiffusion(name, path, sha256, config, device, unet, vae, texts, text_files=files, residence=residence)
    parts = {part: module for part, module in model.parts().items() if part != "vae" or config.own_vae}
    home = None
    if residence:
        expected = sum(p.numel() * device.dtype.itemsize for module in parts.values() for p in module.parameters())
        side = config.native_size // config.vae.factor
        home = residence.home(expected, unet_working(config.unet, 2, side**2, device.dtype))
        if home is None:
            residence.make_room(expected)
    fill(name, source, config.family.places(source.header.tensors), parts, device, home=home, fp8=fp8)
    model.graphs = GraphPool(device.recorder())
    model.nbytes = sum(map(weight_bytes, parts.values()))
    return model


def _whole(path: Path, find_encoders: FindEncoders) -> tuple[Source, tuple[Path, ...]]:
    """A checkpoint with the text encoders that it lacks, and the other files that they are of."""
    source = open_source(path)
    shapes = shapes_of(source.header)
    family = family_of(shapes)
    if family is None or not family.supported:
        return source, ()
    found = find_encoders(family, shapes)
    files = dict.fromkeys(file for _, file in found if file != path)
    return with_encoders(source, family, found), tuple(files)


def new_text(config: TextConfig) -> TextEncoder:
    """Create a text encoder with fresh weights."""
    return CLIPText(config) if config.layout == CLIP else OpenCLIPText(config)


@contextmanager
def _building(name: str, field: str) -> Iterator[None]:
    """Networks that are made within get no memory yet; what torch's layers refuse is told with the file's name."""
    try:
        with torch.device("meta"):
            yield
    except ValueError as error:
        raise CheckpointError(
            f"the networks of {name} cannot be built with the widths that its weights have ({error})",
            hint="it was made for another program, or its own description is lost; choose another one",
            field=field,
        ) from error


def load_vae(path: Path, device: Device, own: VAEConfig, home: torch.device | None = None) -> vae_nn.VAE:
    """Load a standalone VAE file, for a checkpoint whose autoencoder is ``own``, into memory at ``home``."""
    source = open_source(path, field="vae")
    with _building(path.name, "vae"):
        vae = vae_nn.VAE(detect_vae(path.name, source.header, own))
    prefixed = any(key.startswith(VAE) for key in source.header.tensors)
    keys = [key for key in source.header.tensors if key.startswith(VAE) or not prefixed]
    places = {key: ("vae", rest) for key in keys if not (rest := key.removeprefix(VAE)).startswith(TRAINING)}
    fill(path.name, source, places, {"vae": vae}, device, field="vae", home=home)
    return vae


def read_again(path: Path, family: Family, device: Device, part: str, own: str) -> Tensor:
    """One weight of a checkpoint as `load` reads it: ``own`` is its name within a part of `LatentDiffusion.parts`."""
    source = open_source(path)
    key = next(key for key, place in family.places(source.header.tensors).items() if place == (part, own))
    with ExitStack() as files:
        return device.weight(tensor_of(source, key, opened(source, [key], files)))


def fill(
    name: str,
    source: Source,
    places: Places,
    modules: Mapping[str, nn.Module],
    device: Device,
    field: str = "checkpoint",
    *,
    home: torch.device | None = None,
    fp8: bool = False,
) -> None:
    """Fill networks that were built on the meta device with the file's tensors; sets evaluation mode, disables
    gradients. ``home``: where the weights go, if not onto ``device``; ``fp8``: keep the UNet's in 8 bits.

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
            there = opened(source, group, files)
            for key in group:
                part, own = places[key]
                weight = device.weight(tensor_of(source, key, there), home)
                states[part][own] = in_8_bits(own, weight) if fp8 and part == "unet" else weight
    for part, module in modules.items():
        module.load_state_dict(states.pop(part), strict=True, assign=True)
        module.requires_grad_(False).eval()


class _Pickled:
    """The tensors of a pickle, asked for as those of `safe_open` are."""

    def __init__(self, path: Path, tensors: Mapping[str, StoredTensor]):
        self._path = path
        self._tensors = tensors

    def get_tensor(self, name: str) -> Tensor:
        stored = self._tensors[name]
        try:
            data = bytearray(stored.raw())
        except UnreadablePickle as error:
            raise unreadable(self._path, error) from error
        return torch.frombuffer(data, dtype=STORED_DTYPES[stored.dtype]).reshape(stored.shape)


def _open(path: Path, files: ExitStack) -> Any:
    if is_pickle(path):
        return _Pickled(path, files.enter_context(opened_state(path)))
    return files.enter_context(safe_open(path, framework="pt"))


def opened(source: Source, keys: Sequence[str], files: ExitStack) -> dict[Path, Any]:
    """The files that tensors are in, mapped until ``files`` ends: with it their pages are let go."""
    paths = {path for key in keys for path in source.origins[key].files}
    return {path: _open(path, files) for path in paths}


def tensor_of(source: Source, key: str, there: Mapping[Path, Any]) -> Tensor:
    """One of a source's tensors, out of files that are open."""
    origin = source.origins[key]

    def stored(place: Place) -> Tensor:
        path, name = place
        found: Tensor = there[path].get_tensor(name)
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
