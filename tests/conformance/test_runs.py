"""Whole runs: seeds, noise, schedule, guidance and sampler together against the reference's own processing.

Runs of `pipeline.json` that need no second pass, no upscaler and no inpainting model, on the network it describes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from modules.builtin import register
from modules.diffusion.guidance import Guided, Skip, cfg, keep, keep_input, skip_early, skip_low
from modules.diffusion.noise import ImageNoise
from modules.diffusion.parameterization import NoiseTable, denoised
from modules.diffusion.schedules import ScheduleOptions, image_start, sigmas_for
from modules.diffusion.types import Cond, Denoiser
from modules.extension.host import Host
from modules.params.generation import GenerationParams
from modules.params.profile import A1111
from modules.pipeline import conditioning
from modules.prompt.parse import parse
from modules.prompt.schedule import Pass, Segment, entry_at, schedule_nodes
from tests.conformance.conftest import cases_of

Case = dict[str, Any]
ELSEWHERE = {"enable_hr", "conditioning_key"}
COLUMNS = torch.arange(4)
DEFAULTS = GenerationParams().to_json()
EMPTY = torch.zeros(1, 1, 4)
"""The empty text's states in the reference data."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    cases = cases_of(metafunc.config.getoption("golden") / "pipeline.json", "cases")
    ours = {name: case for name, case in cases.items() if not ELSEWHERE & keys(case["request"])}
    metafunc.parametrize("run", list(ours.values()), ids=list(ours))


def keys(request: dict[str, Any]) -> set[str]:
    return {*request, *request.get("options", {})}


@dataclass(frozen=True)
class ToyCond:
    weight: float
    segments: tuple[Segment, ...]
    conds: tuple[Cond, ...]

    def at(self, call: int, step: int | None = None) -> Cond:
        return self.conds[entry_at(self.segments, call, A1111)]


