"""Generation requests: frozen dataclasses, created once and never changed."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from modules.errors import UserError
from modules.params.lists import flattened
from modules.params.options import loose, nested, option, read, values_of

MAX_SEED = 2**64 - 1
"""The largest seed of torch's generators and Philox."""
MAX_PROMPT = 20_000
BY, TO = "Scale by", "Scale to"

MODEL, SAMPLING, NOISE = "Model", "Sampling", "Noise"
GUIDANCE, SDXL, FACES, MEMORY, COMPATIBILITY = "Guidance", "SDXL", "Faces", "Memory", "Compatibility"
"""Headings of groups of rarely changed options."""

RESIZE_MODES = ("Just resize", "Crop and resize", "Resize and fill", "Just resize (latent upscale)")
"""In A1111's order, whose API gives them by number."""
CONTENTS = ("fill", "original", "latent noise", "latent nothing")
"""Fill modes: what is under the mask when sampling begins, in A1111's order."""
SAME = ""
"""The choice in a second pass that means "as in the first"."""


def wrapped(seed: int) -> int:
    """``seed`` modulo the generator's range: 0 follows the last one.

    >>> wrapped(MAX_SEED + 2), wrapped(-1) == MAX_SEED
    (1, True)
    """
    return seed % (MAX_SEED + 1)


FULL, FP8_SDXL, FP8_ALL = "Disable", "Enable for SDXL", "Enable"
"""A1111's words for which UNets' weights are kept in 8 bits."""


@dataclass(frozen=True)
class SoftInpainting:
    """Options of soft inpainting: greys of the mask keep part of the image. Names, ranges and defaults are A1111's."""

    schedule_bias: float = option(
        1.0,
        "Schedule bias",
        lo=0.0,
        hi=8.0,
        step=0.1,
        key="Soft inpainting schedule bias",
        help="above 1: what is there is kept more in early steps, below 1: in late ones",
    )
    preservation: float = option(
        0.5,
        "Preservation strength",
        lo=0.0,
        hi=8.0,
        step=0.05,
        key="Soft inpainting preservation strength",
        help="how strongly what is masked in part is kept",
    )
    contrast_boost: float = option(
        4.0,
        "Transition contrast boost",
        lo=1.0,
        hi=32.0,
        step=0.5,
        key="Soft inpainting transition contrast boost",
        help="against paleness where old and new meet",
    )
    mask_influence: float = option(
        0.0,
        "Mask influence",
        lo=0.0,
        hi=1.0,
        step=0.05,
        key="Soft inpainting mask influence",
        help="0: only what changed counts for the seam, 1: the mask counts most",
    )
    difference_threshold: float = option(
        0.5,
        "Difference threshold",
        lo=0.0,
        hi=8.0,
        step=0.25,
        key="Soft inpainting difference threshold",
        help="how much a place may change before its old pixels give way",
    )
    difference_contrast: float = option(
        2.0,
        "Difference contrast",
        lo=0.0,
        hi=8.0,
        step=0.25,
        key="Soft inpainting difference contrast",
        help="how sharp the line between old and new is",
    )


@dataclass(frozen=True)
class Mask:
    """An inpainting mask: the white of ``image``, or its opaque part, is repainted."""

    image: str = option("", "Mask", help="a stored picture by its SHA-256")
    blur: int = option(4, "Mask blur", lo=0, hi=64, step=1, key="Mask blur", help="deviation in pixels")
    invert: bool = option(
        False,
        "Inpaint not masked",
        key="Mask mode",
        words=("Inpaint masked", "Inpaint not masked"),
        help="paint what is black instead",
    )
    content: str = option("original", "Masked content", choices=CONTENTS, key="Masked content")
    only_masked: bool = option(
        False,
        "Only masked",
        key="Inpaint area",
        words=("Whole picture", "Only masked"),
        help="work on the region around the mask, in full resolution",
    )
    padding: int = option(32, "Padding", lo=0, hi=256, step=4, key="Masked area padding", help="pixels around the mask")
    conditioning: float = option(
        1.0,
        "Conditional mask weight",
        lo=0.0,
        hi=1.0,
        step=0.01,
        key="Conditional mask weight",
        help="how much an inpainting model's view of the picture is masked",
    )
    round: bool = option(
        True,
        "Round the mask",
        key="Mask rounding",
        help="each place is painted anew or kept; otherwise greys mix both. Soft: never rounded",
    )
    overlay: bool = option(
        True,
        "Keep what is not masked",
        key="Overlay original for inpaint",
        help="pixels outside the mask stay those of the picture, byte for byte",
    )
    soft: SoftInpainting | None = nested("Soft inpainting", prefix="soft_", key="Soft inpainting enabled")


