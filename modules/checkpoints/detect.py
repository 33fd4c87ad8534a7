"""Identifies a checkpoint from its header and the files beside it: family, text width, native size, prediction type.
No torch.

The server's card and the worker's loader both ask here, so that they never tell two stories about one file.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, TypeVar

from modules.checkpoints.a1111_yaml import left_aside, read_yaml
from modules.checkpoints.choices import EPS, V_ZERO_SNR, V, read_choices
from modules.checkpoints.families import FAMILIES
from modules.checkpoints.families.base import FIRST_CONV, UNET, VAE, Family, ModelConfig, Shapes, bare_unet, variant
from modules.checkpoints.families.shapes import text_config, unet_config, vae_config
from modules.checkpoints.files import Header
from modules.checkpoints.networks.side_files import side_base
from modules.diffusion.parameterization import Betas
from modules.errors import CheckpointError
from modules.nn.configs import CLIP, OPEN_CLIP, TextConfig, UNetConfig, VAEConfig

log = logging.getLogger(__name__)


def shapes_of(header: Header) -> Shapes:
    return {key: info.shape for key, info in header.tensors.items()}


def stated(header: Header) -> dict[str, Any]:
    """The configuration that a file states under ``reprise.config``; empty if there is none or it is unreadable."""
    try:
        found = json.loads(header.metadata.get("reprise.config", "{}"))
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


# ----------------------------------------------------------------------------------------------------------- family


def family_of(shapes: Shapes) -> Family | None:
    """The family of a checkpoint; None if it is no whole diffusion model."""
    return next((family for family in FAMILIES if family.matches(shapes)), None)


def family_label(shapes: Shapes) -> str:
    """The family's name for people.

    >>> family_label({"model.diffusion_model.input_blocks.0.0.weight": (320, 9, 3, 3)})
    'Stable Diffusion 1.x, inpainting'
    """
    family = family_of(shapes)
    if family is None:
        return "not a diffusion model"
    return ", ".join(filter(None, (family.label, _variant(shapes), _pruned(family, shapes))))


def _variant(shapes: Shapes) -> str | None:
    """What the UNet sees beside latents, as `families.base.variant` names it."""
    channels = shapes.get(FIRST_CONV, ())[1:2]
    return variant(channels[0], next(iter(shapes.get(f"{UNET}out.2.weight", ())), 4)) if channels else None


def _pruned(family: Family, shapes: Shapes) -> str:
    """ "pruned" if the UNet has no attention in its middle block (SSD-1B, Vega and other distilled models), else
    empty.
    """
    middle = f"{UNET}middle_block.1.transformer_blocks.0.attn1.to_q.weight"
    return "pruned" if family.supported and middle not in shapes and f"{UNET}out.2.weight" in shapes else ""


def has_vae(shapes: Shapes) -> bool:
    """Whether a checkpoint contains an autoencoder; "noVAE" files have none, or only leftovers of one."""
    return any(key.startswith((f"{VAE}encoder.", f"{VAE}decoder.")) for key in shapes)


def text_width(shapes: Shapes) -> int:
    """Width of a checkpoint's token embeddings, summed over two encoders; 0 if no known encoder is there."""
    family = family_of(shapes)
    if family and family.supported and (bare := bare_unet(shapes)):
        return bare.context
    try:
        return sum(text_config(spec, shapes).width for spec in family.encoders) if family else 0
    except (LookupError, ValueError):
        return 0


def native_size(header: Header, path: Path | None = None, kind: str = "") -> int:
    """Side in pixels that a checkpoint was trained for, as the file itself says it, else its family's.

    ``kind``: what it predicts, where that was seen.
    """
    size = stated(header).get("native_size")
    if isinstance(size, int) and 8 <= size <= 2048:
        return size
    family = family_of(shapes_of(header))
    return family.side(kind or prediction(header, path).kind) if family else 512


# ------------------------------------------------------------------------------------------------------- prediction


@dataclass(frozen=True)
class Prediction:
    """What a UNet predicts: noise (eps) or velocity (v), and whether its schedule ends at zero terminal SNR."""

    kind: str = "eps"
    """ "eps", the noise, or "v" (Salimans and Ho 2022, arXiv:2202.00512)."""
    zero_terminal_snr: bool = False
    """Trained with a last step of pure noise (Lin et al. 2023, arXiv:2305.08891)."""
    said: bool = True
    """Whether somebody says what kind it is; else it is the usual one."""
    beside: bool = False
    """It is not the file that says it, but its card or its yaml, which another machine may not have."""


