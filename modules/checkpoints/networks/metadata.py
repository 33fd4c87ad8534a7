"""What network files say of themselves: names, what they were trained on, and for which family of models they are."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from modules.checkpoints.networks.keys import TEXT_2, split

Metadata = Mapping[str, Any]
SD1, SD2, SDXL, FLUX, UNKNOWN = "SD1", "SD2", "SDXL", "Flux", "Unknown"
FAMILIES = (SD1, SD2, SDXL, UNKNOWN)
"""What the reference's card editor offers."""
_MEAN_OF_SENTENCES = 16
"""Letters; where tags are longer than this on the average, their words are counted instead."""
_WORD = re.compile(r"[-_\w']+")


def decoded(metadata: Mapping[str, str]) -> dict[str, Any]:
    """A header's texts, with those that are JSON objects as what they say."""
    return {key: _decoded(value) for key, value in metadata.items()}


def _decoded(text: str) -> Any:
    if not text.startswith("{"):
        return text
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def alias(metadata: Metadata, stem: str) -> str:
    """The name that a file states, else its stem."""
    return str(metadata.get("ss_output_name", stem))


def stated_family(metadata: Metadata) -> str:
    """As A1111 guesses it: everything with metadata is SD1 unless it says more."""
    if str(metadata.get("ss_base_model_version", "")).startswith("sdxl_"):
        return SDXL
    if str(metadata.get("ss_v2", "")) == "True":
        return SD2
    return SD1 if metadata else UNKNOWN


def stated_family_forge(metadata: Metadata) -> str:
    """As Forge guesses it: Unknown unless it says so."""
    architecture = metadata.get("modelspec.architecture")
    flux = metadata.get("modelspec.implementation") == "https://github.com/black-forest-labs/flux"
    if flux or architecture == "flux-1-dev/lora":
        return FLUX
    xl = str(metadata.get("ss_base_model_version", "")).startswith("sdxl_")
    if architecture == "stable-diffusion-xl-v1-base/lora" or xl:
        return SDXL
    if str(metadata.get("ss_v2", "")) == "True":
        return SD2
    return SD1 if architecture == "stable-diffusion-v1/lora" else UNKNOWN


def family_named(words: str) -> str:
    """The family of networks for a checkpoint's, as `checkpoints.detect` calls it; empty: none is known.

    >>> family_named("Stable Diffusion 1.x, inpainting"), family_named("SDXL"), family_named("AltDiffusion")
    ('SD1', 'SDXL', '')
    """
    begins = {"Stable Diffusion 1": SD1, "Stable Diffusion 2": SD2, "SDXL": SDXL}
    return next((family for begin, family in begins.items() if words.startswith(begin)), "")


_CONTEXT = {768: SD1, 1024: SD2, 2048: SDXL}
"""Families by the width of the text that the UNet attends to."""


def family_of_shapes(shapes: Mapping[str, tuple[int, ...]]) -> str:
    """For which family a network is, by the widths and the names of its layers; empty: they do not tell."""
    for key, shape in shapes.items():
        layer, part = split(key)
        if layer.startswith(TEXT_2):
            return SDXL
        if "double_blocks" in layer or "single_transformer_blocks" in layer:
            return FLUX
        if layer.endswith(("attn2_to_k", "attn2_to_v")) and part in _INPUT_SIDE and shape:
            return _CONTEXT.get(shape[-1] if part != "lora_down.weight" else shape[1], "")
    return ""


_INPUT_SIDE = ("lora_down.weight", "hada_w1_b", "diff")
"""Parts whose second size is the layer's input."""


# ------------------------------------------------------------------------------------------------- for a person


def training_tags(metadata: Metadata) -> list[tuple[str, int]]:
    """The words of a training set with their counts, the commonest first."""
    tags: Counter[str] = Counter()
    for folder in _table(metadata.get("ss_tag_frequency")).values():
        for tag, count in _table(folder).items():
            tags[tag.strip()] += _int(count)
    if tags and sum(map(len, tags)) / len(tags) >= _MEAN_OF_SENTENCES:
        words: Counter[str] = Counter()
        for text, count in tags.items():
            for word in _WORD.findall(text):
                if len(word) > 2:
                    words[word] += count
        tags = words
    return sorted(tags.items(), key=lambda item: -item[1])


@dataclass(frozen=True)
class Fact:
    """A line of a card's table. ``whole``: all of a value that is shortened."""

    label: str
    value: str | int
    whole: str = ""


_LABELS = {
    "ss_output_name": "Output name:",
    "ss_sd_model_name": "Model:",
    "ss_clip_skip": "Clip skip:",
    "ss_network_module": "Kohya module:",
}


def facts(metadata: Metadata) -> list[Fact]:
    """What the reference's card editor tells of a training."""
    found = [Fact(label, str(metadata[key])) for key, label in _LABELS.items() if str(metadata.get(key)) != "None"]
    if date := _date(metadata.get("ss_training_started_at")):
        found.append(Fact("Date trained:", date))
    if sizes := _resolutions(metadata):
        names = [name for name, _ in sorted(sizes.items(), key=lambda item: -item[1])]
        label = "Resolutions:" if len(names) > 1 else "Resolution:"
        short = ", ".join(names[:4])
        found.append(Fact(label, f"{short}, ...", ", ".join(names)) if len(names) > 4 else Fact(label, short))
    folders = _table(metadata.get("ss_dataset_dirs")).values()
    if images := sum(_int(_table(folder).get("img_count", 0)) for folder in folders):
        found.append(Fact("Dataset size:", images))
    return found


def _resolutions(metadata: Metadata) -> Counter[str]:
    """How many pictures of each size there were: buckets state the height first."""
    sizes: Counter[str] = Counter()
    for bucket in _table(_table(metadata.get("ss_bucket_info")).get("buckets")).values():
        side = _table(bucket).get("resolution")
        if isinstance(side, list) and len(side) == 2:
            sizes[f"{side[1]}x{side[0]}"] += _int(_table(bucket).get("count", 0))
    return sizes


def _date(stamp: Any) -> str:
    try:
        return datetime.fromtimestamp(float(stamp), UTC).strftime("%Y-%m-%d %H:%M") if stamp else ""
    except (ValueError, TypeError, OverflowError, OSError):
        return ""


def _table(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _int(value: Any) -> int:
    try:
        return int(value)
    except (ValueError, TypeError, OverflowError):
        return 0
