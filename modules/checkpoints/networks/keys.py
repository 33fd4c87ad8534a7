"""Names of the layers in network files, in every spelling that trainers use, as names of the layers of a checkpoint.

A key is a layer and a part of its weights: ``lora_unet_mid_block_attentions_0_proj_in.lora_up.weight``. kohya writes
the layer with ``_`` for every point, diffusers and PEFT leave the points, and either calls the blocks of a UNet as
diffusers or as ldm does.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from functools import partial

UNET, TEXT, TEXT_1, TEXT_2 = "lora_unet_", "lora_te_", "lora_te1_", "lora_te2_"
BUNDLED = "bundle_emb."
"""Begins the key of an embedding that comes with a network: ``bundle_emb.NAME.string_to_param.*``."""
_UNDERSCORED = (UNET, TEXT, TEXT_1, TEXT_2, "lora_transformer_", "oft_unet_", "oft_te_", "lycoris_")
_DOTTED = {
    "text_encoders.clip_l.transformer.": TEXT_1,
    "text_encoders.clip_g.transformer.": TEXT_2,
    "text_encoders.clip_l.": TEXT_1,
    "text_encoders.clip_g.": TEXT_2,
    "model.diffusion_model.": UNET,
    "diffusion_model.": UNET,
    "text_encoder_2.": TEXT_2,
    "text_encoder.": TEXT,
    "unet.": UNET,
    "transformer.": "lora_transformer_",
    "": UNET,
}
"""How layers with points begin, and how kohya begins the same; the first that fits holds."""
_FIRST_PART = re.compile(
    r"lora(_up|_down|_mid|_A|_B|_magnitude_vector|_linear_layer)?|alpha|scale|dora_scale|hada_(w[12]_[ab]|t[12])"
    r"|lokr_(w[12](_[ab])?|t2)|oft_blocks|oft_diag|rescale|diff(_b)?|[wb]_norm|on_input|ia3_l|[ab][12]"
    r"|bias_(indices|values|size)"
)
_PARTS: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern), part)
    for pattern, part in (
        (r"lora_A(\.\w+)?\.(weight|bias)", r"lora_down.\2"),
        (r"lora_B(\.\w+)?\.(weight|bias)", r"lora_up.\2"),
        (r"lora(?:_linear_layer)?\.(up|down|mid)\.(weight|bias)", r"lora_\1.\2"),
        (r"lora_magnitude_vector(?:\.\w+)*", "magnitude"),
        (r"ia3_l(?:\.\w+)*", "ia3_l"),
        (r"((?:hada|lokr)_\w+)\.\w+", r"\1"),
    )
)


def split(key: str) -> tuple[str, str]:
    """The layer as kohya calls it, and the part.

    >>> split("lora_unet_mid_block_attentions_0_proj_in.lora_up.weight")
    ('lora_unet_mid_block_attentions_0_proj_in', 'lora_up.weight')
    >>> split("unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_out.0.lora_A.weight")
    ('lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_out_0', 'lora_down.weight')
    >>> split("unet.mid_block.attentions.0.transformer_blocks.0.attn1.processor.to_out_lora.down.weight")
    ('lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_out_0', 'lora_down.weight')
    """
    key = key.removeprefix("base_model.model.")
    if key.startswith(_UNDERSCORED):
        layer, _, part = key.partition(".")
        return _kohya(layer), part_name(part)
    for prefix, kohya in _DOTTED.items():
        if key.startswith(prefix):
            path, part = _dotted(key.removeprefix(prefix).split("."))
            return kohya + "_".join(path), part_name(part)
    raise AssertionError("the empty prefix fits every key")


def part_name(part: str) -> str:
    """A part under kohya's name, where PEFT or diffusers have another.

    >>> part_name("lora_B.default.weight"), part_name("lora_linear_layer.up.weight"), part_name("hada_w1_a")
    ('lora_up.weight', 'lora_up.weight', 'hada_w1_a')
    """
    for pattern, name in _PARTS:
        if match := pattern.fullmatch(part):
            return match.expand(name)
    return part


def _kohya(layer: str) -> str:
    for other, prefix in (("oft_unet_", UNET), ("oft_te_", TEXT), ("lycoris_", UNET)):
        if layer.startswith(other):
            return prefix + layer.removeprefix(other)
    return layer


def _dotted(words: list[str]) -> tuple[list[str], str]:
    """The path of a layer and its part, which begins at the first word that no layer has."""
    for i, word in enumerate(words):
        if _FIRST_PART.fullmatch(word):
            return words[:i], ".".join(words[i:])
        if word.endswith("_lora"):  # attention processors of the first diffusers
            layer = word.removesuffix("_lora")
            path = [*(w for w in words[:i] if w != "processor"), "to_out.0" if layer == "to_out" else layer]
            return ".".join(path).split("."), ".".join(["lora", *words[i + 1 :]])
    return words[:-1], words[-1]


# --------------------------------------------------------------------------------------------- diffusers to ldm

_RESNETS = {
    "conv1": "in_layers_2",
    "conv2": "out_layers_3",
    "norm1": "in_layers_0",
    "norm2": "out_layers_0",
    "time_emb_proj": "emb_layers_1",
    "conv_shortcut": "skip_connection",
}
_OPEN_CLIP = (("mlp_fc1", "mlp_c_fc"), ("mlp_fc2", "mlp_c_proj"), ("self_attn", "attn"))


def _inner(kind: str, rest: str) -> str:
    return _RESNETS.get(rest, rest) if kind == "resnets" else rest


def _down(m: re.Match[str]) -> str:
    return f"input_blocks_{1 + 3 * int(m[1]) + int(m[3])}_{int(m[2] == 'attentions')}_{_inner(m[2], m[4])}"


def _middle(m: re.Match[str]) -> str:
    return f"middle_block_{1 if m[1] == 'attentions' else 2 * int(m[2])}_{_inner(m[1], m[3])}"


def _up(m: re.Match[str]) -> str:
    return f"output_blocks_{3 * int(m[1]) + int(m[3])}_{int(m[2] == 'attentions')}_{_inner(m[2], m[4])}"


def _time(m: re.Match[str]) -> str:
    return f"time_embed_{2 * int(m[1]) - 2}{m[2]}"


def _downsample(m: re.Match[str]) -> str:
    return f"input_blocks_{3 + 3 * int(m[1])}_0_op"


def _upsample(m: re.Match[str]) -> str:
    return f"output_blocks_{2 + 3 * int(m[1])}_{2 if int(m[1]) else 1}_conv"


_BLOCKS: tuple[tuple[re.Pattern[str], Callable[[re.Match[str]], str]], ...] = tuple(
    (re.compile(f"{UNET}{pattern}"), name)
    for pattern, name in (
        (r"conv_in(.*)", lambda m: f"input_blocks_0_0{m[1]}"),
        (r"conv_out(.*)", lambda m: f"out_2{m[1]}"),
        (r"time_embedding_linear_(\d+)(.*)", _time),
        (r"down_blocks_(\d+)_(attentions|resnets)_(\d+)_(.+)", _down),
        (r"mid_block_(attentions|resnets)_(\d+)_(.+)", _middle),
        (r"up_blocks_(\d+)_(attentions|resnets)_(\d+)_(.+)", _up),
        (r"down_blocks_(\d+)_downsamplers_0_conv", _downsample),
        (r"up_blocks_(\d+)_upsamplers_0_conv", _upsample),
    )
)
_LAYER = re.compile(r"(lora_te2?)_text_model_encoder_layers_(\d+)_(.+)")


def ldm_name(layer: str, *, sd2: bool = False) -> str:
    """A layer's name as A1111 gives it to the layers of its models; one that it does not know stays as it is.

    >>> ldm_name("lora_unet_up_blocks_1_upsamplers_0_conv")
    'diffusion_model_output_blocks_5_2_conv'
    >>> ldm_name("lora_te_text_model_encoder_layers_3_mlp_fc1", sd2=True)
    'model_transformer_resblocks_3_mlp_c_fc'
    """
    for pattern, name in _BLOCKS:
        if match := pattern.fullmatch(layer):
            return f"diffusion_model_{name(match)}"
    if match := _LAYER.fullmatch(layer):
        encoder, number, rest = match.groups()
        if encoder == "lora_te2":
            return f"1_{open_clip_name(int(number), rest)}"
        return open_clip_name(int(number), rest) if sd2 else f"transformer_text_model_encoder_layers_{number}_{rest}"
    return layer


def open_clip_name(number: int, rest: str) -> str:
    """A layer of a text encoder of transformers under open_clip's name."""
    for theirs, own in _OPEN_CLIP:
        rest = rest.replace(theirs, own)
    return f"model_transformer_resblocks_{number}_{rest}"


