"""Other programs' names of tensors as ldm's. No torch: names in, names out.

diffusers numbers its blocks level by level, ldm one after another; transformers keeps queries, keys and values apart,
open_clip in one matrix.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from modules.checkpoints.families.base import UNET, VAE

Pieces = Mapping[str, tuple[str, ...]]
"""ldm's name -> the tensors that are laid one below the other to make it."""
_RESNET = {
    "conv1": "in_layers.2",
    "conv2": "out_layers.3",
    "norm1": "in_layers.0",
    "norm2": "out_layers.0",
    "time_emb_proj": "emb_layers.1",
    "conv_shortcut": "skip_connection",
}
_UNET_ENDS = {
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
}
_VAE_ATTENTION = {
    "group_norm": "norm",
    "to_q": "q",
    "query": "q",
    "to_k": "k",
    "key": "k",
    "to_v": "v",
    "value": "v",
    "to_out.0": "proj_out",
    "proj_attn": "proj_out",
}
_BARE = ("input_blocks.", "middle_block.", "output_blocks.", "time_embed.", "label_emb.", "out.")
_UNET_PREFIXES = ("model.model.", "diffusion_model.", "net.")
"""What other programs put before the names of a UNet's tensors."""


@dataclass(frozen=True)
class _Blocks:
    """What numbers alone do not tell of a diffusers UNet."""

    per_level: int
    with_attention: Collection[int]
    """The levels on the way up that have attention."""


def unet_names(keys: Collection[str]) -> dict[str, str]:
    """diffusers' names of a UNet's tensors -> ldm's, without prefix. What ldm has no place for is left out.

    >>> keys = ["conv_in.bias", "down_blocks.0.resnets.0.norm1.bias", "down_blocks.0.resnets.1.norm1.bias"]
    >>> unet_names(keys)["down_blocks.0.resnets.1.norm1.bias"]
    'input_blocks.2.0.in_layers.0.bias'
    """
    firsts = [int(found[1]) for key in keys if (found := re.match(r"down_blocks\.0\.resnets\.(\d+)\.", key))]
    up = {int(found[1]) for key in keys if (found := re.match(r"up_blocks\.(\d+)\.attentions\.", key))}
    blocks = _Blocks(max(firsts, default=0) + 1, up)
    return {key: name for key in keys if (name := _unet_name(key, blocks))}


def _unet_name(key: str, blocks: _Blocks) -> str:
    module, _, kind = key.rpartition(".")
    if module in _UNET_ENDS:
        return f"{_UNET_ENDS[module]}.{kind}"
    if found := re.match(r"(down|up)_blocks\.(\d+)\.(resnets|attentions)\.(\d+)\.(.+)$", key):
        way, level, what, i = found[1], int(found[2]), found[3], int(found[4])
        number = (blocks.per_level + 1) * level + i + (way == "down")
        return f"{'input' if way == 'down' else 'output'}_blocks.{number}.{_inside(what, found[5])}"
    if found := re.match(r"mid_block\.(resnets|attentions)\.(\d+)\.(.+)$", key):
        number = 2 * int(found[2]) + (found[1] == "attentions")
        return f"middle_block.{number}.{_inside(found[1], found[3]).partition('.')[2]}"
    if found := re.match(r"down_blocks\.(\d+)\.downsamplers\.0\.conv\.(.+)$", key):
        return f"input_blocks.{(blocks.per_level + 1) * (int(found[1]) + 1)}.0.op.{found[2]}"
    if found := re.match(r"up_blocks\.(\d+)\.upsamplers\.0\.conv\.(.+)$", key):
        level = int(found[1])
        number = (blocks.per_level + 1) * level + blocks.per_level
        return f"output_blocks.{number}.{2 if level in blocks.with_attention else 1}.conv.{found[2]}"
    return ""