def rows(text: str) -> Tensor:
    """The stand-in text encoder: (rows, 4)."""
    codes = [ord(c) for c in text]
    s1, s2 = sum(codes) % 997, sum((i + 1) * c for i, c in enumerate(codes)) % 1009
    r = torch.arange(1 + len(text) // 40)[:, None]
    return torch.sin(0.01 * s1 * (COLUMNS + 1) + 0.02 * s2 + 0.5 * r) if text else torch.zeros(1, 4)


def encoded(weight: float, segments: tuple[Segment, ...]) -> ToyCond:
    found = [rows(segment.text) for segment in segments]
    length = max(map(len, found))
    padded = [torch.cat([z, torch.zeros(length - len(z), 4)])[None] for z in found]
    return ToyCond(weight, segments, tuple(map(Cond, padded)))


def parts_of(text: str, run: Pass, *, negative: bool = False) -> list[ToyCond]:
    tree = parse(text, negative=negative).tree
    parts = [encoded(part.weight, schedule_nodes(part.items, run)) for part in tree.parts]
    length = max(part.conds[0].context.shape[1] for part in parts)
    return [ToyCond(part.weight, part.segments, tuple(longer(c, length) for c in part.conds)) for part in parts]


def longer(cond: Cond, length: int) -> Cond:
    missing = length - cond.context.shape[1]
    return Cond(torch.cat([cond.context, cond.context[:, -1:].expand(-1, missing, -1)], 1)) if missing else cond


def padded(parts: list[ToyCond], negative: ToyCond, *, v0: bool) -> tuple[list[ToyCond], ToyCond]:
    ours = [conditioning.ScheduledCond(part.weight, part.segments, part.conds, A1111) for part in (*parts, negative)]
    *positive, uncond = (*(found := conditioning.pad_parts(ours[:-1], ours[-1], EMPTY, v0=v0))[0], found[1])
    plain = [ToyCond(part.weight, part.segments, part.conds) for part in (*positive, uncond)]
    return plain[:-1], plain[-1]


class Toy:
    """The stand-in network of the reference data."""

    def __init__(self, table: NoiseTable, base: NoiseTable, prediction: str):
        self.table, self.base, self.prediction = table, base, prediction

    def __call__(self, x: Tensor, sigma: float, cond: Cond) -> Tensor:
        s = self.base.t_to_sigma(self.table.sigma_to_t(sigma))
        v = x / math.sqrt(sigma**2 + 1) * math.sqrt(1 + s**2)
        c, h, w = (torch.arange(size) for size in x.shape[1:])
        waves = torch.sin(0.5 * (h + 1)[None, :, None] + 0.25 * (w + 1)[None, None] * (c + 1)[:, None, None])
        mu = cond.context.mean(1)[:, :, None, None] + 0.3 * waves
        if cond.image is not None:  # as an inpainting model: the mask, then the picture
            mu = mu + (0.2 * cond.image[:, :1] + 0.1 * cond.image[:, 1:])
        clean = (0.25 * v + s**2 * mu) / (0.25 + s**2) + 0.05 * s**2 / (1 + s**2) * torch.tanh(v)
        eps, root = (v - clean) / s, math.sqrt(1 + s**2)
        return denoised(eps if self.prediction == "eps" else eps / root - clean * s / root, x, sigma, self.prediction)


@pytest.fixture(scope="module")
def host() -> Host:
    host = Host()
    register(host)
    return host


def test_latents(run: Case, host: Host, record_property: Callable[[str, object], None]) -> None:
    record_property("golden", "pipeline.json")
    request, settings = run["request"], run["request"].get("options", {})
    name, _, scheduler = request.get("sampler_name", "Euler"), None, request.get("scheduler", "Automatic")
    if name not in host.samplers:
        name, scheduler = name.rsplit(" ", 1)
    sampler = host.samplers.get(name)
    chosen = host.schedulers.get(sampler.default_scheduler or "uniform" if scheduler == "Automatic" else scheduler)
    steps, options = request.get("steps", 6), schedule_options(settings)
    base = NoiseTable.named("scaled_linear")
    trained = base.zero_terminal_snr() if "sd_noise_schedule" in settings else base
    trained = trained.half() if "use_downcasted_alpha_bar" in settings else trained
    table = sampler.table_for(trained.quantize() if "enable_quantization" in settings else trained)

    init = torch.tensor(run["init_latent"]).reshape(run["init_latent_shape"]) if "init_latent" in run else None
    if init is None:
        sigmas = full = sigmas_for(sampler, chosen, steps, table, options)
        noised_to, total = sigmas[0], steps
    else:
        fix = settings.get("img2img_fix_steps", False)
        strength = request.get("denoising_strength", 0.75)
        start = image_start(sampler, chosen, steps, strength, table, options, fix_steps=fix)
        sigmas, noised_to, total = start.sigmas, start.noised_to, start.t_enc + 1
        full = sigmas_for(sampler, chosen, start.schedule_steps, table, options)

    counted = steps * (2 if sampler.second_order else 1)
    texts = Pass(counted, counted, old=settings.get("use_old_scheduling", False))
    parts = parts_of(request["prompt"], texts)
    (negative,) = parts_of(request.get("negative_prompt", ""), texts, negative=True)
    if settings.get("pad_cond_uncond") or settings.get("pad_cond_uncond_v0"):
        parts, negative = padded(parts, negative, v0=settings.get("pad_cond_uncond_v0", False))
    size = run["passes"][0]["shape"]
    for i, expected in enumerate(run["passes"]):
        n = size[0]
        picked = slice(i * n, (i + 1) * n)
        noise = ImageNoise(
            run["all_seeds"][picked],
            tuple(size[1:]),
            source=settings.get("randn_source", "NV"),
            subseeds=(run["all_subseeds"] or [])[picked],
            subseed_strength=request.get("subseed_strength", 0.0),
            resize_from=(request.get("seed_resize_from_h", 0) // 8, request.get("seed_resize_from_w", 0) // 8),
            ensd=settings.get("eta_noise_seed_delta", 0),
            brownian=full if sampler.brownian else (),
        )
        guided = Guided(
            Toy(table, trained, "v" if request.get("v_prediction") else "eps"),
            cfg,
            parts,
            negative,
            request.get("cfg_scale", 7.0) * sampler.cfg_factor,
            skips=skips(settings, total * (1 + sampler.second_order)),
            always_negative=sampler.cfg_factor != 1,
        )
        denoise: Denoiser = sampler.wrap(guided, table) if sampler.wrap else guided
        offered = {
            "eta": eta(request, settings, ddim=sampler.unit_start),
            "table": table,
            "direction": guided.direction,
            "prediction": "v" if request.get("v_prediction") else "eps",
            **{own: settings.get(name, request.get(name, DEFAULTS[name])) for name, own in sampler.takes.items()},
        }
        drawn = noise.initial() * settings.get("initial_noise_multiplier", 1.0)
        if init is None:
            offered |= {"sigma_min": table.sigma_min, "sigma_max": table.sigma_max, "steps": steps}
            unit = sampler.unit_start or settings.get("sgm_noise_multiplier", False)
            x = drawn * (math.sqrt(1 + sigmas[0] ** 2) if unit else sigmas[0])
        else:
            extra = settings.get("img2img_extra_noise", 0.0)
            x = init + drawn * (noised_to + extra)
            if sampler.unit_start:  # the reference noises to one level and samples as if it were the next lower one
                x = (init + drawn * noised_to) / math.sqrt(1 + noised_to**2)
                x = x + drawn * extra / math.sqrt(1 + noised_to**2)
                x = x * math.sqrt(1 + sigmas[0] ** 2)
            if "nmask" in run:
                mask = torch.tensor(run["nmask"]).reshape(-1, *size[2:])[:1]
                denoise = (keep_input if sampler.unit_start else keep)(denoise, init, mask)
        latents = sampler.sample(
            denoise, x, sigmas, noise=noise, on_step=lambda *_: None, **sampler.arguments(**offered)
        )
        close(latents, expected)
        assert guided.calls == expected["denoiser_calls"]


def schedule_options(settings: dict[str, Any]) -> ScheduleOptions:
    return ScheduleOptions(discard_next_to_last=settings.get("always_discard_next_to_last_sigma", False))


def skips(settings: dict[str, Any], total_calls: int) -> list[Skip]:
    low = settings.get("s_min_uncond", 0.0)
    return [
        skip_early(settings.get("skip_early_cond", 0.0), total_calls),
        skip_low(low, every=settings.get("s_min_uncond_all", False)),
    ]


def eta(request: dict[str, Any], settings: dict[str, Any], *, ddim: bool) -> float:
    default = settings.get("eta_ddim", 0.0) if ddim else settings.get("eta_ancestral", 1.0)
    return float(request.get("eta", default))


def close(latents: Tensor, expected: dict[str, Any], share: float = 1e-4) -> None:
    assert list(latents.shape) == expected["shape"]
    ours = (latents[..., ::8, ::8] if "latents_every_8" in expected else latents).flatten().numpy()
    theirs = np.array(expected.get("latents", expected.get("latents_every_8")))
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=share * np.abs(theirs).max())