@dataclass(frozen=True)
class TiledUpscale:
    """A1111's SD upscale: the image is enlarged, then repainted in tiles of the request's size."""

    upscaler: str = option(
        "Lanczos", "Upscaler", key="SD upscale upscaler", choices="upscalers", help="None leaves the size as it is"
    )
    by: float = option(2.0, "Scale factor", lo=1.0, hi=4.0, step=0.05, key="SD upscale factor")
    overlap: int = option(
        64, "Tile overlap", lo=0, hi=256, step=8, key="SD upscale overlap", help="pixels in which tiles fade over"
    )


@dataclass(frozen=True)
class Init:
    """The init image, or one for each image of a batch, and how it is used."""

    image: str = option("", "Image", help="a stored picture by its SHA-256; several, with commas, are a batch")
    denoising_strength: float = option(
        0.75,
        "Denoising strength",
        lo=0.0,
        hi=1.0,
        step=0.01,
        key="Denoising strength",
        help="0 leaves the picture as it is, 1 forgets it",
    )
    resize_mode: str = option("Just resize", "Resize mode", key="Resize mode", choices=RESIZE_MODES)
    exact_steps: bool = option(
        False, "Exact steps", key="Exact steps", help="do as many steps as asked, not the strength's part of them"
    )
    noise_multiplier: float = option(
        1.0, "Noise multiplier", lo=0.0, hi=1.5, step=0.001, key="Noise multiplier", help="of the noise at the start"
    )
    extra_noise: float = option(0.0, "Extra noise", lo=0.0, hi=1.0, step=0.01, key="Extra noise")
    image_cfg_scale: float = option(
        1.5,
        "Image CFG scale",
        lo=0.0,
        hi=10.0,
        step=0.05,
        key="Image CFG scale",
        help="pix2pix models: how strongly the picture is followed",
    )
    colour_correction: bool = option(
        False, "Colour correction", key="Color correction", help="keep the colours of the start picture"
    )
    background: str = option("#ffffff", "Background", help="under what is transparent, as #rrggbb")
    mask: Mask | None = nested("Mask", prefix="mask_")
    tiled: TiledUpscale | None = nested("SD upscale", prefix="sd_upscale_")

    @property
    def images(self) -> tuple[str, ...]:
        """The stored images by name."""
        return tuple(filter(None, (name.strip() for name in self.image.split(","))))


@dataclass(frozen=True)
class Hires:
    """Hires fix: a second pass over the enlarged image. Empty names mean those of the first pass."""

    scale: float = option(2.0, "Upscale by", lo=1.0, hi=4.0, step=0.05, key="Hires upscale")
    width: int = option(0, "Hires width", lo=0, hi=4096, step=8, key="Hires resize-1", help="0: by the scale")
    height: int = option(0, "Hires height", lo=0, hi=4096, step=8, key="Hires resize-2", help="0: by the scale")
    upscaler: str = option("Latent", "Upscaler", key="Hires upscaler", choices="hires_upscalers")
    steps: int = option(0, "Hires steps", lo=0, hi=150, step=1, key="Hires steps", help="0: as in the first pass")
    denoising_strength: float = option(
        0.7, "Denoising strength", lo=0.0, hi=1.0, step=0.01, key="Denoising strength", help="of the second pass"
    )
    sampler: str = option(SAME, "Hires sampler", key="Hires sampler", choices="hires_samplers")
    scheduler: str = option(SAME, "Hires schedule type", key="Hires schedule type", choices="hires_schedulers")
    prompt: str = option(SAME, "Hires prompt", key="Hires prompt", multiline=True)
    negative_prompt: str = option(SAME, "Hires negative prompt", key="Hires negative prompt", multiline=True)
    cfg_scale: float = option(
        0.0, "Hires CFG scale", lo=0.0, hi=30.0, step=0.5, key="Hires CFG scale", help="0: as in the first pass"
    )
    checkpoint: str = option(SAME, "Hires checkpoint", key="Hires checkpoint", choices="hires_checkpoints")
    extra_noise: float = option(0.0, "Hires extra noise", lo=0.0, hi=1.0, step=0.01, key="Extra noise")


