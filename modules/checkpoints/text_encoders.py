"""Text encoders in files of their own, for checkpoints that come without: where they are, which one fits, and its
tensors under the names that the checkpoint would have. Pickles are read without executing them. No torch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from modules.checkpoints.families.base import EncoderSpec, Family, Shapes
from modules.checkpoints.families.shapes import unet_config
from modules.checkpoints.files import INDEX, PICKLES, Header, TensorInfo
from modules.checkpoints.folders import files_below
from modules.checkpoints.foreign_names import open_clip_pieces
from modules.checkpoints.matching import ambiguous, match, refuse_dead_link
from modules.checkpoints.pickles import header_of, is_pickle
from modules.checkpoints.source import Origin, Source, joined
from modules.errors import CheckpointError, UnknownName
from modules.nn.configs import CLIP
from modules.registry import hint_for

AUTOMATIC = "Automatic"
FIELD = "text_encoder"
_TOKENS, _HF, _HF_TOKENS = "token_embedding.weight", "text_model.", "embeddings.token_embedding.weight"
SIZES = 256
"""Sinusoids for each number in SDXL's vector, behind the pooled text."""


@dataclass(frozen=True)
class Encoder:
    """A text encoder within a file."""

    root: str
    """What stands before the names of its layers."""
    layout: str
    """That of transformers, `CLIP`, or of open_clip."""
    width: int


def encoders_in(header: Header) -> list[Encoder]:
    """The text encoders of a file, whatever stands before their names.

    ComfyUI writes ``clip_l.transformer.``, ``text_encoders.clip_g.transformer.`` and others, transformers nothing.
    """
    found = []
    for key, info in header.tensors.items():
        if key.endswith(_HF_TOKENS):
            found.append(Encoder(key.removesuffix(_HF_TOKENS), CLIP, info.shape[-1]))
        elif key.endswith(_TOKENS):
            found.append(Encoder(key.removesuffix(_TOKENS), "open_clip", info.shape[-1]))
    return found


def missing_encoders(family: Family, shapes: Shapes) -> list[EncoderSpec]:
    """Those of a family's text encoders of which a checkpoint has nothing."""
    return [spec for spec in family.encoders if not any(key.startswith(spec.prefixes) for key in shapes)]


def width_of(family: Family, spec: EncoderSpec, shapes: Shapes) -> int:
    """The width of a family's encoder, as the UNet of a checkpoint needs it. Raises `LookupError`."""
    unet = unet_config(shapes)
    if len(family.encoders) == 1:
        return unet.context_dim
    pooled = unet.vector_dim - SIZES * len(family.vector)
    return pooled if spec.pooled else unet.context_dim - pooled


class TextEncoders:
    """The text encoders in some folders, by file name."""

    def __init__(self, folders: Sequence[Path] = ()):
        self._folders = tuple(folders)

    def names(self) -> dict[str, Path]:
        """The files by name. Of files with one name the first keeps it; the others have that of their folder too."""
        found: dict[str, Path] = {}
        for folder in self._folders:
            for path in sorted(files_below(folder, (".safetensors", *PICKLES))):
                found[path.relative_to(folder).as_posix() if path.name in found else path.name] = path
        return dict(sorted(found.items(), key=lambda item: (item[0].casefold(), item[0])))

    def find(self, wanted: str, checkpoint: Path, family: Family, shapes: Shapes) -> list[tuple[EncoderSpec, Path]]:
        """A file for each encoder that a checkpoint lacks: the one that ``wanted`` names where it fits, the checkpoint
        itself, which may have it under another program's names, else the first that fits, pickles last. Raises
        `CheckpointError` where there is none, or where the named one cannot be read.
        """
        lacking = missing_encoders(family, shapes)
        if not lacking:
            return []
        listed = self.names()
        first = self.named(wanted, listed)
        own = [checkpoint] if checkpoint.name != INDEX else []
        for path in first:
            header_of(path, field=FIELD)
        others = sorted((path for path in listed.values() if path not in first), key=is_pickle)
        paths = [*first, *own, *others]
        found: list[tuple[EncoderSpec, Path]] = []
        for spec in lacking:
            width = width_of(family, spec, shapes)
            used = [path for _, path in found if path not in own]  # one encoder does not stand for two
            fitting = next((path for path in paths if path not in used and _fits(path, spec, width)), None)
            if fitting is None:
                raise _none(checkpoint.stem, spec, width)
            found.append((spec, fitting))
        return found

    def named(self, wanted: str, listed: dict[str, Path] | None = None) -> list[Path]:
        """The file that a name means; none where the choice is ours. Raises `UnknownName` and `CheckpointError`."""
        if wanted == AUTOMATIC:
            return []
        listed = self.names() if listed is None else listed
        found = match(wanted, listed, lambda path: path.name)
        if found.several:
            raise ambiguous(wanted, found.several, FIELD)
        if found.file is None:
            refuse_dead_link(wanted, self._folders, FIELD)
            hint = hint_for(wanted, list(listed), none="put it into models/text_encoder")
            raise UnknownName(f"no text encoder named {wanted!r}", hint=hint, field=FIELD)
        return [found.file]


