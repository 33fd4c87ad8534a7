"""A1111's generation text: what a picture says about how it was made, written and read.

    a cat
    Negative prompt: blurry
    Steps: 20, Sampler: Euler a, Schedule type: Automatic, CFG scale: 7.0, Seed: 1, Size: 512x512, ...

The text is for people and for other programs, and it loses some things (comments, batch size, blanks at the ends of a
prompt's lines); `modules.recipe` keeps everything.
"""

from __future__ import annotations

import json
import logging
import math
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from modules import styles as style_texts
from modules.diffusion.names import Samplers, Schedulers, resolve, split_sampler
from modules.diffusion.types import SamplerSpec
from modules.errors import UserError
from modules.modifier import ModifierSpec, from_text, to_text
from modules.options import Option, options_of, values_of
from modules.params import GenerationParams, Hires, Init, Mask, Refiner, SoftInpainting, TiledUpscale
from modules.profile import profile_named
from modules.prompt.emphasis import attention
from modules.prompt.parse import parse
from modules.prompt.schedule import Pass, Segment, schedule_nodes
from modules.prompt.stages import strip_comments
from modules.styles import Style

log = logging.getLogger(__name__)

MAX_LENGTH = 65_536
"""Characters of a text that we read."""

AUTOMATIC = "Automatic"
NEGATIVE = "Negative prompt:"

# ---------------------------------------------------------------------------------------------------------- writing


@dataclass(frozen=True)
class Facts:
    """What the text of one picture is made from."""

    params: GenerationParams
    seed: int
    subseed: int
    sampler: SamplerSpec
    scheduler: str
    model_name: str = ""
    model_hash: str = ""
    version: str = ""


Value = Callable[[Facts], Any]


def _size(f: Facts) -> str:
    return f"{f.params.width}x{f.params.height}"


def _schedule_type(f: Facts) -> str:
    """The scheduler really used, but "Automatic" stays where the sampler has no favourite or makes its own sigmas."""
    asked = f.params.scheduler
    if f.sampler.own_schedule or (asked.casefold() == AUTOMATIC.casefold() and not f.sampler.default_scheduler):
        return asked
    return f.scheduler


def _eta(f: Facts, default: float) -> float | None:
    """Eta where it is not the sampler's own. A1111 has one key for samplers that default to 1, another for DDIM's 0."""
    eta = f.params.eta_for(f.sampler.eta)
    return eta if f.sampler.eta == default and eta != default else None


def _ensd(f: Facts) -> int | None:
    eta = f.params.eta_for(f.sampler.eta)
    return f.params.ensd or None if f.sampler.marks_ensd and eta != 0 else None


def _resized(f: Facts) -> str | None:
    width, height = f.params.seed_resize_from_w, f.params.seed_resize_from_h
    return f"{width}x{height}" if width and height else None


def _emphasis(f: Facts) -> str | None:
    """The mode, where it is not the usual one and a text that was encoded has brackets."""
    return f.params.emphasis if f.params.emphasis != "Original" and any(set("([") & set(t) for t in _texts(f)) else None


def _old_timelines(f: Facts) -> bool | None:
    """Where counting as before 1.6 changes what a prompt means."""
    return (f.params.use_old_scheduling and _texts(f, old=False) != _texts(f, old=True)) or None


def _texts(f: Facts, *, old: bool | None = None) -> list[str]:
    """The texts of both prompts over the run and its second pass, with the steps until which they hold."""
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


def _unless(name: str, default: Any, applies: Callable[[Facts], bool] = lambda f: True) -> Value:
    """The value of a parameter where it is not the default and plays a part."""
    return lambda f: value if (value := getattr(f.params, name)) != default and applies(f) else None


def _taken(name: str) -> Value:
    """The same for a parameter that some samplers take."""
    return _unless(name, _DEFAULTS[name], lambda f: name in f.sampler.takes)


def _scheduled(f: Facts) -> bool:
    """Whether a scheduler makes the sigmas, rather than the sampler or, for "Automatic", the model itself."""
    return not f.sampler.own_schedule and (
        f.params.scheduler.casefold() != AUTOMATIC.casefold() or bool(f.sampler.default_scheduler)
    )


def _rho(f: Facts) -> float | None:
    own = {"Karras": 7.0, "Polyexponential": 1.0}.get(f.scheduler)
    return f.params.rho if _scheduled(f) and own and f.params.rho not in (0, own) else None


