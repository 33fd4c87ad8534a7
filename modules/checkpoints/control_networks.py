"""Loads ControlNets and their kin for a model that is loaded: strictly, by the names of their tensors."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from modules.checkpoints.control import (
    ADAPTER,
    CONTROLNET,
    IP_ADAPTER,
    LORA,
    UNION,
    VISION,
    ControlKind,
    open_control,
    vision_sizes,
)
from modules.checkpoints.families.base import FIRST_CONV, UNET, Shapes
from modules.checkpoints.families.shapes import middle_depth, way_down
from modules.checkpoints.memory import weight_bytes
from modules.checkpoints.model import LatentDiffusion, fill, opened, tensor_of
from modules.checkpoints.pickles import header_of
from modules.checkpoints.source import Origin, Source, open_source
from modules.devices import Device
from modules.errors import CheckpointError
from modules.nn.clip_vision import CLIPVision, VisionConfig
from modules.nn.configs import UNetConfig
from modules.nn.controlnet import ControlNet, ControlNetUnion
from modules.nn.ip_adapter import FULL, PLAIN, PLUS, IPAdapter, IPAdapterConfig
from modules.nn.t2i_adapter import AdapterConfig, LightAdapter, T2IAdapter
from modules.nn.unet import CrossAttention, TransformerBlock, UNet

MEANT_FOR: Mapping[int, str] = {768: "SD 1.x", 1024: "SD 2.x", 2048: "SDXL", 1: "SDXL"}
"""Families by the width of the texts that a network takes; 1: it takes none."""
FIELD = "extensions"
OF_FACES = ("is_faceid", "is_instantid", "is_pulid", "is_portrait")


@dataclass(frozen=True)
class Control:
    """A network that controls a UNet, on the model's device and in its numbers."""

    kind: ControlKind
    network: ControlNet | T2IAdapter | LightAdapter | IPAdapter
    nbytes: int

    @property
    def types(self) -> int:
        """How many kinds of pictures a union model knows; 0: it is none."""
        return len(self.network.task_embedding) if isinstance(self.network, ControlNetUnion) else 0

    @property
    def averages(self) -> bool:
        """Its answers are averaged over the picture (shuffle)."""
        return bool(self.kind.facts.get("global_average_pooling"))


def load_control(path: Path, model: LatentDiffusion) -> Control:
    """The network in ``path``, for ``model``. Raises `CheckpointError` with one sentence where it cannot be used."""
    kind, source = open_control(path)
    if kind.name in (CONTROLNET, UNION, LORA):
        network: ControlNet | T2IAdapter | LightAdapter | IPAdapter = _controlnet(path, kind, source, model)
    elif kind.name == ADAPTER:
        network = _adapter(path, kind, source, model)
    elif kind.name == IP_ADAPTER and not any(kind.facts.get(fact) for fact in OF_FACES):
        network = _ip_adapter(path, kind, source, model)
    else:
        raise CheckpointError(
            f"{path.name} is {kind.words}{' of faces' if kind.name == IP_ADAPTER else ''}, which is not supported",
            hint="choose a ControlNet, a T2I-Adapter or an IP-Adapter",
            field=FIELD,
        )
    return Control(kind, network, weight_bytes(network))


def _controlnet(path: Path, kind: ControlKind, source: Source, model: LatentDiffusion) -> ControlNet:
    shapes: Shapes = {UNET + key: info.shape for key, info in source.header.tensors.items()}
    unet = model.config.unet
    if kind.name == LORA:
        _check_width(path, kind, kind.facts["context_dim"], model)
        config = replace(unet, in_channels=4)
    else:
        _check_family(path, kind, shapes, model)
        config = _config(path, shapes, unet)
    with torch.device("meta"):
        types = kind.facts.get("union_controlnet_num_control_type", 0)
        network = ControlNetUnion(config, types) if types else ControlNet(config)
    over = kind.name == LORA or "difference" in source.header.tensors
    (_fill_over_model if over else _fill)(path, source, network, model)
    return network


def _check_family(path: Path, kind: ControlKind, shapes: Shapes, model: LatentDiffusion) -> None:
    """A network for another family fails with a sentence rather than with the name of a layer."""
    crossing = [key for key in shapes if key.endswith(".attn2.to_k.weight")]
    width = shapes[crossing[0]][1] if crossing else 0
    base = shapes.get(FIRST_CONV, (0,))[0]
    takes_vector = f"{UNET}label_emb.0.0.weight" in shapes
    unet = model.config.unet
    same = width in (0, unet.context_dim) and base == unet.model_channels and takes_vector == bool(unet.vector_dim)
    if not same:
        raise _for_another(path, kind, MEANT_FOR.get(kind.facts.get("context_dim", 0), "another family"), model)