def candidates(layer: str, *, sd2: bool = False) -> Iterator[str]:
    """The names under which a model may have a layer, the likeliest first."""
    yield (name := ldm_name(layer, sd2=sd2))
    if name.startswith("diffusion_model_output_blocks_2_1_conv"):
        yield name.replace("blocks_2_1", "blocks_2_2")  # SDXL has attention before its first upsampling
    swap = partial(_swapped, layer)
    yield from swap(UNET, "diffusion_model_")
    for prefix in (TEXT_1, TEXT):
        yield from swap(f"{prefix}text_model_", "0_transformer_text_model_", "transformer_text_model_")
    yield from swap(TEXT, "")
    yield from swap(TEXT_2, "1_")


def _swapped(layer: str, prefix: str, *others: str) -> Iterator[str]:
    if layer.startswith(prefix):
        yield from (other + layer.removeprefix(prefix) for other in others)


_OF_STABLE_DIFFUSION = re.compile(
    r"diffusion_model_(input_blocks|middle_block|output_blocks|time_embed|label_emb|out)_.+"
    r"|([01]_)?(transformer_text_model|model)_.+"
)


def may_have_place(layer: str) -> bool:
    """Whether some model of SD 1.x, SD 2.x or SDXL may have a layer.

    >>> [may_have_place(f"lora_{layer}") for layer in ("unet_mid_block_attentions_0_proj_in", "unet_blocks_0_ffn_0")]
    [True, False]
    """
    return any(_OF_STABLE_DIFFUSION.fullmatch(name) for name in candidates(layer))