def prediction(header: Header, path: Path | None = None) -> Prediction:
    """The prediction type of a checkpoint. The first source that states it wins: the choice on its card, A1111's yaml
    beside the file, our own metadata, the marker tensors ``v_pred`` and ``ztsnr``, ModelSpec.
    """
    own = stated(header)
    chosen = read_choices(path).prediction if path else ""
    near = {EPS: "eps", V: "v", V_ZERO_SNR: "v"}.get(chosen, "") or (_in_yaml(path) if path else "")
    inside = (
        _kind(own.get("prediction"))
        or ("v" if "v_pred" in header.tensors else "")
        or _kind(header.metadata.get("modelspec.prediction_type"))
    )
    zero_snr = own.get("zero_terminal_snr") is True or "ztsnr" in header.tensors
    return Prediction(
        near or inside or "eps",
        zero_snr or chosen == V_ZERO_SNR,
        said=bool(near or inside),
        beside=bool(near) and (near != inside or (chosen == V_ZERO_SNR and not zero_snr)),
    )


def yaml_of(path: Path) -> Path:
    """A1111's configuration beside a checkpoint."""
    return side_base(path).with_suffix(".yaml")


@dataclass(frozen=True)
class Beside:
    """What stands beside a checkpoint, to compare with what stood there before."""

    prediction: str
    """Chosen on its card."""
    yaml: int
    """The time of A1111's configuration; 0: there is none."""


def said_beside(path: Path) -> Beside:
    yaml = yaml_of(path)
    return Beside(read_choices(path).prediction, yaml.stat().st_mtime_ns if yaml.is_file() else 0)


def only_seen(shapes: Shapes, predicts: Prediction) -> bool:
    """Whether nothing but the UNet's answers can tell what a model predicts (`probe.answers_with`)."""
    family = family_of(shapes)
    return not predicts.said and family is not None and not family.tells_prediction and _variant(shapes) == ""


def _kind(value: object) -> str:
    """The prediction type in our spelling.

    >>> _kind("v_prediction"), _kind("epsilon"), _kind(None)
    ('v', 'eps', '')
    """
    word = value.strip().casefold() if isinstance(value, str) else ""
    return "v" if word.startswith("v") else "eps" if word.startswith("eps") else ""


def _in_yaml(path: Path) -> str:
    said = read_yaml(yaml_of(path))
    return _kind(said.prediction) if said else ""


def remarks(header: Header, path: Path) -> list[str]:
    """What of a checkpoint, and of the configuration beside it, is not done or cannot be used, in sentences."""
    said, shapes = read_yaml(yaml_of(path)), shapes_of(header)
    family = family_of(shapes)
    if family is None or not family.supported:
        return [refused] if (refused := _refusal(side_base(path).stem, shapes)) else []
    if said is None:
        return [aside] if (aside := left_aside(yaml_of(path))) else []
    try:
        return said.remarks(unet_config(shapes), _schedule(header, family), clip=family.encoders[0].layout == CLIP)
    except (LookupError, ValueError, ArithmeticError):
        return []


# ---------------------------------------------------------------------------------------------------- configuration

C = TypeVar("C", UNetConfig, VAEConfig, TextConfig)
MOST = 1_000_000
"""Upper limit of any integer in a configuration."""
ACTIVATIONS = ("quick_gelu", "gelu")


def detect(name: str, header: Header, path: Path | None = None) -> ModelConfig:
    """The configuration of a whole checkpoint, or a `CheckpointError` that says what the file is instead.

    ``path``: where it lies, for what is said beside it.
    """
    shapes = shapes_of(header)
    usual = family = _supported(name, shapes)
    own, own_vae, predicts = stated(header), has_vae(shapes), prediction(header, path)
    said = read_yaml(yaml_of(path)) if path else None
    if said and said.last_layer:
        family = _taking_last_layer(family)
    try:
        unet_alone = _merge(name, unet_config(shapes), own.get("unet"))
        unet = said.with_heads(unet_alone) if said else unet_alone
        vae = _merge(name, vae_config(shapes) if own_vae else VAEConfig(), own.get("vae"))
        texts = tuple(_merge(name, text_config(spec, shapes), own.get(spec.part)) for spec in family.encoders)
    except (LookupError, ValueError, ArithmeticError) as error:
        raise CheckpointError(
            f"{name} is not a whole {family.label} checkpoint: {_tail(error)} is missing or of another shape",
            hint="choose another one",
            field="checkpoint",
        ) from error
    schedule, scale = _schedule(header, usual), _number(own.get("scale_factor"), family.latent.scale)
    betas = said.betas(schedule)[0] if said else None
    betas = None if betas == Betas.named(schedule) else betas
    said_scale = said.scale_factor if said else None
    from_yaml = bool(betas or family != usual or unet != unet_alone or said_scale not in (None, scale))
    return ModelConfig(
        family,
        unet,
        vae,
        texts,
        latent=replace(
            family.latent,
            scale=said_scale or scale,
            shift=_number(own.get("shift_factor"), family.latent.shift),
            channels=vae.z_channels,
            factor=vae.factor,
            rgb=family.latent.rgb if vae == VAEConfig() else (),
        ),
        native_size=native_size(header, path),
        prediction=predicts.kind,
        schedule=schedule,
        zero_terminal_snr=predicts.zero_terminal_snr,
        own_vae=own_vae,
        only_seen=only_seen(shapes, predicts),
        said_beside=predicts.beside,
        betas=betas,
        from_yaml=from_yaml,
    )