@dataclass(frozen=True)
class Refiner:
    """A second checkpoint that takes over during sampling."""

    checkpoint: str = option("", "Refiner", key="Refiner", choices="checkpoints")
    switch_at: float = option(
        0.8, "Switch at", lo=0.01, hi=1.0, step=0.01, key="Refiner switch at", help="part of the noise that is gone"
    )


Value = bool | int | float | str | None


class ModifierOptions(Mapping[str, Mapping[str, Value]]):
    """Which modifiers of extensions take part in a request, each by its name with its options. Frozen: equal ones are
    equal by content, and what is not named does not take part.

    >>> ModifierOptions({"twice": {"amount": 2}})["twice"]["amount"]
    2
    """

    def __init__(self, values: Mapping[str, Mapping[str, Value]] | None = None):
        self._values = {name: dict(sorted(options.items())) for name, options in sorted((values or {}).items())}

    @classmethod
    def from_json(cls, values: Any) -> ModifierOptions:
        """From JSON: an object of objects of plain values, or of lists of such (`modules.params.lists`); null is
        nothing. Raises `UserError`.
        """
        if values is None or isinstance(values, ModifierOptions):
            return values or cls()
        if not isinstance(values, Mapping):
            raise UserError("Extensions must be an object of objects", field="extensions")
        values = {name: flattened(one) if isinstance(one, Mapping) else one for name, one in values.items()}
        for name, options in values.items():
            plain = isinstance(options, Mapping) and all(
                isinstance(key, str) and isinstance(value, Value) for key, value in options.items()
            )
            if not isinstance(name, str) or not plain:
                raise UserError(
                    f"the options of extension {str(name)[:40]!r} must be an object of plain values",
                    hint="switch it on with its defaults by an empty object",
                    field=f"extensions.{str(name)[:40]}",
                )
        return cls(values)

    def to_json(self) -> dict[str, dict[str, Value]]:
        return {name: dict(options) for name, options in self._values.items()}

    def having(self, name: str, options: Mapping[str, Value]) -> ModifierOptions:
        return ModifierOptions({**self._values, name: options})

    def without(self, name: str) -> ModifierOptions:
        return ModifierOptions({other: options for other, options in self._values.items() if other != name})

    def __getitem__(self, name: str) -> Mapping[str, Value]:
        return dict(self._values[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ModifierOptions) and self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())

    def __repr__(self) -> str:
        return f"ModifierOptions({self._values!r})"

    def _key(self) -> str:
        return json.dumps(self._values)  # true and 1 are not the same option value


