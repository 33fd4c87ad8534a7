"""Converts parsed infotext to changes of a request."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from modules.diffusion.names import Samplers, Schedulers, resolve, split_sampler
from modules.diffusion.types import SamplerSpec
from modules.errors import UserError
from modules.extension.modifier import ModifierSpec, from_text
from modules.metadata.infotext.keys import AUTOMATIC, DEFAULTS, KEYS, OLD_BEHAVIOURS
from modules.params.generation import GenerationParams, Hires, Init, Mask, Refiner, SoftInpainting, TiledUpscale
from modules.params.options import Option, nested_of, options_of, values_of

FindFile = Callable[[str, str], str | None]
"""``(name, hash) -> name`` of our file."""


def find_none(name: str, sha256: str) -> str | None:
    """A file lookup that finds nothing."""
    return None


def sampler_and_scheduler(name: str, scheduler: str, samplers: Samplers, schedulers: Schedulers) -> tuple[str, str]:
    """A1111's reading of the two: an unknown name becomes the first of its table, a sampler's default scheduler
    "Automatic".
    """
    bare, split = split_sampler(name, schedulers)
    sampler = bare if bare in samplers.names() else samplers.names()[0]
    known = {key: label for label, spec in schedulers.items() for key in (label, spec.name, *spec.aliases)}
    return sampler, _or_automatic(split or known.get(scheduler, AUTOMATIC), samplers.get(sampler), schedulers)


def _or_automatic(label: str, sampler: SamplerSpec, schedulers: Schedulers) -> str:
    favourite = sampler.default_scheduler
    return AUTOMATIC if favourite and schedulers.get(label).name == favourite else label


@dataclass(frozen=True)
class Paste:
    """The changes that infotext makes to a request, and notes on what could not be applied."""

    changes: dict[str, Any]
    """Values for `GenerationParams`, ready for JSON; ``hires`` and ``refiner`` are objects or None."""
    notes: tuple[str, ...]
    start: dict[str, Any] = field(default_factory=dict)
    """Values for the init image and its mask, flattened: ``denoising_strength``, ``mask_blur``, ..."""


def _keyed(cls: type) -> dict[str, Option]:
    """The options of a dataclass that have an infotext key, by key."""
    return {option.key: option for option in options_of(cls).values() if option.key}


_READ_AS = {"Beta scheduler alpha": "beta_dist_alpha", "Beta scheduler beta": "beta_dist_beta"}
"""Names that A1111 writes differently from how it reads them."""
_PLAIN = _keyed(GenerationParams) | {key: options_of(GenerationParams)[name] for key, name in _READ_AS.items()}
"""The parameter behind each key."""

_WHOLE: dict[str, Any] = {
    option.name: option.default
    for key, option in _PLAIN.items()
    if key not in {"Prompt", "Negative prompt", "Model", "Size-1", "Size-2", *list(KEYS)[:6]}
}
"""The defaults of keys missing from a text with a parameter line."""

_SILENT = {"Version", "Model hash", "VAE hash", "Lora hashes", "TI hashes", "User"}
"""Keys that ask for nothing that we do not do."""

_ADDNET = "AddNet "
"""Keys of the extension Additional Networks, whose LoRAs become tags where a text is pasted."""


def params_from(
    parsed: Mapping[str, Any],
    samplers: Samplers,
    schedulers: Schedulers,
    find_checkpoint: FindFile = find_none,
    find_vae: FindFile = find_none,
    modifiers: Iterable[ModifierSpec] = (),
) -> Paste:
    """The changes to a `GenerationParams` from the output of `read`.

    ``modifiers``: those of extensions, whose keys are read as well; one that is not named takes no part.
    A text of prompts alone changes the prompts alone. ``find_checkpoint(name, hash)`` gives the name of our file, or
    None to leave the chosen one; ``find_vae`` likewise. Batch sizes are not in the text and stay.
    """
    whole = "Steps" in parsed or "Seed" in parsed
    changes: dict[str, Any] = {**_WHOLE, "restore_faces": "Face restoration" in parsed} if whole else {}
    notes: list[str] = []
    old = [key for key in OLD_BEHAVIOURS if parsed.get(key) is True]  # a text says "True"
    if old:
        notes.append(f"as A1111 {parsed['Version']} did it: {', '.join(old)}")
    wanted = {k: v for k, v in parsed.items() if k in _PLAIN and (whole or k.endswith("rompt"))}
    _take_sampler(wanted, samplers, schedulers, changes, notes)
    if "Model" in wanted or "Model hash" in parsed:
        name, sha = str(wanted.pop("Model", "")), str(parsed.get("Model hash", ""))
        if (checkpoint := find_checkpoint(name, sha)) is not None:
            changes["checkpoint"] = checkpoint
    if "VAE" in wanted and (vae := find_vae(str(wanted["VAE"]), str(parsed.get("VAE hash", "")))) is not None:
        wanted["VAE"] = vae
    elif "VAE" in wanted:
        notes.append(f"there is no VAE {wanted.pop('VAE')} here; it was left as it is")
        changes.pop("vae", None)
    if wanted.get("RNG") == "GPU":
        wanted["RNG"] = "NV"  # the same numbers, made in software
    for key, value in wanted.items():
        try:
            changes[_PLAIN[key].name] = _PLAIN[key].cast(value)
        except UserError as error:
            notes.append(f"{error.message}; it was left as it is")
    start: dict[str, Any] = {}
    if whole:
        start = _start_from(parsed, notes)
        changes |= {"hires": _hires_from(parsed, notes), "refiner": _refiner_from(parsed, notes)}
    known = _PLAIN.keys() | _SILENT | _PASSES | {key for key in parsed if key.startswith(_ADDNET)}
    if whole and (specs := tuple(modifiers)):
        changes["extensions"], keys = from_text(specs, parsed, notes)
        known |= keys
    foreign = [f"{k}: {v}" for k, v in parsed.items() if whole and k not in known and v not in (False, DEFAULTS.get(k))]
    if foreign:
        notes.append(f"not used here: {', '.join(foreign)}")
    return Paste(changes, tuple(notes), start)


_INIT, _MASK, _SOFT, _TILED = _keyed(Init), _keyed(Mask), _keyed(SoftInpainting), _keyed(TiledUpscale)
_HIRES, _REFINER = _keyed(Hires), _keyed(Refiner)
_IS_SOFT = nested_of(Mask)["soft"].key or ""
_PASSES = {*_INIT, *_MASK, *_SOFT, *_TILED, *_HIRES, *_REFINER, _IS_SOFT}
"""Keys about an init image, a second pass or a second checkpoint."""


def _start_from(parsed: Mapping[str, Any], notes: list[str]) -> dict[str, Any]:
    """The values for `Init` and, prefixed, for `Mask`; empty if the text describes a txt2img image."""
    if "Denoising strength" not in parsed or _has_hires(parsed):
        return {}
    mask = _cast(parsed, _MASK, notes)
    soft, tiled = parsed.get(_IS_SOFT) == "True", "SD upscale overlap" in parsed
    mask["soft"] = soft
    if soft:
        mask |= {f"soft_{name}": value for name, value in _cast(parsed, _SOFT, notes).items()}
    tiles = {f"sd_upscale_{name}": value for name, value in _cast(parsed, _TILED, notes).items()}
    return _cast(parsed, _INIT, notes) | {f"mask_{k}": v for k, v in mask.items()} | {"tiled": tiled} | tiles


def _has_hires(parsed: Mapping[str, Any]) -> bool:
    sized = any(str(parsed.get(f"Hires resize-{side}", 0)) != "0" for side in (1, 2))
    return "Denoising strength" in parsed and (sized or "Hires upscale" in parsed or "Hires upscaler" in parsed)


def _hires_from(parsed: Mapping[str, Any], notes: list[str]) -> dict[str, Any] | None:
    if not _has_hires(parsed):
        return None
    resolved = {key: "" if str(value).startswith("Use same ") else value for key, value in parsed.items()}
    return values_of(Hires(**_cast(resolved, _HIRES, notes)))


def _refiner_from(parsed: Mapping[str, Any], notes: list[str]) -> dict[str, Any] | None:
    return values_of(Refiner(**_cast(parsed, _REFINER, notes))) if "Refiner" in parsed else None


def _cast(parsed: Mapping[str, Any], options: Mapping[str, Option], notes: list[str]) -> dict[str, Any]:
    """Cast the values of known keys, by option name; unreadable ones are noted and left out."""
    found = {}
    for key, option in options.items():
        if option.words:
            found[option.name] = parsed.get(key) == option.words[True]
        elif key in parsed:
            try:
                found[option.name] = option.cast(parsed[key])
            except UserError as error:
                notes.append(f"{error.message}; it was left as it is")
    return found


def _take_sampler(
    wanted: dict[str, Any], samplers: Samplers, schedulers: Schedulers, changes: dict[str, Any], notes: list[str]
) -> None:
    asked = str(wanted.pop("Sampler", ""))
    scheduler = str(wanted.pop("Schedule type", AUTOMATIC))
    if not asked:
        return
    try:
        sampler, label, _ = resolve(asked, scheduler, samplers, schedulers)
        changes |= {"sampler": sampler, "scheduler": _or_automatic(label, samplers.get(sampler), schedulers)}
    except UserError as error:
        notes.append(f"{error.message}; it was left as it is")