def _schedule(header: Header, family: Family) -> str:
    """The noise schedule that a file states for itself, else its family's."""
    found = stated(header).get("schedule")
    return found if isinstance(found, str) else family.schedule


def _taking_last_layer(family: Family) -> Family:
    """SD 2.x with the last layer of its text encoder rather than the one before it."""
    encoders = [replace(e, skip=1) if e.layout == OPEN_CLIP and e.final_norm else e for e in family.encoders]
    return replace(family, encoders=tuple(encoders))


def _number(value: object, otherwise: float) -> float:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else otherwise


def detect_vae(name: str, header: Header, own: VAEConfig) -> VAEConfig:
    """The configuration of a standalone VAE file that replaces a checkpoint's ``own``."""
    shapes: Shapes = {f"{VAE}{key.removeprefix(VAE)}": info.shape for key, info in header.tensors.items()}
    try:
        found = _merge(name, vae_config(shapes), stated(header).get("vae"))
    except (LookupError, ValueError, ArithmeticError) as error:
        raise _no_vae(name, f"{_tail(error)} is missing or of another shape") from error
    if found.z_channels != own.z_channels:
        raise _no_vae(name, f"its latents have {found.z_channels} channels, and the checkpoint's {own.z_channels}")
    if found.factor != own.factor:
        raise _no_vae(name, "it makes pictures of another size")
    return found


def _no_vae(name: str, reason: str) -> CheckpointError:
    return CheckpointError(f"{name} is no VAE for this checkpoint: {reason}", hint="choose another one", field="vae")


def _refusal(name: str, shapes: Shapes) -> str:
    """What a file is that cannot be run, in a sentence; empty where it can."""
    try:
        _supported(name, shapes)
    except CheckpointError as error:
        return str(error)
    return ""


def _supported(name: str, shapes: Shapes) -> Family:
    """The family of a file; raises a `CheckpointError` that says what the file is if it cannot be run."""
    family = family_of(shapes)
    if family and family.supported:
        if FIRST_CONV not in shapes or _variant(shapes) is not None:
            return family
        what = f"a model whose UNet has {shapes[FIRST_CONV][1]} input channels, which is not supported"
    elif family:
        what = f"of the family {family.label}, which is not supported"
    elif any(key.startswith(("lora_unet_", "lora_te")) for key in shapes):
        what = "a LoRA, which belongs in the Lora folder"
    elif any(key.startswith(("decoder.", f"{VAE}decoder.")) for key in shapes):
        what = "only an autoencoder, which belongs in the VAE folder"
    elif any(key.endswith("token_embedding.weight") for key in shapes):
        what = "only a text encoder, which belongs in models/text_encoder"
    elif any(key.startswith(("control_model.", "controlnet_", "input_hint_block.")) for key in shapes):
        what = "a ControlNet, which belongs in models/ControlNet"
    elif any(".double_blocks." in f".{key}" or ".joint_blocks." in f".{key}" for key in shapes):
        what = "a transformer of the Flux or SD 3 family, which is not supported"
    else:
        what = "not a diffusion model"
    raise CheckpointError(f"{name} is {what}", hint="choose a checkpoint of SD 1.x, SD 2.x or SDXL", field="checkpoint")


def _merge(name: str, found: C, own: object) -> C:
    """Combine the family's defaults with what the file states; whatever tensor shapes determine must match on
    loading.
    """
    if not isinstance(own, Mapping):
        return found
    values = {field.name: getattr(found, field.name) for field in fields(found)}
    for key, value in own.items():
        given = tuple(value) if isinstance(value, list) else value
        if key in values and not _fits(key, given, values[key]):
            raise CheckpointError(f"{name} carries a configuration whose {key} cannot be used", field="checkpoint")
        if key in values:
            values[key] = given
    return type(found)(**values)


def _fits(key: str, given: object, known: object) -> bool:
    """Whether a stated value has the type and range of the default it replaces."""
    if key in ("layout", "middle_depth"):
        return given == known  # the tensors tell, and nobody else
    if key == "activation":
        return given in ACTIVATIONS
    if isinstance(known, tuple):
        return isinstance(given, tuple) and all(type(n) is int and 0 <= n <= MOST for n in given)
    return type(given) is type(known) and not (isinstance(given, int) and not 0 <= given <= MOST)


def _tail(error: BaseException) -> str:
    return str(error.args[0]) if isinstance(error, KeyError) and error.args else "a layer"
