"""The keys of infotext: their order, and the condition under which each is written.

A key is declared where its parameter is, by ``option(key=...)``. The tables here hold A1111's order and its rules; a
parameter that they do not place comes last, where it is not the default.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from modules.diffusion.types import SamplerSpec
from modules.params.generation import GenerationParams, Hires, Init, Mask, Refiner, SoftInpainting, TiledUpscale
from modules.params.options import Option, nested_of, options_of
from modules.params.profile import profile_named
from modules.prompt.parse import parse
from modules.prompt.schedule import Pass, Segment, schedule_nodes

AUTOMATIC = "Automatic"


@dataclass(frozen=True)
class Facts:
    """The data from which the infotext of one image is written."""

    params: GenerationParams
    seed: int
    subseed: int
    sampler: SamplerSpec
    scheduler: str
    model_name: str = ""
    model_hash: str = ""
    version: str = ""


Value = Callable[[Facts], Any]

Row = tuple[str, Value]


def name_of(option: Option) -> str:
    """The key as written: "Size" for the two parameters whose keys are read as "Size-1" and "Size-2"."""
    return (option.key or "").removesuffix("-1").removesuffix("-2")


@dataclass(frozen=True)
class Group:
    """The options of one dataclass, and where they are found in a request."""

    cls: type
    within: Callable[[GenerationParams], Any]
    """The instance, or None where the request has none."""

    def where_changed(self, name: str, applies: Callable[[Facts], bool] = lambda f: True) -> Row:
        """A key written if its option is not at the default and applies."""
        option = options_of(self.cls)[name]

        def value(f: Facts) -> Any:
            found = getattr(self.within(f.params), name, option.default)
            if found == option.default or not applies(f):
                return None
            return option.words[found] if option.words else found

        return name_of(option), value

    def row(self, name: str, tell: Callable[[Any], Any] | None = None) -> Row:
        """A key written whenever the group is present, with ``tell`` formatting the value."""
        tell = tell or (lambda found: getattr(found, name))

        def value(f: Facts) -> Any:
            found = self.within(f.params)
            return None if found is None else tell(found)

        return name_of(options_of(self.cls)[name]), value

    def by_facts(self, name: str, value: Value) -> Row:
        """A key whose value depends on more than its option."""
        return name_of(options_of(self.cls)[name]), value


def _mask_of(params: GenerationParams) -> Mask | None:
    return params.init.mask if params.init else None


def _soft_of(params: GenerationParams) -> SoftInpainting | None:
    mask = _mask_of(params)
    return mask.soft if mask else None


_REQUEST = Group(GenerationParams, lambda params: params)
_INIT = Group(Init, lambda params: params.init)
_MASK = Group(Mask, _mask_of)
_SOFT = Group(SoftInpainting, _soft_of)
_TILED = Group(TiledUpscale, lambda params: params.init.tiled if params.init else None)
_HIRES = Group(Hires, lambda params: params.hires)
_REFINER = Group(Refiner, lambda params: params.refiner)
GROUPS = (_REQUEST, _INIT, _MASK, _SOFT, _TILED, _HIRES, _REFINER)

# ------------------------------------------------------------------------------------------------ rules of single keys


def _schedule_type(f: Facts) -> str:
    """The scheduler actually used; "Automatic" is kept if the sampler has no default scheduler or makes its own
    sigmas.
    """
    asked = f.params.scheduler
    if f.sampler.own_schedule or (asked.casefold() == AUTOMATIC.casefold() and not f.sampler.default_scheduler):
        return asked
    return f.scheduler


def _eta(f: Facts, default: float) -> float | None:
    """Eta if it is not the sampler's default. A1111 has one key for samplers that default to 1, another for DDIM's
    0.
    """
    eta = f.params.eta_for(f.sampler.eta)
    return eta if f.sampler.eta == default and eta != default else None


def _ensd(f: Facts) -> int | None:
    eta = f.params.eta_for(f.sampler.eta)
    return f.params.ensd or None if f.sampler.marks_ensd and eta != 0 else None


def _resized(f: Facts) -> str | None:
    width, height = f.params.seed_resize_from_w, f.params.seed_resize_from_h
    return f"{width}x{height}" if width and height else None


def _emphasis(f: Facts) -> str | None:
    """The emphasis mode if it is not the default and an encoded text has brackets."""
    return f.params.emphasis if f.params.emphasis != "Original" and any(set("([") & set(t) for t in _texts(f)) else None


def _old_timelines(f: Facts) -> bool | None:
    """True if the scheduling of versions before 1.6 changes the meaning of a prompt; else None."""
    return (f.params.use_old_scheduling and _texts(f, old=False) != _texts(f, old=True)) or None


def _texts(f: Facts, *, old: bool | None = None) -> list[str]:
    """The texts of both prompts over both passes; with ``old``, including their last steps."""
    doubled = f.sampler.second_order and profile_named(f.params.profile).double_steps
    steps, old_steps = f.params.steps * (2 if doubled else 1), f.params.use_old_scheduling if old is None else old
    segments = _segments(f.params.prompt, f.params.negative_prompt, Pass(steps, steps, old=old_steps))
    if hires := f.params.hires:
        prompts = hires.prompt or f.params.prompt, hires.negative_prompt or f.params.negative_prompt
        again = (hires.steps or f.params.steps) * (2 if doubled else 1)
        segments += _segments(*prompts, Pass(again, steps, second=True, old=old_steps))
    return [str(segment) if old is not None else segment.text for segment in segments]


def _segments(prompt: str, negative_prompt: str, run: Pass) -> list[Segment]:
    trees = parse(prompt).tree, parse(negative_prompt, negative=True).tree
    return [segment for tree in trees for part in tree.parts for segment in schedule_nodes(part.items, run)]


def _scheduled(f: Facts) -> bool:
    """Whether a scheduler makes the sigmas, rather than the sampler or, for "Automatic", the model itself."""
    return not f.sampler.own_schedule and (
        f.params.scheduler.casefold() != AUTOMATIC.casefold() or bool(f.sampler.default_scheduler)
    )


def _encodes(f: Facts) -> bool:
    """Whether pictures go into the latents, rather than the other way alone."""
    return bool(f.params.init or f.params.hires)


def _rho(f: Facts) -> float | None:
    own = {"Karras": 7.0, "Polyexponential": 1.0}.get(f.scheduler)
    return f.params.rho if _scheduled(f) and own and f.params.rho not in (0, own) else None


def _taken(name: str) -> Row:
    """A key for a parameter that only some samplers take."""
    return _REQUEST.where_changed(name, lambda f: name in f.sampler.takes)


def _beta(name: str) -> Row:
    """A key that is always written if the Beta scheduler is used."""
    return _REQUEST.by_facts(
        name, lambda f: getattr(f.params, name) if _scheduled(f) and f.scheduler == "Beta" else None
    )


def _discarded(f: Facts) -> bool | None:
    own = bool(f.sampler.own_schedule) or f.sampler.discard_next_to_last
    return (f.params.always_discard_next_to_last_sigma and not own) or None


def _strength(f: Facts) -> float | None:
    start = f.params.init or f.params.hires
    return start.denoising_strength if start else None


def _extra_noise(f: Facts) -> float | None:
    start = f.params.init or f.params.hires
    return start.extra_noise or None if start else None


def _softly(name: str) -> Row:
    """A number formatted as A1111's sliders do: 1, not 1.0."""
    return _SOFT.row(name, lambda soft: f"{getattr(soft, name):g}")


