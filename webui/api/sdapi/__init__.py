"""A1111's HTTP API, below /sdapi/v1 and /internal, for the programs that speak it. It needs no ``--api``."""

from __future__ import annotations

from collections.abc import Callable

from fastapi import APIRouter, Body, Request
from starlette.background import BackgroundTask
from starlette.responses import PlainTextResponse, Response

from modules.errors import NotFound, UserError
from modules.jobs.protocol import Json
from modules.params.generation import GenerationParams
from webui.api.parsed import Below
from webui.api.sdapi.extras import add_extras
from webui.api.sdapi.images import add_images
from webui.api.sdapi.lists import add_lists, model_item
from webui.api.sdapi.options import CHECKPOINT, KNOWN, VAE, Options, check_settings, unheeded, untitled
from webui.api.sdapi.progress import Tasks, add_internal, add_progress
from webui.api.sdapi.route import Refusal, Route
from webui.security.auth import owner_of
from webui.security.characters import WholeJSON
from webui.services import Services

NOT_HERE = {
    "interrogate": "there is no model here that describes pictures",
    "train/embedding": "embeddings are used here and not trained",
    "train/hypernetwork": "hypernetworks are not trained here",
    "create/embedding": "embeddings are used here and not made",
    "create/hypernetwork": "hypernetworks are not made here",
}
"""A1111's routes that answer 404, each with the sentence that it says."""


def router(services: Services) -> APIRouter:
    """All routes of A1111 1.10."""
    options, tasks = Options(services.data_dir / "sdapi"), Tasks()
    routes = Below(prefix="/sdapi/v1", route_class=Route, default_response_class=WholeJSON, tags=["A1111"])
    add_images(routes, services, options, tasks)
    add_extras(routes, services, tasks)
    add_progress(routes, services, tasks)
    add_options(routes, services, options)
    add_lists(routes, services, options)
    add_stop(routes, services)
    for path, sentence in NOT_HERE.items():
        routes.add_api_route(f"/{path}", _absent(sentence), methods=["POST"], name=path)
    internal = Below(prefix="/internal", route_class=Route, default_response_class=WholeJSON, tags=["A1111"])
    add_internal(internal, services, tasks)
    both = APIRouter()
    both.include_router(routes)
    both.include_router(internal)
    return both


def add_options(routes: APIRouter, services: Services, options: Options) -> None:
    """``/options``, and what A1111 does with the checkpoint in memory."""

    @routes.get("/options")
    def get_options(request: Request) -> Json:
        """All settings of A1111: the account's where it has some, else A1111's defaults."""
        chosen = options.chosen(owner_of(request))
        name = untitled(str(chosen.get(CHECKPOINT) or "")) or next(iter(services.checkpoints()), "")
        item = model_item(services, name) if name else {"title": None, "sha256": None}
        defaults = {known: about["default"] for known, about in KNOWN.items()}
        return defaults | chosen | {CHECKPOINT: item["title"], "sd_checkpoint_hash": item["sha256"] or ""}

    @routes.post("/options")
    def set_options(request: Request, values: Json = Body()) -> WholeJSON:
        """Set some of the account's settings. Those without effect here are kept too, and named in a header."""
        check_settings(values)
        if name := values.get(CHECKPOINT):
            card = services.card(untitled(str(name)))
            if card.problem:
                raise Refusal(500, card.problem, field=CHECKPOINT)
        if isinstance(vae := values.get(VAE), str):
            kept = values.get(CHECKPOINT) or options.chosen(owner_of(request)).get(CHECKPOINT) or ""
            try:
                services.check_files(GenerationParams(checkpoint=untitled(str(kept)), vae=vae))
            except UserError as error:
                raise Refusal(422, str(error), field=VAE) from error
        frozen = services.api.frozen
        if "all" in frozen or not frozen.isdisjoint(values):
            named = next((name for name in values if name in frozen), "any")
            raise Refusal(
                403, f"this server was started so that nobody can change {named} of the settings", field=named
            )
        options.change(owner_of(request), values)
        without = ", ".join(unheeded(values)).encode("ascii", "replace").decode()[:2000]
        return WholeJSON(None, headers={"x-without-effect": without} if without else None)

    @routes.post("/unload-checkpoint")
    def unload() -> Json:
        """Nothing to do: memory is seen to when it is needed."""
        return {}

    @routes.post("/reload-checkpoint")
    def reload() -> Json:
        """Nothing to do: a checkpoint is loaded when a request needs it."""
        return {}


def add_stop(routes: APIRouter, services: Services) -> None:
    """``/server-stop`` and its fellows, where the server was started with ``--api-server-stop``."""

    def judged(request: Request) -> None:
        if not services.api.can_stop:
            raise NotFound("no request can end this server", hint="start it with --api-server-stop to allow that")
        if not services.is_admin(owner_of(request)):
            raise Refusal(403, "only an administrator may end the server")

    def stop(request: Request) -> PlainTextResponse:
        """End the server; jobs that run are queued again and go on at its next start."""
        judged(request)
        return PlainTextResponse("Stopping.", background=BackgroundTask(request.app.state.stop))

    def restart(request: Request) -> Response:
        """501, as in A1111 where nothing would start it again."""
        judged(request)
        return Response(status_code=501)

    for path in ("server-stop", "server-kill"):
        routes.add_api_route(f"/{path}", stop, methods=["POST"], name=path, response_class=PlainTextResponse)
    routes.add_api_route("/server-restart", restart, methods=["POST"], name="server-restart")


def _absent(sentence: str) -> Callable[[], None]:
    def absent() -> None:
        raise NotFound(sentence)

    return absent
