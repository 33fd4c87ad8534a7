"""What a person chose for a checkpoint on its card, kept beside it in ``STEM.json`` with what A1111 keeps there.

Of A1111's keys ``description``, ``notes``, ``activation text`` and ``vae`` are used; what it has no key for is under
``reprise``, which it keeps as it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from modules.checkpoints.networks.side_files import UserMetadata, read_user, side_base, write_user
from modules.checkpoints.presets import Preset, preset_from

KEY = "reprise"
EPS, V, V_ZERO_SNR = "eps", "v", "v-zero-snr"
PREDICTIONS = ("", EPS, V, V_ZERO_SNR)
"""What may be chosen as a UNet's answers: empty leaves it to the file; the last one has a zero terminal SNR too."""


@dataclass(frozen=True)
class Choices:
    """What a card's editor changes."""

    prediction: str = ""
    """One of `PREDICTIONS`."""
    preset: Preset = field(default_factory=Preset)
    applies: bool = False
    """The preset is applied when the model is chosen, whatever the form says."""
    trigger_words: str = ""
    description: str = ""
    notes: str = ""


def read_choices(path: Path) -> Choices:
    """What was chosen for the checkpoint at ``path``; what cannot be read counts as nothing."""
    user = read_user(side_base(path))
    own = user.others.get(KEY)
    table: Mapping[str, Any] = own if isinstance(own, Mapping) else {}
    preset = table.get("preset")
    found = preset_from(preset) if isinstance(preset, Mapping) else Preset()
    said = table.get("prediction")
    return Choices(
        prediction=said if said in PREDICTIONS else "",
        preset=replace(found, vae=user.vae or None),
        applies=table.get("applies") is True,
        trigger_words=user.activation_text,
        description=user.description or "",
        notes=user.notes,
    )


def write_choices(path: Path, chosen: Choices) -> Path:
    """Keep what was chosen for the checkpoint at ``path``. Raises `OutputError` where its folder cannot be written."""
    model = side_base(path)
    before = read_user(model)
    preset = {name: value for name, value in chosen.preset.values().items() if name != "vae"}
    own = {"prediction": chosen.prediction, "preset": preset, "applies": chosen.applies}
    has_own = chosen.prediction or preset or chosen.applies or KEY in before.others
    user: UserMetadata = replace(
        before,
        description=chosen.description if chosen.description or before.description is not None else None,
        notes=chosen.notes,
        activation_text=chosen.trigger_words,
        vae=chosen.preset.vae or "",
        others={**before.others, KEY: own} if has_own else before.others,
    )
    return write_user(model, user)