def _beta(name: str) -> Value:
    """Always told where the Beta scheduler is used."""
    return lambda f: getattr(f.params, name) if _scheduled(f) and f.scheduler == "Beta" else None


def _discarded(f: Facts) -> bool | None:
    own = bool(f.sampler.own_schedule) or f.sampler.discard_next_to_last
    return (f.params.always_discard_next_to_last_sigma and not own) or None


_DEFAULTS = {name: declared.default for name, declared in options_of(GenerationParams).items()}


def _absent(f: Facts) -> None:
    """A key that has its place but, as yet, no parameter."""


def _init(value: Callable[[Init], Any]) -> Value:
    return lambda f: value(f.params.init) if f.params.init else None


def _masked(value: Callable[[Mask], Any]) -> Value:
    return lambda f: value(f.params.init.mask) if f.params.init and f.params.init.mask else None


def _softly(name: str) -> Value:
    """A number as A1111's sliders give it: 1, not 1.0."""
    return _masked(lambda m: f"{getattr(m.soft, name):g}" if m.soft else None)


def _tiled(value: Callable[[TiledUpscale], Any]) -> Value:
    return _init(lambda i: value(i.tiled) if i.tiled else None)


def _hires(value: Callable[[Hires], Any]) -> Value:
    return lambda f: value(f.params.hires) if f.params.hires else None


def _strength(f: Facts) -> float | None:
    start = f.params.init or f.params.hires
    return start.denoising_strength if start else None


def _extra_noise(f: Facts) -> float | None:
    start = f.params.init or f.params.hires
    return start.extra_noise or None if start else None


KEYS: dict[str, Value] = {
    "Steps": lambda f: f.params.steps,
    "Sampler": lambda f: f.params.sampler,
    "Schedule type": _schedule_type,
    "CFG scale": lambda f: f.params.cfg_scale,
    "Image CFG scale": _absent,
    "Seed": lambda f: f.seed,
    "Face restoration": lambda f: f.params.face_restorer if f.params.restore_faces else None,
    "Size": _size,
    "Model hash": lambda f: f.model_hash or None,
    "Model": lambda f: f.model_name or None,
    "FP8 weight": _absent,
    "Cache FP16 weight for LoRA": _absent,
    "VAE hash": _absent,
    "VAE": _absent,
    "Variation seed": lambda f: f.subseed if f.params.subseed_strength else None,
    "Variation seed strength": lambda f: f.params.subseed_strength or None,
    "Seed resize from": _resized,
    "Denoising strength": _strength,
    "Conditional mask weight": _absent,
    "Clip skip": lambda f: f.params.clip_skip if f.params.clip_skip > 1 else None,
    "ENSD": _ensd,
    "Token merging ratio": _absent,
    "Token merging ratio hr": _absent,
    "Init image hash": _absent,
    "RNG": lambda f: f.params.rng if f.params.rng != "GPU" else None,
    "Tiling": _absent,
}
"""A1111's keys in A1111's order. A new parameter is one line here; what is absent has a place but comes as `extra`."""