def _check_width(path: Path, kind: ControlKind, width: int, model: LatentDiffusion) -> None:
    family = MEANT_FOR[width]
    theirs = {"sd1": "SD 1.x", "sd2": "SD 2.x", "sdxl": "SDXL"}.get(model.config.family.name, family)
    if theirs != family:
        raise _for_another(path, kind, family, model)


def _for_another(path: Path, kind: ControlKind, family: str, model: LatentDiffusion) -> CheckpointError:
    return CheckpointError(
        f"{path.name} is {kind.words} for {family}, and {model.name} is a model of {model.config.family.label}",
        hint="choose one of the same family",
        field=FIELD,
    )


def _config(path: Path, shapes: Shapes, unet: UNetConfig) -> UNetConfig:
    """The UNet's sizes with the depths of transformers that the file has: SDXL's have fewer or none."""
    try:
        _, down = way_down(shapes, unet.model_channels)
        own = replace(unet, in_channels=shapes[FIRST_CONV][1], input_depth=(), middle_depth=middle_depth(shapes))
    except (LookupError, ZeroDivisionError) as error:
        raise CheckpointError(f"{path.name} lacks layers", hint="fetch or copy it again", field=FIELD) from error
    return own if down == own.depths_down else replace(own, input_depth=down)


def _fitting(source: Source, network: nn.Module) -> Source:
    """``source`` with 1x1 convolutions and linear layers in the shape that the network has them."""
    own = {key: tuple(tensor.shape) for key, tensor in network.state_dict().items()}
    tensors = dict(source.header.tensors)
    for key, info in tensors.items():
        wanted = own.get(key, info.shape)
        if info.shape != wanted and info.shape[:2] == wanted[:2] and {*info.shape[2:], *wanted[2:]} == {1}:
            tensors[key] = replace(info, shape=wanted)
    return replace(source, header=replace(source.header, tensors=tensors))


def _fill(path: Path, source: Source, network: nn.Module, model: LatentDiffusion) -> None:
    source = _fitting(source, network)
    if model.residence:
        model.residence.make_room(sum(info.nbytes for info in source.header.tensors.values()))
    places = {key: ("control", key) for key in source.header.tensors}
    fill(path.name, source, places, {"control": network}, model.device, field=FIELD)


def _fill_over_model(path: Path, source: Source, network: ControlNet, model: LatentDiffusion) -> None:
    """Fill ``network`` from a file that tells how it differs from the model's own UNet: by low-rank products
    (Control-LoRA), or by sums."""
    source, base = _fitting(source, network), open_source(model.path)
    wanted, there = network.state_dict(), source.header.tensors
    shared = [key for key in wanted if UNET + key in base.header.tensors]
    adds = "difference" in there
    state: dict[str, Tensor] = {}
    with ExitStack() as files:
        own = opened(source, list(there), files)
        theirs = opened(base, [UNET + key for key in shared], files)
        for key, place in wanted.items():
            up, down = (key.removesuffix("weight") + part for part in ("up", "down"))
            value = tensor_of(base, UNET + key, theirs) if key in shared else None
            if key in there:
                stored = tensor_of(source, key, own)
                value = stored if value is None or not adds else value.float() + stored.float()
            elif up in there and down in there and value is not None:
                factors = [tensor_of(source, part, own).float().flatten(1) for part in (up, down)]
                value = value.float() + (factors[0] @ factors[1]).reshape(value.shape)
            if value is None or value.shape != place.shape:
                what = "lacks" if value is None else "has the wrong shape for"
                raise CheckpointError(f"{path.name} {what} {key}", hint="fetch or copy it again", field=FIELD)
            state[key] = model.device.weight(value)
    network.load_state_dict(state, strict=True, assign=True)
    network.requires_grad_(False).eval()


def _adapter(path: Path, kind: ControlKind, source: Source, model: LatentDiffusion) -> T2IAdapter | LightAdapter:
    shapes: Shapes = {key: info.shape for key, info in source.header.tensors.items()}
    is_sdxl = bool(kind.facts.get("is_sdxl"))
    unet = model.config.unet
    if is_sdxl != bool(unet.vector_dim):
        raise _for_another(path, kind, "SDXL" if is_sdxl else "SD 1.x and 2.x", model)
    halves = (False, False, True, False) if is_sdxl else (False, True, True, True)
    light = "conv_in.weight" not in shapes
    end = "out_conv.weight" if light else "block1.weight"
    blocks = kind.facts["nums_rb"]
    step = 1 if light else blocks
    channels = tuple(shapes[f"body.{i * step}.{end}"][0] for i in range(4) if f"body.{i * step}.{end}" in shapes)
    if len(channels) != len(halves) or channels[0] != unet.model_channels:
        raise _for_another(path, kind, "another family", model)
    config = AdapterConfig(
        kind.facts["cin"],
        channels,
        blocks,
        kind.facts.get("ksize", 1),
        halves,
        bool(kind.facts.get("use_conv")),
        16 if is_sdxl else 8,
    )
    with torch.device("meta"):
        network = LightAdapter(config) if light else T2IAdapter(config)
    _fill(path, source, network, model)
    return network


