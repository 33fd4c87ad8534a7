"""Writes infotext."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from modules.diffusion.types import SamplerSpec
from modules.extension.modifier import ModifierSpec, to_text
from modules.metadata.infotext.keys import KEYS, OTHERS, Facts
from modules.params.generation import GenerationParams
from modules.prompt.stages import strip_comments

NEGATIVE = "Negative prompt:"


def write(
    params: GenerationParams,
    *,
    seed: int,
    subseed: int,
    sampler: SamplerSpec,
    scheduler: str,
    model_name: str = "",
    model_hash: str = "",
    version: str = "",
    user: str = "",
    extra: Mapping[str, object] | None = None,
    modifiers: Iterable[ModifierSpec] = (),
) -> str:
    """The infotext of the image with ``seed`` and ``subseed``.

    ``scheduler`` is the label of the scheduler used, ``model_hash`` has 10 hex digits. ``version`` must not read as a
    number ("Reprise 0.1.0"): a bare 0.1.0 would make every reader switch the behaviour of old versions on. The keys of
    ``extra`` follow in their order, or replace the value of a key of `KEYS` at its place; None takes a key out. Last
    come the keys of those ``modifiers`` that take part.
    """
    facts = Facts(params, seed, subseed, sampler, scheduler, model_name, model_hash, version)
    values: dict[str, Any] = {key: value(facts) for key, value in KEYS.items()}
    values.update(_with_others(facts, dict(extra or {})))
    values |= to_text(modifiers, params.extensions)
    values |= {"Version": version or None, "User": user or None}
    return _text(strip_comments(params.prompt), strip_comments(params.negative_prompt), values)


def _with_others(facts: Facts, extra: Mapping[str, object]) -> dict[str, object]:
    """``extra`` with our own values of `OTHERS`, each placed before the first key that A1111 writes later."""
    rank = {key: i for i, key in enumerate(OTHERS)}
    items = list(extra.items())
    for key, value in OTHERS.items():
        found = value(facts)
        if found is not None and key not in extra:
            place = next((i for i, (other, _) in enumerate(items) if rank.get(other, -1) > rank[key]), len(items))
            items.insert(place, (key, found))
    return dict(items)


def _text(prompt: str, negative_prompt: str, values: Mapping[str, object]) -> str:
    line = ", ".join(
        key if key == value else f"{key}: {quote(value)}" for key, value in values.items() if value is not None
    )
    negative = f"\n{NEGATIVE} {negative_prompt}" if negative_prompt else ""
    return f"{prompt}{negative}\n{line}".strip()


def quote(value: object) -> str:
    """Quote a value as A1111 does: as JSON if it contains a comma, colon or newline.

    >>> quote("a, b"), quote("a b"), quote(7.0)
    ('"a, b"', 'a b', '7.0')
    """
    text = str(value)
    return json.dumps(text, ensure_ascii=False) if any(c in text for c in ",\n:") else text