OTHERS: dict[str, Value] = {
    "SD upscale overlap": _tiled(lambda t: t.overlap),
    "SD upscale upscaler": _tiled(lambda t: t.upscaler),
    "SD upscale factor": _tiled(lambda t: f"{t.by:g}"),
    "Soft inpainting enabled": _masked(lambda m: True if m.soft else None),
    **{option.key: _softly(option.name) for option in options_of(SoftInpainting).values() if option.key},
    "Mask mode": _masked(lambda m: "Inpaint not masked" if m.invert else None),
    "Mask blur": _masked(lambda m: m.blur or None),
    "Inpaint area": _masked(lambda m: "Only masked" if m.only_masked else None),
    "Masked area padding": _masked(lambda m: m.padding if m.only_masked else None),
    "Masked content": _masked(lambda m: m.content if m.content != "original" else None),
    "Hires checkpoint": _hires(lambda h: h.checkpoint or None),
    "Hires sampler": _hires(lambda h: h.sampler or None),
    "Hires prompt": _hires(lambda h: h.prompt or None),
    "Hires negative prompt": _hires(lambda h: h.negative_prompt or None),
    "Hires schedule type": _hires(lambda h: h.scheduler or None),
    "Hires upscale": _hires(lambda h: None if h.width or h.height else h.scale),
    "Hires resize": _hires(lambda h: f"{h.width}x{h.height}" if h.width or h.height else None),
    "Hires steps": _hires(lambda h: h.steps or None),
    "Hires upscaler": _hires(lambda h: h.upscaler),
    "Lora hashes": _absent,
    "Old prompt editing timelines": _old_timelines,
    "TI hashes": _absent,
    "Emphasis": _emphasis,
    "Downcast alphas_cumprod": _unless("use_downcasted_alpha_bar", False),
    "Noise Schedule": _unless("sd_noise_schedule", "Default"),
    "Noise multiplier": _init(lambda i: i.noise_multiplier if i.noise_multiplier != 1 else None),
    "Discard penultimate sigma": _discarded,
    "Schedule min sigma": _unless("sigma_min", 0, _scheduled),
    "Schedule max sigma": _unless("sigma_max", 0, _scheduled),
    "Schedule rho": _rho,
    "Beta schedule alpha": _beta("beta_dist_alpha"),
    "Beta schedule beta": _beta("beta_dist_beta"),
    "SGM noise multiplier": _unless("sgm_noise_multiplier", False, lambda f: not f.sampler.unit_start),
    "Eta": lambda f: _eta(f, 1.0),
    "Eta DDIM": lambda f: _eta(f, 0.0),
    "Sigma churn": _taken("s_churn"),
    "Sigma tmin": _taken("s_tmin"),
    "Sigma tmax": _taken("s_tmax"),
    "Sigma noise": _taken("s_noise"),
    "Refiner switch by sampling steps": _absent,
    "Refiner": lambda f: f.params.refiner.checkpoint if f.params.refiner else None,
    "Refiner switch at": lambda f: f.params.refiner.switch_at if f.params.refiner else None,
    "Hires refiner": _absent,
    "Skip Early CFG": _unless("skip_early_cond", 0),
    "NGMS": _unless("s_min_uncond", 0),
    "NGMS all steps": _unless("s_min_uncond_all", False, lambda f: f.params.s_min_uncond > 0),
    "Pad conds": _unless("pad_cond_uncond", False, lambda f: not f.params.pad_cond_uncond_v0),
    "Pad conds v0": _unless("pad_cond_uncond_v0", False),
    "Extra noise": _extra_noise,
    "VAE Encoder": _absent,
    "VAE Decoder": _absent,
    "UniPC variant": _taken("uni_pc_variant"),
    "UniPC skip type": _unless("uni_pc_skip_type", "time_uniform", lambda f: "uni_pc_order" in f.sampler.takes),
    "UniPC order": _taken("uni_pc_order"),
    "UniPC lower order final": _taken("uni_pc_lower_order_final"),
    "CFG rescale": _unless("cfg_rescale", 0),
    "Prediction": _unless("prediction", "auto"),
    "Resize mode": _init(lambda i: i.resize_mode if i.resize_mode != "Just resize" else None),
    "Exact steps": _init(lambda i: i.exact_steps or None),
    "Color correction": _init(lambda i: i.colour_correction or None),
    "Mask rounding": _masked(lambda m: None if m.round or m.soft else False),
    "Overlay original for inpaint": _masked(lambda m: None if m.overlay else False),
    "Hires CFG scale": _hires(lambda h: h.cfg_scale or None),
    "CodeFormer weight": _unless(
        "code_former_weight", 0.5, lambda f: f.params.restore_faces and f.params.face_restorer == "CodeFormer"
    ),
    "Profile": lambda f: f.params.profile if f.params.profile != "a1111" else None,
}
"""Keys behind the table, in the order in which A1111's code comes to them; what scripts add comes before, ours last.

A1111 reads UniPC's four keys and wrote them until 1.5; without them its pictures could not be made again from the text.
"""


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
    """The text of the picture with ``seed`` and ``subseed``.

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
    """``extra`` with our own values of `OTHERS`, each before the first key that A1111 writes later."""
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
    """
    >>> quote("a, b"), quote("a b"), quote(7.0)
    ('"a, b"', 'a b', '7.0')
    """
    text = str(value)
    return json.dumps(text, ensure_ascii=False) if any(c in text for c in ",\n:") else text


def unquote(text: str) -> str:
    """The inverse of `quote`; what is not a JSON string is kept as it is."""
    if not (text.startswith('"') and text.endswith('"')):
        return text
    try:
        return str(json.loads(text, strict=False))  # some write line breaks as they are
    except ValueError:
        return text


# ---------------------------------------------------------------------------------------------------------- reading

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
"""What a key that is missing means."""


def read(
    text: str,
    *,
    styles: Sequence[Style] = (),
    style_mode: str = "Apply if any",
    backcompat: bool = True,
    skip: Collection[str] = (),
) -> dict[str, Any]:
    """Every key of ``text`` as A1111 1.10 reads it: text values as they stand, defaults for missing keys.

    ``style_mode`` is "Apply if any", "Apply", "Discard" or "Ignore"; with ``backcompat`` a file of an old version gets
    that version's behaviours as keys; the keys in ``skip`` are left out.
    """
    if len(text) > MAX_LENGTH:
        raise UserError(
            f"the generation text has {len(text):,} characters and the limit is {MAX_LENGTH:,}",
            hint="paste the text of one picture",
            field="infotext",
        )
    lines, found = _parts(text.strip().split("\n"))
    prompt, negative = _prompts(lines, loosely=bool(found))
    parsed = _values(found)
    _find_styles(parsed, prompt, negative, styles, style_mode)
    if "Hypernet" in parsed:
        strength = parsed.get("Hypernet strength", "1.0")
        parsed["Prompt"] += f"<hypernet:{parsed['Hypernet']}:{strength}>"
    if "FP8 weight" in parsed and parsed["FP8 weight"] != DEFAULTS["FP8 weight"]:
        parsed.setdefault("Cache FP16 weight for LoRA", False)
    for key, value in DEFAULTS.items():
        parsed.setdefault(key, value)
    if "Emphasis" not in parsed and (uses_emphasis(parsed["Prompt"]) or uses_emphasis(parsed["Negative prompt"])):
        parsed["Emphasis"] = "Original"
    _old_hires(parsed)
    if backcompat:
        _old_version(parsed)
    return {key: value for key, value in parsed.items() if key not in skip}


Pairs = Sequence[tuple[str, str]]


def _parts(lines: Sequence[str]) -> tuple[Sequence[str], Pairs]:
    """The lines of the prompts, and the pairs of the last line; or of the line that begins with "Steps:", where the
    lines behind it go on with one of its values."""
    begin = max((i for i, line in enumerate(lines) if _begins(line, "Steps:")), default=len(lines) - 1)
    if begin < len(lines) - 1 and len(found := _continued(lines[begin], lines[begin + 1 :])) >= 3:
        return lines[:begin], found
    found = pairs(lines[-1])
    return (lines[:-1], found) if len(found) >= 3 else (lines, ())


def _begins(line: str, word: str) -> bool:
    """Whether ``line`` begins so, in whatever capitals."""
    return line.lstrip()[: len(word)].casefold() == word.casefold()


def _continued(line: str, rest: Sequence[str]) -> Pairs:
    """The pairs of a line whose last value goes on in further ones; none where those are something of their own.

    Values of A1111's own keys never have a line break, so they end with their line.
    """
    own, after = pairs(line), pairs(rest[0])
    if own and after and own[-1][0].casefold() in CANONICAL and _begins(rest[0], f"{after[0][0]}:"):
        return ()
    found = pairs("\n".join((line, *rest)))
    return [(key, value.split("\n")[0].rstrip() if key.casefold() in CANONICAL else value) for key, value in found]


def pairs(line: str) -> list[tuple[str, str]]:
    """The ``key: value`` pairs of a line, in one pass from left to right; what does not fit is skipped.

    >>> pairs('Steps: 20, Lora hashes: "a: 1, b: 2", ?, Size: 8x8')
    [('Steps', '20'), ('Lora hashes', '"a: 1, b: 2"'), ('Size', '8x8')]
    """
    found, start = [], 0
    while (colon := line.find(":", start)) >= 0:
        key = _key_before(line, start, colon)
        start = colon + 1
        if key:
            value, start = _value_at(line, start)
            found.append((key, value))
    return found


_WORD = re.compile(r"\w")
_BLANKS = re.compile(r"\s*")
_JSON = json.JSONDecoder(strict=False)


def _key_before(line: str, start: int, colon: int) -> str:
    """The key that ends at ``colon``: a word character, then word characters, blanks, - and /; two or more."""
    first = begin = colon
    while begin > start and (line[begin - 1] in " -/" or _WORD.match(line, begin - 1)):
        begin -= 1
        if line[begin] not in " -/":
            first = begin
    return line[first:colon] if colon - first > 1 else ""


def _value_at(line: str, start: int) -> tuple[str, int]:
    """The value that starts there, with its quotes, and where the next pair may start."""
    start = _after_blanks(line, start)
    if line.startswith('"', start):
        end = _closing_quote(line, start) + 1
    else:
        end = _after_blanks(line, _closing_bracket(line, start)) if line.startswith(("[", "{"), start) else 0
    if not end or line[end : end + 1] not in (",", "\n", ""):
        end = line.find(",", start)
        end = len(line) if end < 0 else end
    return line[start:end], end + 1


def _after_blanks(line: str, start: int) -> int:
    blanks = _BLANKS.match(line, start)
    return blanks.end() if blanks else start


def _closing_bracket(line: str, start: int) -> int:
    """Behind the JSON list or object that starts at ``start``, or 0: some write such values without quotes."""
    try:
        return _JSON.raw_decode(line, start)[1]
    except (ValueError, RecursionError):
        return 0


def _closing_quote(line: str, start: int) -> int:
    """Where the string that starts at ``start`` ends, or -1; an empty string does not count."""
    i = start + 1
    while i < len(line) and line[i] != '"':
        i += 2 if line[i] == "\\" else 1
    return i if start + 1 < i < len(line) else -1


def _prompts(lines: Sequence[str], *, loosely: bool) -> tuple[str, str]:
    """``loosely``: "Negative Prompt:" counts as well where A1111's own spelling does not occur."""
    texts: tuple[list[str], list[str]] = ([], [])
    negative = False
    lines = [line.strip() for line in lines]
    loosely = loosely and not any(line.startswith(NEGATIVE) for line in lines)
    for line in lines:
        if line.startswith(NEGATIVE) or (loosely and _begins(line, NEGATIVE)):
            negative = True
            line = line[len(NEGATIVE) :].strip()
        if line or texts[negative]:  # empty lines count, but not at the start
            texts[negative].append(line)
    return "\n".join(texts[False]), "\n".join(texts[True])