def _absent(f: Facts) -> None:
    """Placeholder for a key that has its place here, and whose value is passed as ``extra``."""


def _place(key: str) -> Row:
    """A key that belongs to none of our parameters."""
    return key, _absent


# -------------------------------------------------------------------------------------------------------- the tables

KEYS: dict[str, Value] = dict(
    (
        _REQUEST.row("steps"),
        _REQUEST.row("sampler"),
        _REQUEST.by_facts("scheduler", _schedule_type),
        _REQUEST.row("cfg_scale"),
        _INIT.by_facts("image_cfg_scale", _absent),
        _REQUEST.by_facts("seed", lambda f: f.seed),
        _REQUEST.row("face_restorer", lambda p: p.face_restorer if p.restore_faces else None),
        _REQUEST.row("width", lambda p: f"{p.width}x{p.height}"),
        ("Model hash", lambda f: f.model_hash or None),
        _REQUEST.by_facts("checkpoint", lambda f: f.model_name or None),
        _REQUEST.where_changed("fp8_storage"),
        _place("Cache FP16 weight for LoRA"),
        _place("VAE hash"),
        _REQUEST.by_facts("vae", _absent),
        _REQUEST.by_facts("subseed", lambda f: f.subseed if f.params.subseed_strength else None),
        _REQUEST.where_changed("subseed_strength"),
        _REQUEST.by_facts("seed_resize_from_w", _resized),
        _INIT.by_facts("denoising_strength", _strength),
        _MASK.by_facts("conditioning", _absent),
        _REQUEST.where_changed("clip_skip"),
        _REQUEST.by_facts("ensd", _ensd),
        _place("Token merging ratio"),
        _place("Token merging ratio hr"),
        _place("Init image hash"),
        _REQUEST.row("rng", lambda p: p.rng if p.rng != "GPU" else None),
        _place("Tiling"),
    )
)
"""A1111's keys in A1111's order."""


