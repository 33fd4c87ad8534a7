"""What there is: samplers, models, styles, scripts and the rest, in A1111's shapes."""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Request

from modules.checkpoints.files import read_header
from modules.checkpoints.networks.listing import NetworkFile
from modules.checkpoints.networks.shelf import HYPERNETWORK
from modules.diffusion.types import SamplerSpec
from modules.errors import RepriseError
from modules.jobs.protocol import Json
from modules.pipeline.hires import LATENT_MODES
from modules.prompt.styles import StyleBook
from webui import API_ONLY
from webui.api.sdapi.card_memory import CardMemory
from webui.api.sdapi.options import CHECKPOINT, Options, untitled
from webui.api.sdapi.scripts import BOTH, titles, told
from webui.security.auth import owner_of
from webui.services import Services

RHO = {"karras": 7.0, "polyexponential": 1.0}
ASKS_MODEL = ("uniform", "sgm_uniform", "simple", "normal", "ddim", "beta")
"""Schedules made of the model's own noise levels."""

Entries = list[Json]


@dataclass(frozen=True)
class Memory:
    """Of the machine and of the card, in bytes, or why it is not known."""

    ram: Json
    cuda: Json


def add_lists(routes: APIRouter, services: Services, options: Options) -> None:
    """All routes that only tell something."""
    _add_sampling(routes, services)
    _add_files(routes, services, options)
    _add_program(routes, services)


def _add_sampling(routes: APIRouter, services: Services) -> None:
    host = services.host

    @routes.get("/samplers")
    def samplers() -> Entries:
        return [
            {"name": spec.name, "aliases": list(spec.aliases), "options": _traits(spec)}
            for _, spec in host.samplers.items()
        ]

    @routes.get("/schedulers")
    def schedulers() -> Entries:
        return [
            {
                "name": spec.name,
                "label": label,
                "aliases": list(spec.aliases) or None,
                "default_rho": RHO.get(spec.name, -1),
                "need_inner_model": spec.name in ASKS_MODEL,
            }
            for label, spec in host.schedulers.items()
        ]

    @routes.get("/upscalers")
    def upscalers() -> Entries:
        return [
            {
                "name": name,
                "model_name": spec.path.stem if spec.path else None,
                "model_path": spec.path.name if spec.path else None,
                "model_url": None,
                "scale": 4,
            }
            for name, spec in host.upscalers.items()
        ]

    @routes.get("/latent-upscale-modes")
    def latent_upscale_modes() -> Entries:
        return [{"name": name} for name in LATENT_MODES]

    @routes.get("/face-restorers")
    def face_restorers() -> Entries:
        return [
            {"name": name, "cmd_dir": spec.files[0][1].parent.name if spec.files else None}
            for name, spec in host.face_restorers.items()
        ]

    @routes.get("/realesrgan-models")
    def realesrgan_models() -> Entries:
        files = [(name, spec.path) for name, spec in host.upscalers.items() if spec.path]
        return [
            {"name": name, "path": path.name, "scale": 4}
            for name, path in files
            if "esrgan" in path.parent.name.lower()
        ]

    @routes.get("/scripts")
    def scripts() -> Json:
        return {tab: titles(host, tab) for tab in BOTH}

    @routes.get("/script-info")
    def script_info() -> Entries:
        return told(host)


def _traits(spec: SamplerSpec) -> dict[str, str]:
    """A1111's options of a sampler, as far as clients can make use of them."""
    found: dict[str, Any] = {
        "scheduler": spec.default_scheduler,
        "uses_ensd": spec.marks_ensd,
        "second_order": spec.second_order,
        "discard_next_to_last_sigma": spec.discard_next_to_last,
        "brownian_noise": spec.brownian,
        **spec.options,
    }
    return {name: str(value) for name, value in found.items() if value}