_SIZE = re.compile(r"^(\d+)x(\d+)$")


READ_ONLY = ("Hypernet", "Hypernet strength", "First pass size", "Version", "User")
CANONICAL = {key.casefold(): key for key in (*KEYS, *OTHERS, *READ_ONLY)}
"""A1111's spelling of keys that others write in other capitals."""


def _values(found: Pairs) -> dict[str, Any]:
    parsed: dict[str, Any] = {}
    spelled = {key for key, _ in found}
    for key, raw in found:
        if not raw:
            log.info("generation text: %r has no value", key)
            continue
        canonical = CANONICAL.get(key.casefold(), key)
        key = key if canonical in spelled else canonical
        value = unquote(raw)
        if size := _SIZE.match(value):
            parsed[f"{key}-1"], parsed[f"{key}-2"] = size.groups()
        else:
            parsed[key] = value
    return parsed


HIRES_STYLES = (1, 8, 0, 139)
"""Up to here A1111 put no styles into the prompts of a second pass."""


def _find_styles(parsed: dict[str, Any], prompt: str, negative: str, styles: Sequence[Style], mode: str) -> None:
    """Set the prompts, without the styles found in them. A hires pass must show the same styles, else none counts."""
    parsed["Prompt"], parsed["Negative prompt"] = prompt, negative
    if mode == "Ignore":
        return
    names, bare, bare_negative = style_texts.find(styles, prompt, negative)
    version = version_number(str(parsed.get("Version", "")))
    styled = version is None or version > HIRES_STYLES
    if styled and ("Hires prompt" in parsed or "Hires negative prompt" in parsed):
        hires = parsed.get("Hires prompt", prompt), parsed.get("Hires negative prompt", negative)
        hires_names, hires_bare, hires_negative = style_texts.find(styles, *hires)
        if hires_names != names:
            return
        parsed["Hires prompt"] = "" if hires_bare == bare else hires_bare
        parsed["Hires negative prompt"] = "" if hires_negative == bare_negative else hires_negative
    parsed["Prompt"], parsed["Negative prompt"] = bare, bare_negative
    if mode == "Apply" or (mode == "Apply if any" and names):
        parsed["Styles array"] = names