def cross_attentions(unet: UNet) -> list[CrossAttention]:
    """Those to the text, as an IP-Adapter's file numbers them: on the way down, on the way up, in the middle."""
    parts = (unet.input_blocks, unet.output_blocks, unet.middle_block)
    return [block.attn2 for part in parts for block in part.modules() if isinstance(block, TransformerBlock)]


def _ip_adapter(path: Path, kind: ControlKind, source: Source, model: LatentDiffusion) -> IPAdapter:
    shapes: Shapes = {key: info.shape for key, info in source.header.tensors.items()}
    numbers = sorted(int(key.split(".")[1]) for key in shapes if key.endswith(".to_k_ip.weight"))
    stored = [shapes[f"ip_adapter.{number}.to_k_ip.weight"] for number in numbers]
    widths = tuple(layer.to_q.in_features for layer in cross_attentions(model.unet))
    context = stored[0][1] if stored else 0
    if tuple(shape[0] for shape in stored) != widths or context != model.config.unet.context_dim:
        raise _for_another(path, kind, MEANT_FOR.get(context, "another family"), model)
    try:
        config = _ip_config(kind, shapes, context, widths)
    except (LookupError, ValueError) as error:
        raise CheckpointError(f"{path.name} lacks layers", hint="fetch or copy it again", field=FIELD) from error
    with torch.device("meta"):
        network = IPAdapter(config)
    _fill(path, source, network, model)
    return network


def _ip_config(kind: ControlKind, shapes: Shapes, context: int, widths: tuple[int, ...]) -> IPAdapterConfig:
    if kind.facts.get("is_full"):
        return IPAdapterConfig(FULL, shapes["image_proj.proj.0.weight"][1], context, widths)
    if kind.facts.get("is_plus"):
        _, tokens, inner = shapes["image_proj.latents"]
        depth = sum(key.endswith(".0.to_q.weight") for key in shapes)
        attention = shapes["image_proj.layers.0.0.to_q.weight"][0]
        image = shapes["image_proj.proj_in.weight"][1]
        return IPAdapterConfig(PLUS, image, context, widths, tokens, inner, depth, attention)
    out, image = shapes["image_proj.proj.weight"]
    return IPAdapterConfig(PLAIN, image, context, widths, out // context)


def clip_vision_for(network: IPAdapter, files: Iterable[Path], device: Device) -> tuple[CLIPVision, Path]:
    """The first of ``files`` through which an IP-Adapter was trained to see. Raises `CheckpointError`."""
    wanted, states = network.config.image_width, network.config.takes_states
    for path in files:
        sizes = vision_sizes(path)
        if sizes and wanted == (sizes.width if states else sizes.projection):
            return _vision(path, device), path
    raise CheckpointError(
        f"there is no CLIP vision model in models/clip_vision that gives {wanted} numbers for a picture",
        hint="put the image encoder of the IP-Adapter there",
        field=FIELD,
    )


def _vision(path: Path, device: Device) -> CLIPVision:
    header = header_of(path, field=FIELD)
    shapes = {key: info.shape for key, info in header.tensors.items()}
    try:
        width, _, patch, _ = shapes[f"{VISION}embeddings.patch_embedding.weight"]
        positions = shapes[f"{VISION}embeddings.position_embedding.weight"][0]
        projection = shapes["visual_projection.weight"][0]
        inner = shapes[f"{VISION}encoder.layers.0.mlp.fc1.weight"][0]
    except (LookupError, ValueError) as error:
        raise CheckpointError(f"{path.name} lacks layers", hint="fetch or copy it again", field=FIELD) from error
    layers = sum(key.startswith(f"{VISION}encoder.layers.") and key.endswith(".layer_norm1.weight") for key in shapes)
    heads = _LARGE_HEADS if width >= _LARGE else max(width // 64, 1)
    # OpenAI's own models have another activation than those of LAION.
    activation = "quick_gelu" if projection in _OPENAI else "gelu"
    side = round((positions - 1) ** 0.5) * patch
    with torch.device("meta"):
        network = CLIPVision(VisionConfig(width, layers, heads, inner, patch, side, projection, activation))
    own = network.state_dict()
    places = {key: ("vision", key) for key in header.tensors if key in own}
    source = Source(header, {key: Origin(((path, key),)) for key in header.tensors})
    fill(path.name, source, places, {"vision": network}, device, field=FIELD)
    return network


_LARGE, _LARGE_HEADS = 1024, 16
_OPENAI = (512, 768)
"""Widths of the projections of OpenAI's models."""