def _add_files(routes: APIRouter, services: Services, options: Options) -> None:
    @routes.get("/sd-models")
    def sd_models() -> Entries:
        return [model_item(services, name) for name in services.checkpoints()]

    @routes.get("/sd-vae")
    def sd_vae() -> Entries:
        return [{"model_name": name, "filename": f"VAE/{name}"} for name in services.vaes()]

    @routes.get("/hypernetworks")
    def hypernetworks() -> Entries:
        return [{"name": file.stem, "path": _place(file)} for file in services.host.shelf.listed(HYPERNETWORK).files]

    @routes.get("/loras")
    def loras() -> Entries:
        return [
            {
                "name": file.stem,
                "alias": file.described.alias or file.stem,
                "path": _place(file),
                "metadata": _metadata(file.path),
            }
            for file in services.host.shelf.listed().files
        ]

    @routes.get("/embeddings")
    def embeddings(request: Request) -> Json:
        """Those of the account's checkpoint, and the others."""
        checkpoint = untitled(str(options.chosen(owner_of(request)).get(CHECKPOINT) or ""))
        suited = services.embeddings(checkpoint)
        nothing = {"step": None, "sd_checkpoint": None, "sd_checkpoint_name": None, "shape": 0, "vectors": 0}
        return {
            "loaded": {
                file.name: {
                    "step": file.step,
                    "sd_checkpoint": file.checkpoint_hash or None,
                    "sd_checkpoint_name": file.checkpoint_name or None,
                    "shape": file.width,
                    "vectors": file.count,
                }
                for file in suited.files
            },
            "skipped": {name: {**nothing, "reason": reason} for name, reason in suited.skipped.items()},
        }

    @routes.get("/prompt-styles")
    def prompt_styles() -> Entries:
        found = StyleBook(services.styles_path).styles()
        return [{"name": s.name, "prompt": s.prompt, "negative_prompt": s.negative_prompt} for s in found]

    def refresh() -> None:
        """Nothing to do: folders are read whenever somebody asks."""

    for what in ("embeddings", "checkpoints", "vae", "loras"):
        routes.add_api_route(f"/refresh-{what}", refresh, methods=["POST"], name=f"refresh_{what}")


def _place(file: NetworkFile) -> str:
    """Its path from the folder's own name on: more is nobody's business."""
    return file.path.relative_to(file.folder.parent).as_posix()


def _metadata(path: Path) -> dict[str, str]:
    """What the header of a safetensors file says."""
    try:
        return dict(read_header(path).metadata) if path.suffix == ".safetensors" else {}
    except RepriseError:
        return {}


def model_item(services: Services, name: str) -> Json:
    """A checkpoint as A1111 tells of it."""
    card = services.card(name)
    file = f"{card.name}{Path(card.file_name).suffix}" if card.name else name
    return {
        "title": f"{file} [{card.sha256[:10]}]" if card.sha256 else file,
        "model_name": Path(card.name or name).name,
        "hash": card.sha256[:10] or None,
        "sha256": card.sha256 or None,
        "filename": f"Stable-diffusion/{file}",
        "config": None,
    }


def _add_program(routes: APIRouter, services: Services) -> None:
    @routes.get("/cmd-flags")
    def cmd_flags() -> Json:
        """What of the start parameters concerns a client; no paths, no secrets."""
        return {
            "api": True,
            "nowebui": API_ONLY in os.environ,
            "subpath": services.subpath or None,
            "api_server_stop": services.api.can_stop,
        }

    @routes.get("/extensions")
    def extensions() -> Entries:
        found = services.extensions.extensions.values() if services.extensions else ()
        return [
            {
                "name": one.name,
                "remote": "",
                "branch": "",
                "commit_hash": "",
                "version": one.manifest.version if one.manifest else "",
                "commit_date": "",
                "enabled": one.state == "loaded",
            }
            for one in found
        ]

    card = CardMemory()

    @routes.get("/memory")
    def memory() -> Json:
        """The machine's memory in bytes, and the first card's."""
        total, free = _ram()
        ram = {"free": free, "used": total - free, "total": total} if total else {"error": "unavailable"}
        return dataclasses.asdict(Memory(ram, card.told()))


def _ram() -> tuple[int, int]:
    """Total and free bytes; 0 where the system does not say."""
    try:
        page = os.sysconf("SC_PAGE_SIZE")
        return page * os.sysconf("SC_PHYS_PAGES"), page * os.sysconf("SC_AVPHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return 0, 0