def _old_hires(parsed: dict[str, Any]) -> None:
    """Before hires fix had its own size, Size was the final one and "First pass size" the first one."""
    first = _whole(parsed.get("First pass size-1")), _whole(parsed.get("First pass size-2"))
    width, height = _whole(parsed.get("Size-1", 512)), _whole(parsed.get("Size-2", 512))
    if None in (*first, width, height) or not width or not height:
        return
    if 0 in first:
        # The first pass had the area of 512 x 512, each side rounded up to a multiple of 64.
        scale = math.sqrt(512 * 512 / (width * height))
        first = math.ceil(scale * width / 64) * 64, math.ceil(scale * height / 64) * 64
    parsed["Size-1"], parsed["Size-2"] = first
    parsed["Hires resize-1"], parsed["Hires resize-2"] = width, height


def _whole(value: object) -> int | None:
    """A size that can be computed with; no picture has more than nine digits."""
    return int(str(value)) if re.fullmatch(r"\d{1,9}", str(value)) else None


def _old_version(parsed: dict[str, Any]) -> None:
    """Switch on what the version that made the picture did differently."""
    version = version_number(str(parsed.get("Version", "")))
    if version is None:
        return
    if version < (1, 6, 0, 0) and "[" in parsed["Prompt"]:
        parsed["Old prompt editing timelines"] = True
    if version < (1, 6, 0, 0) and parsed.get("Sampler") in ("DDIM", "PLMS"):
        parsed["Pad conds v0"] = True
    if version < (1, 7, 0, 225):
        parsed["Downcast alphas_cumprod"] = True
    if version < (1, 8, 0, 0) and "Refiner" in parsed:
        parsed["Refiner switch by sampling steps"] = True


