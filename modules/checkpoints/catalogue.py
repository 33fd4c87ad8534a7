"""What lies in the models folder, as the server tells of it: names, sizes, what files say of themselves. No torch."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from modules.checkpoints.embeddings import EmbeddingFolder, Suited
from modules.checkpoints.files import Hashes, Header, find_model, list_models, native_size, read_header
from modules.checkpoints.vaes import VaeFolders
from modules.errors import RepriseError

UNET, TEXT = "model.diffusion_model.", "cond_stage_model.transformer."
Shapes = Mapping[str, tuple[int, ...]]
_MAX_VALUE, _MAX_ENTRIES = 600, 60
_ROWS = "embeddings.token_embedding.weight"


@dataclass(frozen=True)
class Card:
    """What is known of a checkpoint without loading it."""

    name: str
    file_name: str = ""
    family: str = ""
    prediction: str = ""
    """ "eps" or "v"."""
    native_size: int = 512
    nbytes: int = 0
    sha256: str = ""
    """Empty until the worker has read the file."""
    metadata: Mapping[str, str] = field(default_factory=dict)
    """Texts of the file's header, those that describe it first; long ones are cut."""
    problem: str = ""
    """Why there is nothing to tell."""


class Catalogue:
    """The checkpoints, VAEs and embeddings below a models folder, as they are whenever somebody asks."""

    def __init__(self, folder: Path, hashes: Hashes, *, default: str = ""):
        self._checkpoints = folder / "Stable-diffusion"
        self._vaes = VaeFolders(folder / "VAE", self._checkpoints)
        self._embeddings = EmbeddingFolder(folder / "embeddings")
        self._hashes = hashes
        self._default = default
        self._headers: dict[tuple[Path, int], Header] = {}

    def checkpoints(self) -> list[str]:
        """Names, the default first."""
        names = (model.name for model in list_models(self._checkpoints))
        return sorted(names, key=lambda name: name != self._default)

    def vaes(self) -> list[str]:
        """File names."""
        return list(self._vaes.list())

    def embeddings(self, checkpoint: str) -> Suited:
        """Those that a checkpoint can use, and the others; without a checkpoint that can be read, none."""
        try:
            _, header = self._header(checkpoint)
        except RepriseError:
            return Suited()
        return self._embeddings.list().for_width(text_width(_shapes(header)))

    def native_size(self, checkpoint: str) -> int:
        """Side in pixels that a checkpoint was trained for."""
        try:
            return native_size(find_model(self._checkpoints, checkpoint, self._default).path)
        except RepriseError:  # no model at all: the job will say so
            return 512

    def card(self, checkpoint: str) -> Card:
        """What is to be told of a checkpoint."""
        try:
            path, header = self._header(checkpoint)
        except RepriseError as error:
            return Card(checkpoint, problem=str(error))
        shapes, stated = _shapes(header), _stated(header)
        return Card(
            name=path.relative_to(self._checkpoints).with_suffix("").as_posix(),
            file_name=path.name,
            family=family(shapes),
            prediction=_prediction(shapes, header.metadata, stated),
            native_size=native_size(path),
            nbytes=path.stat().st_size,
            sha256=self._hashes.known(path),
            metadata=_told(header.metadata),
        )

    def _header(self, checkpoint: str) -> tuple[Path, Header]:
        path = find_model(self._checkpoints, checkpoint, self._default).path
        key = (path, path.stat().st_mtime_ns)
        if key not in self._headers:
            self._headers = {key: read_header(path)}  # one: asked for again and again while its prompt is typed
        return path, self._headers[key]


def _shapes(header: Header) -> Shapes:
    return {key: info.shape for key, info in header.tensors.items()}


def text_width(shapes: Shapes) -> int:
    """Width of a checkpoint's token embeddings; of SDXL's two encoders together. 0: it has none that is known."""
    if any(key.startswith("conditioner.embedders.1.") for key in shapes):
        return 768 + 1280
    names = (f"{TEXT}text_model.{_ROWS}", f"{TEXT}{_ROWS}", "cond_stage_model.model.token_embedding.weight")
    return next((shapes[name][1] for name in names if len(shapes.get(name, ())) == 2), 0)


def _in_channels(shapes: Shapes) -> int:
    shape = shapes.get(f"{UNET}input_blocks.0.0.weight", ())
    return shape[1] if len(shape) > 1 else 0


def _has(key: str) -> Callable[[Shapes], bool]:
    return lambda shapes: any(key in name for name in shapes)


FAMILIES: tuple[tuple[str, Callable[[Shapes], bool]], ...] = (
    ("Stable Diffusion 3", _has(f"{UNET}x_embedder.proj.weight")),
    ("SDXL", _has("conditioner.embedders.1.model.ln_final.weight")),
    ("SDXL refiner", _has("conditioner.embedders.0.model.ln_final.weight")),
    ("Stable Diffusion 2 depth", _has("depth_model.model.pretrained.act_postprocess3")),
    ("Stable Diffusion 2 unCLIP", _has("embedder.model.ln_final.weight")),
    ("Stable Diffusion 2", _has("cond_stage_model.model.transformer.resblocks.0.attn.in_proj_weight")),
    ("AltDiffusion", _has("cond_stage_model.roberta.embeddings.word_embeddings.weight")),
    ("Instruct-pix2pix", lambda shapes: _in_channels(shapes) == 8),
    ("Stable Diffusion 1.x", lambda shapes: _in_channels(shapes) > 0),
)
"""The first that fits names the family, so the special ones come before the general one."""


def family(shapes: Shapes) -> str:
    """
    >>> family({"model.diffusion_model.input_blocks.0.0.weight": (320, 9, 3, 3)})
    'Stable Diffusion 1.x, inpainting'
    """
    found = next((name for name, sign in FAMILIES if sign(shapes)), "")
    return f"{found}, inpainting" if found and _in_channels(shapes) == 9 else found or "not a diffusion model"


def _stated(header: Header) -> Mapping[str, object]:
    try:
        stated = json.loads(header.metadata.get("reprise.config", "{}"))
    except ValueError:
        return {}
    return stated if isinstance(stated, dict) else {}


def _prediction(shapes: Shapes, metadata: Mapping[str, str], stated: Mapping[str, object]) -> str:
    told = str(stated.get("prediction") or metadata.get("modelspec.prediction_type") or "eps")
    return "v" if "v_pred" in shapes or told.startswith("v") else "eps"


_FIRST = ("title", "author", "description", "license", "date", "usage_hint", "tags", "trigger_phrase")


def _told(metadata: Mapping[str, str]) -> dict[str, str]:
    """Texts for people: pictures in base64 and our own configuration are left out."""
    rank = {f"modelspec.{name}": i for i, name in enumerate(_FIRST)} | {name: i for i, name in enumerate(_FIRST)}
    texts = {k: v for k, v in metadata.items() if v.strip() and not v.startswith("data:")}
    texts = {k: v for k, v in texts.items() if k not in ("format", "reprise.config")}
    ordered = sorted(texts, key=lambda key: (rank.get(key, len(rank)), key))[:_MAX_ENTRIES]
    return {key: texts[key] if len(texts[key]) <= _MAX_VALUE else texts[key][: _MAX_VALUE - 1] + "…" for key in ordered}
