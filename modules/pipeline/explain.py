"""What a request's prompts mean, as data: the inspector's page, `POST /api/v1/explain` and `app.py explain` show it."""

from __future__ import annotations

from typing import Any

from modules.checkpoints.embeddings import Suited
from modules.extension.host import Host
from modules.params.generation import GenerationParams
from modules.params.profile import profile_named
from modules.pipeline.plan import check
from modules.prompt.chunks import Embeddings
from modules.prompt.explain import explain
from modules.prompt.tokens import default_tokenizer

NO_EMBEDDINGS = Suited()


def explain_request(params: GenerationParams, host: Host, embeddings: Suited = NO_EMBEDDINGS) -> dict[str, Any]:
    """``prompt`` and ``negative_prompt`` as `modules.prompt.explain.explain` has them, and ``notes`` on the request.

    ``embeddings`` are those that the request's model can use.

    Raises `UserError` as planning would. Needs no model and no torch.
    """
    params, notes = check(params, host)
    hires = params.hires
    own = bool(hires and (hires.prompt or hires.negative_prompt))
    facts: dict[str, Any] = {
        "steps": params.steps,
        "hires_steps": (hires.steps or params.steps) if hires and not own else 0,
        "calls_per_step": 2 if host.samplers.get(params.sampler).second_order else 1,
        "profile": profile_named(params.profile),
        "emphasis": params.emphasis,
        "old": params.use_old_scheduling,
        "embeddings": Embeddings(default_tokenizer(), [(file.name, file.count) for file in embeddings.files]),
        "skipped": embeddings.skipped,
        "kinds": [spec.name for spec in host.tags],
    }
    if own:
        notes = (*notes, "the second pass of hires fix has prompts of its own, which are not shown here")
    return {
        "prompt": explain(params.prompt, **facts),
        "negative_prompt": explain(params.negative_prompt, negative=True, **facts),
        "notes": list(notes),
    }
