"""The HTTP API of our own, below /api/v1. JSON in and out; errors are ``{error, detail, field, hint}``."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Body

from modules.params import GenerationParams
from modules.pipeline.explain import explain_request
from webui.services import Services


def router(services: Services) -> APIRouter:
    """The routes. What they are given in excess is ignored, as everywhere in A1111's world."""
    routes = APIRouter(prefix="/api/v1")

    @routes.post("/explain")
    def explain(values: dict[str, Any] = Body()) -> dict[str, Any]:
        """What the prompts of a request mean, step by step: texts, tokens with weights, networks, warnings."""
        return explain_request(GenerationParams.from_json(values), services.host)

    return routes