def completed(rows: Iterable[Row], groups: Iterable[Group], before: Iterable[str] = ()) -> dict[str, Value]:
    """``rows``, followed by the options of ``groups`` that are covered neither by a row nor by a key of ``before``."""
    found = dict(rows)
    apart = {"Prompt", "Negative prompt", *before}  # those stand above the line of keys
    for group in groups:
        for option in options_of(group.cls).values():
            if option.key and name_of(option) not in apart | found.keys():
                found |= [group.where_changed(option.name)]
    return found


OTHERS: dict[str, Value] = completed(
    (
        _TILED.row("overlap"),
        _TILED.row("upscaler"),
        _TILED.row("by", lambda t: f"{t.by:g}"),
        (nested_of(Mask)["soft"].key or "", lambda f: _soft_of(f.params) and True),
        *(_softly(option.name) for option in options_of(SoftInpainting).values()),
        _MASK.where_changed("invert"),
        _MASK.row("blur", lambda m: m.blur or None),
        _MASK.where_changed("only_masked"),
        _MASK.row("padding", lambda m: m.padding if m.only_masked else None),
        _MASK.where_changed("content"),
        _HIRES.where_changed("checkpoint"),
        _HIRES.where_changed("sampler"),
        _HIRES.where_changed("prompt"),
        _HIRES.where_changed("negative_prompt"),
        _HIRES.where_changed("scheduler"),
        _HIRES.row("scale", lambda h: None if h.width or h.height else h.scale),
        _HIRES.row("width", lambda h: f"{h.width}x{h.height}" if h.width or h.height else None),
        _HIRES.where_changed("steps"),
        _HIRES.row("upscaler"),
        _place("Lora hashes"),
        _REQUEST.by_facts("use_old_scheduling", _old_timelines),
        _place("TI hashes"),
        _REQUEST.by_facts("emphasis", _emphasis),
        _REQUEST.where_changed("use_downcasted_alpha_bar"),
        _REQUEST.where_changed("sd_noise_schedule"),
        _INIT.where_changed("noise_multiplier"),
        _REQUEST.by_facts("always_discard_next_to_last_sigma", _discarded),
        _REQUEST.where_changed("sigma_min", _scheduled),
        _REQUEST.where_changed("sigma_max", _scheduled),
        _REQUEST.by_facts("rho", _rho),
        _beta("beta_dist_alpha"),
        _beta("beta_dist_beta"),
        _REQUEST.where_changed("sgm_noise_multiplier", lambda f: not f.sampler.unit_start),
        _REQUEST.by_facts("eta", lambda f: _eta(f, 1.0)),
        _REQUEST.by_facts("eta_ddim", lambda f: _eta(f, 0.0)),
        _taken("s_churn"),
        _taken("s_tmin"),
        _taken("s_tmax"),
        _taken("s_noise"),
        _place("Refiner switch by sampling steps"),
        _REFINER.row("checkpoint"),
        _REFINER.row("switch_at"),
        _place("Hires refiner"),
        _REQUEST.where_changed("skip_early_cond"),
        _REQUEST.where_changed("s_min_uncond"),
        _REQUEST.where_changed("s_min_uncond_all", lambda f: f.params.s_min_uncond > 0),
        _REQUEST.where_changed("pad_cond_uncond", lambda f: not f.params.pad_cond_uncond_v0),
        _REQUEST.where_changed("pad_cond_uncond_v0"),
        _INIT.by_facts("extra_noise", _extra_noise),
        _REQUEST.where_changed("sd_vae_encode_method", _encodes),
        _REQUEST.where_changed("sd_vae_decode_method"),
        _taken("uni_pc_variant"),
        _REQUEST.where_changed("uni_pc_skip_type", lambda f: "uni_pc_order" in f.sampler.takes),
        _taken("uni_pc_order"),
        _taken("uni_pc_lower_order_final"),
        _REQUEST.where_changed("cfg_rescale"),
        _REQUEST.where_changed("prediction"),
        _INIT.where_changed("resize_mode"),
        _INIT.where_changed("exact_steps"),
        _INIT.where_changed("colour_correction"),
        _MASK.row("round", lambda m: None if m.round or m.soft else False),
        _MASK.where_changed("overlay"),
        _HIRES.where_changed("cfg_scale"),
        _REQUEST.where_changed(
            "code_former_weight", lambda f: f.params.restore_faces and f.params.face_restorer == "CodeFormer"
        ),
        _REQUEST.where_changed("profile"),
    ),
    GROUPS,
    before=KEYS,
)
"""Keys after the table, in the order in which A1111's code writes them: scripts' before, ours last. UniPC's four keys
are read by A1111, which wrote them until 1.5; without them its images could not be reproduced."""

