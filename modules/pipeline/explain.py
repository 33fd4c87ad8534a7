"""Explains the prompts of a request as data, for the page's inspector, `POST /api/v1/explain` and `app.py explain`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from modules.checkpoints.embeddings import Suited
from modules.extension.host import Host
from modules.params.generation import GenerationParams
from modules.params.profile import profile_named
from modules.pipeline.explained_networks import networks_told
from modules.pipeline.networks import NAME
from modules.pipeline.plan import check
from modules.prompt.chunks import Embeddings
from modules.prompt.clock import Clock
from modules.prompt.explain import explain
from modules.prompt.schedule import Pass
from modules.prompt.tokens import default_tokenizer

NO_EMBEDDINGS = Suited()
READ = (
    *("prompt", "negative_prompt", "steps", "sampler", "profile", "emphasis", "use_old_scheduling", "checkpoint"),
    *("hires", "hires_steps", "hires_prompt", "hires_negative_prompt"),
)
"""The options on which an explanation depends, but for notes on what cannot be as it was asked for."""


def explain_request(
    params: GenerationParams, host: Host, embeddings: Suited = NO_EMBEDDINGS, family: str = ""
) -> dict[str, Any]:
    """``prompt`` and ``negative_prompt`` as `modules.prompt.explain.explain` has them, and ``notes`` on the request.

    ``embeddings`` are those that the request's model can use, and ``family`` is its own, as `networks.metadata` names
    them. Networks have beside their tags what `explained_networks` tells of them.

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
    explained = explain(params.prompt, **facts)
    _add_networks(explained, params, facts, host, family)
    return {
        "prompt": explained,
        "negative_prompt": explain(params.negative_prompt, negative=True, **facts),
        "notes": list(notes),
    }


def _add_networks(
    explained: dict[str, Any], params: GenerationParams, facts: Mapping[str, Any], host: Host, family: str
) -> None:
    """Put what is known of the networks beside their tags, and what is odd about them among the warnings."""
    calls = facts["calls_per_step"] if facts["profile"].double_steps else 1
    base, old = params.steps * calls, params.use_old_scheduling
    clocks = [("first pass", Clock(Pass(base, base, old=old), params.steps, facts["profile"]), calls)]
    if hires := facts["hires_steps"]:
        run = Pass(hires * calls, base, second=True, old=old)
        clocks.append(("hires pass", Clock(run, hires, facts["profile"]), calls))
    kinds = [spec.name for spec in host.tags if spec.modifier == NAME]
    found, warnings = networks_told(params.prompt, clocks, host.shelf, kinds, family)
    for network in explained["networks"]:
        if network["applied"] and network["column"] in found:
            network |= found[network["column"]]
            network["applied"] = not network["problem"]
    known = [{"column": warning.column, "message": warning.message} for warning in warnings]
    placed = sorted([*(w for w in explained["warnings"] if w["column"]), *known], key=lambda warning: warning["column"])
    explained["warnings"] = [*placed, *(w for w in explained["warnings"] if not w["column"])]
