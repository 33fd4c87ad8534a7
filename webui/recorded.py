"""What a picture's texts, or a pasted one, ask for, by the names that files have here. Knows nothing of the page."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from modules.checkpoints.matching import Candidate, hash_in, match, recognise
from modules.checkpoints.networks.hashes import short
from modules.checkpoints.networks.listing import addnet_tags, read_hashes, with_local_names
from modules.checkpoints.vaes import AUTOMATIC, OWN
from modules.metadata import recipe as recipes
from modules.metadata import verdict as verdicts
from modules.metadata.image_text import Metadata, settings_in
from modules.metadata.infotext import Paste, read
from webui.services import Services

Told = Callable[[tuple[str | None, str]], str | None]
"""Takes the result of `recognise`: keeps its note and returns the name."""


def settings_of(services: Services, found: Metadata) -> Paste:
    """The settings in an image's metadata, with our names for samplers, checkpoints and VAEs; missing ones are
    noted.
    """
    notes: list[str] = []

    def told(recognised: tuple[str | None, str]) -> str | None:
        name, note = recognised
        notes.extend([note] if note else [])
        return name

    def find_checkpoint(name: str, sha256: str) -> str | None:
        return told(recognise("checkpoint", name, sha256, _checkpoints(services, name, sha256)))

    def find_vae(name: str, sha256: str) -> str | None:
        """What is missing is told by whoever asks."""
        if name in (AUTOMATIC, OWN):
            return name
        known, note = recognise("VAE", name, sha256, _vaes(services, sha256))
        return told((known, note if known else ""))

    host = services.host
    paste = settings_in(found, host.samplers, host.schedulers, find_checkpoint, find_vae, host.modifiers)
    changes = _with_other_checkpoints(services, found, paste.changes, told)
    changes = _with_local_networks(services, found, changes)
    return replace(paste, changes=changes, notes=(*notes, *paste.notes, *_lost_embeddings(services, found, paste)))


def _checkpoints(services: Services, name: str, digits: str) -> list[Candidate]:
    """Our checkpoints, with their hashes if a hash is looked for; only the one of that name if its hash matches."""
    names = services.checkpoints()
    digits = digits or hash_in(name)
    if not digits:
        return [_checkpoint(ours) for ours in names]

    def hashed(ours: str) -> Candidate:
        card = services.card(ours)
        return replace(_checkpoint(ours), hashes=tuple(filter(None, (card.sha256, card.old_hash))))

    likely = match(name, {ours: ours for ours in names}, lambda ours: _checkpoint(ours).path).file
    if likely is not None and (first := hashed(likely)).has(digits.lower()):
        return [first]  # headers of all others need not be read
    return [hashed(ours) for ours in names]


def _checkpoint(name: str) -> Candidate:
    return Candidate(name, f"{name}.safetensors")


def _vaes(services: Services, digits: str) -> list[Candidate]:
    return [
        Candidate(name, name, tuple(filter(None, (services.vae_sha256(name) if digits else "",))))
        for name in services.vaes()
    ]


def _with_other_checkpoints(
    services: Services,
    found: Metadata,
    changes: Mapping[str, Any],
    told: Callable[[tuple[str | None, str]], str | None],
) -> dict[str, Any]:
    """``changes`` with our names for the checkpoints of hires fix and the refiner, which a recipe gives by hash and
    infotext as ``name [hash]``; missing ones are removed.
    """
    recorded = verdicts.judge(found["recipe"]) if found["recipe"] else None
    files = recorded.files if isinstance(recorded, recipes.Recipe) else ()
    digits = {file.role: file.sha256[:10] for file in files}
    known = dict(changes)
    for part, kind, otherwise in (
        ("hires", "hires checkpoint", "hires fix keeps the first pass's"),
        ("refiner", "refiner", "there is none now"),
    ):
        asked = str((known.get(part) or {}).get("checkpoint") or "")
        if asked:
            here = _checkpoints(services, asked, digits.get(kind, ""))
            name = told(recognise(kind, asked, digits.get(kind, ""), here, otherwise))
            gone = None if part == "refiner" else {**known[part], "checkpoint": ""}
            known[part] = gone if name is None else {**known[part], "checkpoint": name}
    return known


def kept(services: Services, paste: Paste) -> Paste:
    """The changes without the checkpoint, if the owner's settings say that pasting does not change it."""
    if not services.settings.current().disable_weights_auto_swap or "checkpoint" not in paste.changes:
        return paste
    rest = {name: value for name, value in paste.changes.items() if name != "checkpoint"}
    note = f"the checkpoint of the text, {paste.changes['checkpoint']}, was not chosen, as the settings have it"
    return replace(paste, changes=rest, notes=(note, *paste.notes))


def _with_local_networks(services: Services, found: Metadata, changes: dict[str, Any]) -> dict[str, Any]:
    """``changes`` with the LoRAs of its prompt as they are called here, where their hashes are known, and with those
    that the extension Additional Networks names behind it."""
    text = found["infotext"] or found["stealth_infotext"] or ""
    prompt = changes.get("prompt")
    if not isinstance(prompt, str) or not any(key in text for key in ("Lora hashes", "AddNet Model")):
        return changes
    values, shelf = read(text), services.host.shelf
    hashes, listing = read_hashes(str(values.get("Lora hashes", ""))), shelf.listed()
    known = zip(listing.files, shelf.known_hashes(listing.files), strict=True)
    local = {short(digest).lower(): listing.prompt_name(file) for file, digest in known if digest}
    more = addnet_tags(values, local)
    named = with_local_names(prompt, hashes, local) + (f"\n{more}" if more else "")
    return {**changes, "prompt": named}


def _lost_embeddings(services: Services, found: Metadata, paste: Paste) -> Iterator[str]:
    """Notes on embeddings that the infotext names and the model lacks."""
    told = str(read(found["infotext"] or found["stealth_infotext"] or "").get("TI hashes", ""))
    suited = services.embeddings(str(paste.changes.get("checkpoint", "")))
    here = {re.sub("[:,]", "", file.name).casefold() for file in suited.files}
    for name in filter(None, (entry.partition(":")[0].strip() for entry in told.split(","))):
        if name.casefold() not in here:
            yield f"there is no embedding {name} for this model here"


def settings_of_text(services: Services, text: str) -> Paste:
    return settings_of(services, {"infotext": text, "recipe": None, "items": {}, "stealth_infotext": None})


def settings_in_file(services: Services, found: Metadata) -> dict[str, Any]:
    """The settings in an image file's metadata; empty if there are none."""
    if not (found["infotext"] or found["recipe"] or found["stealth_infotext"]):
        return {}
    return dict(kept(services, settings_of(services, found)).changes)