DEFAULTS: dict[str, Any] = {
    "Clip skip": "1",
    "Hires resize-1": 0,
    "Hires resize-2": 0,
    "Hires sampler": "Use same sampler",
    "Hires schedule type": "Use same scheduler",
    "Hires checkpoint": "Use same checkpoint",
    "Hires prompt": "",
    "Hires negative prompt": "",
    "Mask mode": "Inpaint masked",
    "Masked content": "original",
    "Inpaint area": "Whole picture",
    "Masked area padding": 32,
    "RNG": "GPU",
    "Schedule type": AUTOMATIC,
    "Schedule max sigma": 0,
    "Schedule min sigma": 0,
    "Schedule rho": 0,
    "VAE Encoder": "Full",
    "VAE Decoder": "Full",
    "FP8 weight": "Disable",
    "Refiner switch by sampling steps": False,
}
"""The values of missing keys."""

OLD_BEHAVIOURS = ("Old prompt editing timelines", "Pad conds v0", "Downcast alphas_cumprod")
"""The compatibility options that `read` may enable for old versions."""
READ_ONLY = ("Hypernet", "Hypernet strength", "First pass size", "Version", "User")
"""Keys that are read, and written by others than the tables above."""
_SIZES = tuple(f"{key}-{side}" for key in ("Size", "Hires resize", "First pass size") for side in (1, 2))
_PARTS = ("Prompt", "Negative prompt", "Styles array", "Inner generations")
RESERVED = frozenset((*KEYS, *OTHERS, *READ_ONLY, *DEFAULTS, *OLD_BEHAVIOURS, *_SIZES, *_PARTS))
"""Keys that are not for extensions to write, in whatever capitals."""