def _inside(what: str, rest: str) -> str:
    """Behind a block's number: 0 is its residual part, 1 its transformer."""
    if what == "attentions":
        return f"1.{rest}"
    module, _, kind = rest.rpartition(".")
    return f"0.{_RESNET.get(module, module)}.{kind}"


def vae_names(keys: Collection[str]) -> dict[str, str]:
    """The same for an autoencoder.

    >>> vae_names(["decoder.up_blocks.1.resnets.0.conv_shortcut.bias"])
    {'decoder.up_blocks.1.resnets.0.conv_shortcut.bias': 'decoder.up.0.block.0.nin_shortcut.bias'}
    """
    levels = [int(found[1]) for key in keys if (found := re.match(r"decoder\.up_blocks\.(\d+)\.", key))]
    return {key: _vae_name(key, max(levels, default=0)) for key in keys}


def _vae_name(key: str, last: int) -> str:
    key = key.replace("conv_norm_out", "norm_out").replace("conv_shortcut", "nin_shortcut")
    key = re.sub(r"up_blocks\.(\d+)\.", lambda found: f"up.{last - int(found[1])}.", key)
    key = re.sub(r"down_blocks\.(\d+)\.", r"down.\1.", key)
    key = re.sub(r"(down|up)samplers\.0\.", r"\1sample.", key)
    key = re.sub(r"mid_block\.resnets\.(\d+)\.", lambda found: f"mid.block_{int(found[1]) + 1}.", key)
    if found := re.match(r"(.*)mid_block\.attentions\.0\.(.+)\.(weight|bias)$", key):
        return f"{found[1]}mid.attn_1.{_VAE_ATTENTION.get(found[2], found[2])}.{found[3]}"
    return key.replace(".resnets.", ".block.")


_TEXT_ENDS = {
    "embeddings.token_embedding.weight": "token_embedding.weight",
    "embeddings.position_embedding.weight": "positional_embedding",
    "final_layer_norm.weight": "ln_final.weight",
    "final_layer_norm.bias": "ln_final.bias",
}
_TEXT_LAYER = {
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
    "self_attn.out_proj": "attn.out_proj",
}


def open_clip_pieces(keys: Collection[str]) -> Pieces:
    """transformers' names of a text encoder's tensors as open_clip's; queries, keys and values become one tensor.

    ``text_projection.weight`` keeps its name but for the ending: open_clip's matrix is the transposed one.
    """
    pieces: dict[str, tuple[str, ...]] = {}
    for key in keys:
        name = key.removeprefix("text_model.")
        if key == "text_projection.weight":
            pieces["text_projection"] = (key,)
        elif name in _TEXT_ENDS:
            pieces[_TEXT_ENDS[name]] = (key,)
        elif found := re.match(r"encoder\.layers\.(\d+)\.(.+)\.(weight|bias)$", name):
            block = f"transformer.resblocks.{found[1]}."
            if found[2] in _TEXT_LAYER:
                pieces[f"{block}{_TEXT_LAYER[found[2]]}.{found[3]}"] = (key,)
            elif found[2] == "self_attn.q_proj":
                three = (key.replace("q_proj", f"{letter}_proj") for letter in "qkv")
                pieces[f"{block}attn.in_proj_{found[3]}"] = tuple(three)
    return pieces


def file_names(keys: Collection[str]) -> dict[str, str]:
    """The names in one file -> ldm's, where another program wrote it; those that are ldm's stay.

    >>> file_names(["diffusion_model.input_blocks.0.0.bias"])
    {'diffusion_model.input_blocks.0.0.bias': 'model.diffusion_model.input_blocks.0.0.bias'}
    """
    if any(key.startswith(UNET) for key in keys):
        return {key: _vae_of_comfy(key) for key in keys}
    if any(key.startswith(_EMA) for key in keys):
        return {key: UNET + own if (own := ema_name(key)) else key for key in keys}
    if any(key.startswith("encoder.down_blocks.") for key in keys):
        return vae_names(keys)
    if any(key.startswith("down_blocks.0.resnets.") for key in keys):
        known = unet_names(keys)
        return {key: UNET + known[key] if key in known else key for key in keys}
    prefix = next((p for p in _UNET_PREFIXES if any(key.startswith(p + "input_blocks.") for key in keys)), "")
    found = {}
    for key in keys:
        own = key.removeprefix(prefix)
        is_unet = key.startswith(prefix) if prefix else "input_blocks.0.0.weight" in keys and key.startswith(_BARE)
        found[key] = UNET + own if is_unet else key
    return found