OLD_BEHAVIOURS = ("Old prompt editing timelines", "Pad conds v0", "Downcast alphas_cumprod")
"""What `read` may switch on for old versions, of what we have."""

_VERSION = re.compile(r"v?(\d{1,9})\.(\d{1,9})(?:\.(\d{1,9}))?(?:-(\d{1,9})|(-?rc\d*))?", re.IGNORECASE)


def version_number(text: str) -> tuple[int, int, int, int] | None:
    """The fourth number counts the commits since the release; a release candidate comes before it.

    >>> version_number("v1.7.0-225-gabcdef"), version_number("v1.6.0-RC"), version_number("Reprise 0.1.0")
    ((1, 7, 0, 225), (1, 6, 0, -1), None)
    """
    short = "-".join(text.split("-")[:2])
    if not (match := _VERSION.fullmatch(short)):
        return None
    major, minor, patch, commits, candidate = match.groups()
    return int(major), int(minor), int(patch or 0), -1 if candidate else int(commits or 0)


def uses_emphasis(prompt: str) -> bool:
    return any(piece.weight != 1 and piece.text != "BREAK" for piece in attention(prompt))


# ----------------------------------------------------------------------------------------------- sending to the page

FindFile = Callable[[str, str], str | None]
"""``(name, hash) -> name`` of our file."""


def find_none(name: str, sha256: str) -> str | None:
    """Where there are no files to choose from."""
    return None


def sampler_and_scheduler(name: str, scheduler: str, samplers: Samplers, schedulers: Schedulers) -> tuple[str, str]:
    """A1111's reading of the two: what is unknown becomes the first of its table, a sampler's favourite "Automatic"."""
    bare, split = split_sampler(name, schedulers)
    sampler = bare if bare in samplers.names() else samplers.names()[0]
    known = {key: label for label, spec in schedulers.items() for key in (label, spec.name, *spec.aliases)}
    return sampler, _or_automatic(split or known.get(scheduler, AUTOMATIC), samplers.get(sampler), schedulers)


def _or_automatic(label: str, sampler: SamplerSpec, schedulers: Schedulers) -> str:
    favourite = sampler.default_scheduler
    return AUTOMATIC if favourite and schedulers.get(label).name == favourite else label