def _none(checkpoint: str, spec: EncoderSpec, width: int) -> CheckpointError:
    kind = {768: "CLIP ViT-L (clip_l)", 1024: "OpenCLIP ViT-H", 1280: "OpenCLIP bigG (clip_g)"}.get(width, "one")
    return CheckpointError(
        f"{checkpoint} has no text encoder of its own, and none of width {width} is here",
        hint=f"put {kind} as .safetensors into models/text_encoder",
        field=FIELD,
    )


def _fits(path: Path, spec: EncoderSpec, width: int) -> bool:
    try:
        return _encoder(header_of(path, field=FIELD), spec, width) is not None
    except CheckpointError:
        return False


def _encoder(header: Header, spec: EncoderSpec, width: int) -> Encoder | None:
    """transformers' layout serves both kinds: that of open_clip is made of it."""
    layouts = (CLIP,) if spec.layout == CLIP else (spec.layout, CLIP)
    return next((one for one in encoders_in(header) if one.width == width and one.layout in layouts), None)


def with_encoders(source: Source, family: Family, encoders: Sequence[tuple[EncoderSpec, Path]]) -> Source:
    """A checkpoint with the text encoders of other files in their places."""
    tensors, origins = dict(source.header.tensors), dict(source.origins)
    shapes = {key: info.shape for key, info in source.header.tensors.items()}
    for spec, path in encoders:
        header, width = header_of(path, field=FIELD), width_of(family, spec, shapes)
        encoder = _encoder(header, spec, width)
        if encoder is None:  # it was another file a moment ago
            raise _none(path.name, spec, width)
        for name, info, origin in tensors_of(path, header, spec, encoder):
            tensors[name], origins[name] = info, origin
    return Source(replace(source.header, tensors=tensors), origins)


def tensors_of(
    path: Path, header: Header, spec: EncoderSpec, encoder: Encoder
) -> Iterator[tuple[str, TensorInfo, Origin]]:
    """The tensors of an encoder under the names that a checkpoint has for it, and what each is made of."""
    prefix = spec.prefixes[0]
    own = {key.removeprefix(encoder.root): key for key in header.tensors if key.startswith(encoder.root)}
    if encoder.layout == spec.layout:
        for name, key in own.items():
            yield prefix + name, header.tensors[key], Origin(((path, key),))
        return
    above = encoder.root.removesuffix(_HF)  # the projection stands beside the layers
    if (projection := f"{above}text_projection.weight") in header.tensors:
        own["text_projection.weight"] = projection
    for name, parts in open_clip_pieces(own).items():
        keys = [own[part] for part in parts if part in own]
        turned = name == "text_projection"
        infos = [header.tensors[key] for key in keys]
        yield prefix + name, joined(infos, turned=turned), Origin(tuple((path, key) for key in keys), transposed=turned)