_EMA = "model_ema.diffusion_model"
_EMA_BLOCK = re.compile(r"(input_blocks|output_blocks)(\d+)(\d)|(middle_block|time_embed|out)(\d)|(label_emb)(\d)(\d)")
_EMA_LAYER = re.compile(
    r"in_layers|out_layers|emb_layers|skip_connection|transformer_blocks|attn[12]|to_out|to_[qkv]|ff|net"
    r"|proj_in|proj_out|proj|norm[123]?|op|conv|weight|bias|\d+"
)


def ema_name(key: str) -> str:
    """The UNet's name for a tensor of averaged weights, whose names ldm writes without dots; empty for others.

    >>> ema_name("model_ema.diffusion_modelinput_blocks101transformer_blocks0attn2to_out0bias")
    'input_blocks.10.1.transformer_blocks.0.attn2.to_out.0.bias'
    """
    own = key.removeprefix(_EMA)
    block = _EMA_BLOCK.match(own) if key.startswith(_EMA) else None
    if block is None:
        return ""
    rest = own[block.end() :]
    layers = _EMA_LAYER.findall(rest)
    return ".".join([*filter(None, block.groups()), *layers]) if "".join(layers) == rest else ""


def _vae_of_comfy(key: str) -> str:
    """ComfyUI's name of an autoencoder's tensor beside a UNet as ldm's."""
    return (
        VAE + key.removeprefix("vae.")
        if key.startswith(("vae.encoder.", "vae.decoder.", "vae.quant", "vae.post_"))
        else key
    )


def diffusers_vae_pieces(keys: Collection[str]) -> Pieces:
    """An autoencoder's tensors under ldm's names with their prefix."""
    return {VAE + name: (key,) for key, name in vae_names(keys).items()}


_CONTROLNET_ENDS = {
    "controlnet_mid_block": "middle_block_out.0",
    "controlnet_cond_embedding.conv_in": "input_hint_block.0",
    "controlnet_cond_embedding.conv_out": "input_hint_block.14",
}


def controlnet_names(keys: Collection[str]) -> dict[str, str]:
    """diffusers' names of a ControlNet's tensors -> its author's; those that are neither's stay.

    >>> controlnet_names(["controlnet_down_blocks.3.bias", "down_blocks.1.resnets.0.norm1.bias", "task_embedding"])
    ... # doctest: +NORMALIZE_WHITESPACE
    {'controlnet_down_blocks.3.bias': 'zero_convs.3.0.bias',
     'down_blocks.1.resnets.0.norm1.bias': 'input_blocks.4.0.in_layers.0.bias',
     'task_embedding': 'task_embedding'}
    """
    return {key: _controlnet_name(key) for key in keys}


def _controlnet_name(key: str) -> str:
    module, _, kind = key.rpartition(".")
    if module in _CONTROLNET_ENDS:
        return f"{_CONTROLNET_ENDS[module]}.{kind}"
    if found := re.fullmatch(r"controlnet_down_blocks\.(\d+)\.(.+)", key):
        return f"zero_convs.{found[1]}.0.{found[2]}"
    if found := re.fullmatch(r"controlnet_cond_embedding\.blocks\.(\d+)\.(.+)", key):
        return f"input_hint_block.{2 * int(found[1]) + 2}.{found[2]}"
    return _unet_name(key, _Blocks(2, ())) or key