@dataclass(frozen=True)
class Paste:
    """What a pasted text changes in a request, and in sentences what of it could not be followed."""

    changes: dict[str, Any]
    """Of `GenerationParams`, ready for JSON; ``hires`` and ``refiner`` are objects or None."""
    notes: tuple[str, ...]
    start: dict[str, Any] = field(default_factory=dict)
    """What it says of a start picture and its mask, side by side: ``denoising_strength``, ``mask_blur``, ..."""


_PLAIN = {option.key: option for option in options_of(GenerationParams).values() if option.key} | {
    "Prompt": options_of(GenerationParams)["prompt"],
    "Negative prompt": options_of(GenerationParams)["negative_prompt"],
    "Size-1": options_of(GenerationParams)["width"],
    "Size-2": options_of(GenerationParams)["height"],
    "Seed resize from-1": options_of(GenerationParams)["seed_resize_from_w"],
    "Seed resize from-2": options_of(GenerationParams)["seed_resize_from_h"],
    "Beta scheduler alpha": options_of(GenerationParams)["beta_dist_alpha"],  # A1111 writes one name and reads another
    "Beta scheduler beta": options_of(GenerationParams)["beta_dist_beta"],
    "Profile": options_of(GenerationParams)["profile"],
}
"""The parameter behind each key."""

_WHOLE: dict[str, Any] = {
    option.name: option.default
    for key, option in _PLAIN.items()
    if key not in {"Prompt", "Negative prompt", "Model", "Size-1", "Size-2", *list(KEYS)[:6]}
}
"""What a text with a parameter line means where it says nothing."""

_SILENT = {"Version", "Model hash", "VAE hash", "TI hashes", "User"}
"""Keys that ask for nothing that we do not do."""


def params_from(
    parsed: Mapping[str, Any],
    samplers: Samplers,
    schedulers: Schedulers,
    find_checkpoint: FindFile = find_none,
    find_vae: FindFile = find_none,
    modifiers: Iterable[ModifierSpec] = (),
) -> Paste:
    """The changes to a `GenerationParams` that `read`'s answer asks for.

    ``modifiers``: those of extensions, whose keys are read as well; one that is not named takes no part.
    A text of prompts alone changes the prompts alone. ``find_checkpoint(name, hash)`` gives the name of our file, or
    None to leave the chosen one; ``find_vae`` likewise. Batch sizes are not in the text and stay.
    """
    whole = "Steps" in parsed or "Seed" in parsed
    changes: dict[str, Any] = {**_WHOLE, "restore_faces": "Face restoration" in parsed} if whole else {}
    notes: list[str] = []
    old = [key for key in OLD_BEHAVIOURS if parsed.get(key) is True]  # a text says "True"
    if old:
        notes.append(f"as A1111 {parsed['Version']} did it: {', '.join(old)}")
    wanted = {k: v for k, v in parsed.items() if k in _PLAIN and (whole or k.endswith("rompt"))}
    _take_sampler(wanted, samplers, schedulers, changes, notes)
    if "Model" in wanted or "Model hash" in parsed:
        name, sha = str(wanted.pop("Model", "")), str(parsed.get("Model hash", ""))
        if (checkpoint := find_checkpoint(name, sha)) is not None:
            changes["checkpoint"] = checkpoint
    if "VAE" in wanted and (vae := find_vae(str(wanted["VAE"]), str(parsed.get("VAE hash", "")))) is not None:
        wanted["VAE"] = vae
    elif "VAE" in wanted:
        notes.append(f"there is no VAE {wanted.pop('VAE')} here; it was left as it is")
        changes.pop("vae", None)
    if wanted.get("RNG") == "GPU":
        wanted["RNG"] = "NV"  # the same numbers, made in software
    for key, value in wanted.items():
        try:
            changes[_PLAIN[key].name] = _PLAIN[key].cast(value)
        except UserError as error:
            notes.append(f"{error.message}; it was left as it is")
    start: dict[str, Any] = {}
    if whole:
        start = _start_from(parsed, notes)
        changes |= {"hires": _hires_from(parsed, notes), "refiner": _refiner_from(parsed, notes)}
    known = _PLAIN.keys() | _SILENT | _PASSES
    if whole and (specs := tuple(modifiers)):
        changes["extensions"], keys = from_text(specs, parsed, notes)
        known |= keys
    foreign = [f"{k}: {v}" for k, v in parsed.items() if whole and k not in known and v != DEFAULTS.get(k)]
    if foreign:
        notes.append(f"not used here: {', '.join(foreign)}")
    return Paste(changes, tuple(notes), start)