@dataclass(frozen=True)
class GenerationParams:
    """One generation request; sizes in pixels. A seed of -1 is replaced by a random one at submission."""

    prompt: str = option("", "Prompt", key="Prompt", multiline=True)
    negative_prompt: str = option("", "Negative prompt", key="Negative prompt", multiline=True)
    checkpoint: str = option("", "Checkpoint", key="Model", choices="checkpoints", help="empty: the default model")
    vae: str = option(
        "Automatic",
        "VAE",
        key="VAE",
        choices="vaes",
        group=MODEL,
        help="Automatic: the one named like the checkpoint; None: the checkpoint's own",
    )
    text_encoder: str = option(
        "Automatic",
        "Text encoder",
        key="Text encoder",
        choices="text_encoders",
        group=MODEL,
        help="for checkpoints without one, from models/text_encoder; Automatic: the first that fits",
    )
    prediction: str = option(
        "auto",
        "Prediction",
        key="Prediction",
        choices=("auto", "eps", "v"),
        group=MODEL,
        help="what the network answers: eps, the noise, or v, the velocity; auto: as the file says",
    )
    sd_vae_encode_method: str = option(
        "Full",
        "VAE for encoding",
        key="VAE Encoder",
        choices=("Full", "TAESD"),
        group=MODEL,
        help="TAESD: a tiny network from models/VAE-approx, faster and less exact",
    )
    sd_vae_decode_method: str = option(
        "Full",
        "VAE for decoding",
        key="VAE Decoder",
        choices=("Full", "TAESD"),
        group=MODEL,
        help="TAESD: a tiny network from models/VAE-approx, faster and less exact",
    )
    sampler: str = option("Euler a", "Sampler", key="Sampler", choices="samplers")
    scheduler: str = option("Automatic", "Schedule type", key="Schedule type", choices="schedulers")
    steps: int = option(20, "Steps", lo=1, hi=150, step=1, key="Steps")
    cfg_scale: float = option(
        7.0, "CFG scale", lo=1.0, hi=30.0, step=0.5, key="CFG scale", help="how strongly the prompt is followed"
    )
    width: int = option(512, "Width", lo=64, hi=2048, step=8, key="Size-1")
    height: int = option(512, "Height", lo=64, hi=2048, step=8, key="Size-2")
    seed: int = option(-1, "Seed", lo=-1, hi=MAX_SEED, key="Seed", help="-1: random")
    batch_size: int = option(1, "Batch size", lo=1, hi=16, step=1, help="images computed together")
    batch_count: int = option(1, "Batch count", lo=1, hi=100, step=1, help="batches one after another")
    subseed: int = option(-1, "Variation seed", lo=-1, hi=MAX_SEED, key="Variation seed")
    subseed_strength: float = option(
        0.0, "Variation strength", lo=0.0, hi=1.0, step=0.01, key="Variation seed strength"
    )

    # Sampling. Names, ranges and defaults from here on are those of A1111's settings.
    eta: float | None = option(
        None,
        "Eta",
        lo=0.0,
        hi=1.0,
        step=0.01,
        key="Eta",
        group=SAMPLING,
        help="empty: the sampler's own. DDIM has another",
    )
    eta_ddim: float | None = option(
        None, "Eta DDIM", lo=0.0, hi=1.0, step=0.01, key="Eta DDIM", group=SAMPLING, help="empty: 0"
    )
    s_churn: float = option(
        0.0, "Sigma churn", lo=0.0, hi=100.0, step=0.01, key="Sigma churn", group=SAMPLING, help="Euler, Heun, DPM2"
    )
    s_tmin: float = option(0.0, "Sigma tmin", lo=0.0, hi=10.0, step=0.01, key="Sigma tmin", group=SAMPLING)
    s_tmax: float = option(
        0.0, "Sigma tmax", lo=0.0, hi=999.0, step=0.01, key="Sigma tmax", group=SAMPLING, help="0: no limit"
    )
    s_noise: float = option(1.0, "Sigma noise", lo=0.0, hi=1.1, step=0.001, key="Sigma noise", group=SAMPLING)
    sigma_min: float = option(
        0.0, "Schedule min sigma", lo=0.0, hi=1e4, key="Schedule min sigma", group=SAMPLING, help="0: the model's"
    )
    sigma_max: float = option(
        0.0, "Schedule max sigma", lo=0.0, hi=1e4, key="Schedule max sigma", group=SAMPLING, help="0: the model's"
    )
    rho: float = option(
        0.0,
        "Schedule rho",
        lo=0.0,
        hi=100.0,
        key="Schedule rho",
        group=SAMPLING,
        help="Karras and Polyexponential; 0: their own",
    )
    beta_dist_alpha: float = option(
        0.6, "Beta schedule alpha", lo=0.01, hi=5.0, step=0.01, key="Beta schedule alpha", group=SAMPLING
    )
    beta_dist_beta: float = option(
        0.6, "Beta schedule beta", lo=0.01, hi=5.0, step=0.01, key="Beta schedule beta", group=SAMPLING
    )
    always_discard_next_to_last_sigma: bool = option(
        False, "Discard next-to-last sigma", key="Discard penultimate sigma", group=SAMPLING
    )
    uni_pc_order: int = option(3, "UniPC order", lo=1, hi=50, step=1, key="UniPC order", group=SAMPLING)
    uni_pc_variant: str = option(
        "bh1", "UniPC variant", choices=("bh1", "bh2", "vary_coeff"), key="UniPC variant", group=SAMPLING
    )
    uni_pc_skip_type: str = option(
        "time_uniform",
        "UniPC skip type",
        choices=("time_uniform", "time_quadratic", "logSNR"),
        key="UniPC skip type",
        group=SAMPLING,
    )
    uni_pc_lower_order_final: bool = option(
        True, "UniPC lower order final", key="UniPC lower order final", group=SAMPLING
    )

    # Noise.
    rng: str = option(
        "NV",
        "RNG",
        choices=("NV", "CPU", "GPU"),
        key="RNG",
        group=NOISE,
        help="whose random numbers: a CUDA card's, torch's, or those of the device that computes",
    )
    ensd: int = option(0, "ENSD", lo=-MAX_SEED, hi=MAX_SEED, key="ENSD", group=NOISE, help="eta noise seed delta")
    seed_resize_from_w: int = option(
        0,
        "Seed resize from width",
        lo=0,
        hi=2048,
        step=8,
        key="Seed resize from-1",
        group=NOISE,
        help="0: off. The noise of another size",
    )
    seed_resize_from_h: int = option(
        0, "Seed resize from height", lo=0, hi=2048, step=8, key="Seed resize from-2", group=NOISE, help="0: off"
    )
    sd_noise_schedule: str = option(
        "Default",
        "Noise schedule",
        choices=("Default", "Zero Terminal SNR"),
        key="Noise Schedule",
        group=NOISE,
        help="Zero Terminal SNR is for models trained with it",
    )
    sgm_noise_multiplier: bool = option(
        False, "SGM noise multiplier", key="SGM noise multiplier", group=NOISE, help="start noise as SDXL's trainers do"
    )
    enable_quantization: bool = option(
        False, "Quantize timesteps", group=NOISE, help="the network is asked at the model's own noise levels alone"
    )

    # Guidance.
    clip_skip: int = option(1, "Clip skip", lo=1, hi=12, step=1, key="Clip skip", group=GUIDANCE)
    sdxl_clip_l_skip: bool = option(
        False,
        "Clip skip for SDXL",
        key="SDXL clip skip",
        group=GUIDANCE,
        help="its first text encoder follows clip skip; otherwise the layer is fixed",
    )
    emphasis: str = option(
        "Original",
        "Emphasis",
        choices=("Original", "No norm", "Ignore", "None"),
        key="Emphasis",
        group=GUIDANCE,
        help="what (this:1.2) does",
    )
    cfg_rescale: float = option(
        0.0,
        "CFG rescale",
        lo=0.0,
        hi=1.0,
        step=0.01,
        key="CFG rescale",
        group=GUIDANCE,
        help="keeps strong guidance from washing out; 0.7 is usual",
    )
    skip_early_cond: float = option(
        0.0,
        "Skip early CFG",
        lo=0.0,
        hi=1.0,
        step=0.01,
        key="Skip Early CFG",
        group=GUIDANCE,
        help="no negative prompt in this part of the run",
    )
    s_min_uncond: float = option(
        0.0,
        "Negative guidance minimum sigma",
        lo=0.0,
        hi=15.0,
        step=0.01,
        key="NGMS",
        group=GUIDANCE,
        help="below it every second step does without the negative prompt",
    )
    s_min_uncond_all: bool = option(
        False, "Negative guidance minimum sigma, all steps", key="NGMS all steps", group=GUIDANCE
    )
    pad_cond_uncond: bool = option(
        False, "Pad prompts to equal length", key="Pad conds", group=GUIDANCE, help="with the empty prompt"
    )

    # SDXL.
    sdxl_crop_top: int = option(
        0, "Crop top", key="SDXL crop top", lo=0, hi=1024, step=1, group=SDXL, help="pixels cut away, as SDXL is told"
    )
    sdxl_crop_left: int = option(0, "Crop left", key="SDXL crop left", lo=0, hi=1024, step=1, group=SDXL)
    sdxl_refiner_low_aesthetic_score: float = option(
        2.5,
        "Low aesthetic score",
        key="SDXL low aesthetic score",
        lo=0.0,
        hi=10.0,
        step=0.1,
        group=SDXL,
        help="that the refiner is told with the negative prompt",
    )
    sdxl_refiner_high_aesthetic_score: float = option(
        6.0,
        "High aesthetic score",
        key="SDXL high aesthetic score",
        lo=0.0,
        hi=10.0,
        step=0.1,
        group=SDXL,
        help="that the refiner is told with the prompt",
    )

    # Faces.
    restore_faces: bool = option(False, "Restore faces", group=FACES, help="in the finished picture")
    face_restorer: str = option(
        "CodeFormer", "Face restorer", key="Face restoration", choices="face_restorers", group=FACES
    )
    code_former_weight: float = option(
        0.5,
        "CodeFormer weight",
        lo=0.0,
        hi=1.0,
        step=0.01,
        key="CodeFormer weight",
        group=FACES,
        help="0: the most is changed, 1: the least",
    )

    # Memory.
    fp8_storage: str = option(
        FULL,
        "FP8 weights",
        choices=(FULL, FP8_SDXL, FP8_ALL),
        key="FP8 weight",
        group=MEMORY,
        help="the UNet is kept in 8 bits: half the memory, and another picture; arithmetic is as before",
    )
    tiled_vae: bool = option(
        False,
        "Tiled VAE",
        key="Tiled VAE",
        group=MEMORY,
        help="pictures are encoded and decoded in bands, without a seam; otherwise only where the whole would not fit",
    )

    # Compatibility.
    profile: str = option("a1111", "Profile", choices=("a1111", "exact"), key="Profile", group=COMPATIBILITY)
    pad_cond_uncond_v0: bool = option(
        False, "Pad the negative prompt as before 1.6", key="Pad conds v0", group=COMPATIBILITY
    )
    use_old_scheduling: bool = option(
        False, "Prompt editing as before 1.6", key="Old prompt editing timelines", group=COMPATIBILITY
    )
    use_downcasted_alpha_bar: bool = option(
        False, "Noise levels in half precision, as before 1.8", key="Downcast alphas_cumprod", group=COMPATIBILITY
    )
    use_old_karras_scheduler_sigmas: bool = option(
        False, "Schedules from sigma 10 to 0.1, as at first", group=COMPATIBILITY
    )
    kernels: str = option(
        "auto",
        "Kernels",
        choices=("auto", "exact", "fast"),
        group=COMPATIBILITY,
        help="exact: an image is the same alone and in a batch; auto: exact where it costs nothing",
    )
    init: Init | None = nested("Start picture")
    hires: Hires | None = nested("Hires fix", prefix="hires_")
    refiner: Refiner | None = nested("Refiner", prefix="refiner_")
    extensions: ModifierOptions = loose(ModifierOptions(), ModifierOptions.from_json)
    """The modifiers that take part. `pipeline.plan.check` gives them all their options."""

    def to_json(self) -> dict[str, Any]:
        return values_of(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> GenerationParams:
        """Read a request from JSON, a form or the command line; raises `UserError` with the field's name."""
        return read(cls, values)

    def eta_for(self, own: float | None) -> float | None:
        """The eta for a sampler whose default is ``own``. The DDIM family, which defaults to 0, has its own
        parameter.
        """
        chosen = self.eta_ddim if own == 0 else self.eta
        return own if chosen is None else chosen

    @property
    def images(self) -> int:
        """The number of images of the request. In SD upscale a batch holds tiles of one image."""
        tiled = self.init is not None and self.init.tiled is not None
        return self.batch_count if tiled else self.batch_size * self.batch_count

    def seed_after(self, count: int) -> int:
        """The seed of the image ``count`` places further on."""
        return wrapped(self.seed + count)

    def changed(self, **changes: Any) -> GenerationParams:
        return dataclasses.replace(self, **changes)


@dataclass(frozen=True)
class ExtrasParams:
    """A request of the Extras tab. Sizes in pixels."""

    upscaler: str = option("None", "Upscaler", choices="upscalers", help="None leaves the size as it is")
    resize: str = option(BY, "Resize", choices=(BY, TO))
    by: float = option(2.0, "Factor", lo=0.25, hi=8.0, step=0.05)
    width: int = option(1024, "Width", lo=64, hi=8192, step=8)
    height: int = option(1024, "Height", lo=64, hi=8192, step=8)
    crop: bool = option(True, "Crop to fit", help="otherwise the picture covers the size and keeps its shape")
    upscaler_2: str = option("None", "Second upscaler", choices="upscalers")
    upscaler_2_visibility: float = option(
        0.0, "Visibility of the second", lo=0.0, hi=1.0, step=0.01, help="0: the first alone"
    )
    gfpgan_visibility: float = option(0.0, "GFPGAN visibility", lo=0.0, hi=1.0, step=0.01)
    codeformer_visibility: float = option(0.0, "CodeFormer visibility", lo=0.0, hi=1.0, step=0.01)
    codeformer_weight: float = option(
        0.0, "CodeFormer weight", lo=0.0, hi=1.0, step=0.01, help="0: the most is changed, 1: the least"
    )
    tile_size: int = option(192, "Tile size", lo=0, hi=1024, step=16, help="what a network sees at once; 0: all")
    tile_overlap: int = option(8, "Tile overlap", lo=0, hi=48, step=1, help="small values may leave seams")
    steps: ModifierOptions = loose(ModifierOptions(), ModifierOptions.from_json)
    """The steps of extensions, each by its name with its options."""

    def to_json(self) -> dict[str, Any]:
        return values_of(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> ExtrasParams:
        return read(cls, values)