# -------------------------------------------------------------------------------------------- kinds by their parts


def _every(prefix: str, *names: str) -> tuple[str, ...]:
    return tuple(prefix + name for name in names)


_LOKR = [(f"lokr_w{n}",) for n in (1, 2)], [_every(f"lokr_w{n}_", "a", "b") for n in (1, 2)]
SIGNS: Mapping[str, tuple[tuple[str, ...], ...]] = {
    "LoRA": (("lora_up.weight", "lora_down.weight"),),
    "LoHa": (_every("hada_", "w1_a", "w1_b", "w2_a", "w2_b"),),
    "(IA)3": (("weight", "on_input"), ("ia3_l",)),
    "LoKr": tuple(one[0] + two[1] for one in _LOKR for two in _LOKR),
    "full": (("diff",),),
    "norm": (("w_norm",),),
    "GLoRA": (("a1.weight", "a2.weight", "b1.weight", "b2.weight"),),
    "OFT": (("oft_blocks",), ("oft_diag",)),
    "bias": (("diff_b",), ("b_norm",)),
}
"""A layer is of the first kind of which all parts of one of these are there."""


def kind_of(parts: Container[str]) -> str:
    """The kind of a layer with these parts; empty: none that is known.

    >>> kind_of({"lokr_w1", "lokr_w2_a", "lokr_w2_b", "alpha"}), kind_of({"lora_up.weight"})
    ('LoKr', '')
    """
    for name, signs in SIGNS.items():
        if any(all(part in parts for part in sign) for sign in signs):
            return name
    return ""


def layers_of(keys: Iterable[str]) -> dict[str, set[str]]:
    """The parts of each layer, without embeddings that come along."""
    layers: dict[str, set[str]] = defaultdict(set)
    for key in keys:
        if not key.startswith(BUNDLED):
            layer, part = split(key)
            layers[layer].add(part)
    return dict(layers)


def is_text(layer: str) -> bool:
    """Whether a layer is a text encoder's: then the first of a tag's strengths counts."""
    return layer.startswith((TEXT, TEXT_1, TEXT_2))