_INIT = {option.key: option for option in options_of(Init).values() if option.key} | {
    "Resize mode": options_of(Init)["resize_mode"],
    "Exact steps": options_of(Init)["exact_steps"],
    "Color correction": options_of(Init)["colour_correction"],
}
_MASK = {option.key: option for option in options_of(Mask).values() if option.key} | {
    "Mask rounding": options_of(Mask)["round"],
    "Overlay original for inpaint": options_of(Mask)["overlay"],
}
_SOFT = {option.key: option for option in options_of(SoftInpainting).values() if option.key}
_TILED = {option.key: option for option in options_of(TiledUpscale).values() if option.key}
_HIRES = {option.key: option for option in options_of(Hires).values() if option.key} | {
    "Hires resize-1": options_of(Hires)["width"],
    "Hires resize-2": options_of(Hires)["height"],
}
_REFINER = {option.key: option for option in options_of(Refiner).values() if option.key}
_PASSES = {*_INIT, *_MASK, *_SOFT, *_TILED, *_HIRES, *_REFINER}
_PASSES |= {"Mask mode", "Inpaint area", "Soft inpainting enabled"}
"""Keys that speak of a start picture, of a second pass or of a second checkpoint."""


def _start_from(parsed: Mapping[str, Any], notes: list[str]) -> dict[str, Any]:
    """The values for `Init` and, prefixed, for `Mask`; nothing where the text is of a picture from text alone."""
    if "Denoising strength" not in parsed or _has_hires(parsed):
        return {}
    mask = {
        "invert": parsed.get("Mask mode") == "Inpaint not masked",
        "only_masked": parsed.get("Inpaint area") == "Only masked",
        **_cast(parsed, _MASK, notes),
    }
    soft, tiled = parsed.get("Soft inpainting enabled") == "True", "SD upscale overlap" in parsed
    mask["soft"] = soft
    if soft:
        mask |= {f"soft_{name}": value for name, value in _cast(parsed, _SOFT, notes).items()}
    tiles = {f"sd_upscale_{name}": value for name, value in _cast(parsed, _TILED, notes).items()}
    return _cast(parsed, _INIT, notes) | {f"mask_{k}": v for k, v in mask.items()} | {"tiled": tiled} | tiles


def _has_hires(parsed: Mapping[str, Any]) -> bool:
    sized = any(str(parsed.get(f"Hires resize-{side}", 0)) != "0" for side in (1, 2))
    return "Denoising strength" in parsed and (sized or "Hires upscale" in parsed or "Hires upscaler" in parsed)


def _hires_from(parsed: Mapping[str, Any], notes: list[str]) -> dict[str, Any] | None:
    if not _has_hires(parsed):
        return None
    told = {key: "" if str(value).startswith("Use same ") else value for key, value in parsed.items()}
    return values_of(Hires(**_cast(told, _HIRES, notes)))


def _refiner_from(parsed: Mapping[str, Any], notes: list[str]) -> dict[str, Any] | None:
    return values_of(Refiner(**_cast(parsed, _REFINER, notes))) if "Refiner" in parsed else None


def _cast(parsed: Mapping[str, Any], options: Mapping[str, Option], notes: list[str]) -> dict[str, Any]:
    """The values whose keys are in ``options``, by the options' names; what cannot be read is noted and left out."""
    found = {}
    for key, option in options.items():
        if key in parsed:
            try:
                found[option.name] = option.cast(parsed[key])
            except UserError as error:
                notes.append(f"{error.message}; it was left as it is")
    return found


def _take_sampler(
    wanted: dict[str, Any], samplers: Samplers, schedulers: Schedulers, changes: dict[str, Any], notes: list[str]
) -> None:
    asked = str(wanted.pop("Sampler", ""))
    scheduler = str(wanted.pop("Schedule type", AUTOMATIC))
    if not asked:
        return
    try:
        sampler, label, _ = resolve(asked, scheduler, samplers, schedulers)
        changes |= {"sampler": sampler, "scheduler": _or_automatic(label, samplers.get(sampler), schedulers)}
    except UserError as error:
        notes.append(f"{error.message}; it was left as it is")
