"""What there is to choose from and what was made, in our own API."""

from __future__ import annotations

from fastapi import APIRouter, Request

from modules.jobs.protocol import Json
from webui.api.v1.openapi import TAGS, schema_of
from webui.security.auth import owner_of
from webui.services import Services

MOST, MOST_WORDS = 500, 20


def add_lists(routes: APIRouter, services: Services) -> None:
    """``/models``, ``/choices``, ``/modifiers`` and ``/history``."""

    @routes.get("/models", tags=[TAGS.files])
    def models() -> Json:
        """The checkpoints, the default first, and the VAEs. ``sha256`` is known once a checkpoint was used."""
        cards = [(name, services.card(name)) for name in services.checkpoints()]
        return {
            "checkpoints": [
                {
                    "name": name,
                    "file": card.file_name,
                    "family": card.family,
                    "prediction": card.prediction,
                    "zero_terminal_snr": card.zero_terminal_snr,
                    "native_size": card.native_size,
                    "kind": card.kind,
                    "preset": card.preset.values(),
                    "trigger_words": list(card.trigger_words),
                    "description": card.description,
                    "notes": card.choices.notes,
                    "bytes": card.nbytes,
                    "sha256": card.sha256,
                    "remarks": list(card.remarks),
                    "problem": card.problem,
                }
                for name, card in cards
            ],
            "vaes": list(services.vaes()),
        }

    @routes.get("/choices", tags=[TAGS.files])
    def choices() -> Json:
        """The values of all parameters that are chosen from a list, by the list's name in the schema."""
        return {name: list(table()) for name, table in services.tables().items()}

    @routes.get("/modifiers", tags=[TAGS.files])
    def modifiers() -> Json:
        """The modifiers of extensions that requests may name in ``params.extensions``, with the schema of each option;
        ``x-kind`` is image or mask where its value is a picture."""
        told = [
            {
                "name": spec.name,
                "label": spec.label,
                "help": spec.help,
                "options": schema_of(spec.options)["properties"],
            }
            for spec in services.host.modifiers
            if not spec.by_tag
        ]
        return {"modifiers": told}

    @routes.get("/history", tags=[TAGS.files])
    def history(request: Request, before: int = 0, after: int = 0, limit: int = 60, q: str = "") -> Json:
        """The pictures that you made, the newest first: older than number ``before``, or newer than ``after``. ``q``:
        words that are all in a prompt or in the checkpoint's name. ``count`` is the number of all that you made."""
        bounds = {"before": _number(before), "after": _number(after), "limit": max(1, min(limit, MOST))}
        owner = owner_of(request)
        found = services.history.page(owner, **bounds, words=q.split()[:MOST_WORDS])
        pictures = [
            {
                "number": one.number,
                "job": one.job,
                "kind": one.kind,
                "created": one.created,
                "url": f"/api/v1/pictures/{one.number}",
                "small": f"/api/v1/pictures/{one.number}/small",
            }
            for one in found
        ]
        return {"count": services.history.count(owner), "pictures": pictures}


def _number(value: int) -> int:
    """Within the integers of the database."""
    return max(0, min(value, 2**63 - 1))
