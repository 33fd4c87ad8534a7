"""Strengths of a UNet's blocks, ``lbw=1,0.5,...`` in a tag, in the order of the block-weight extension for A1111.

17 numbers (SD1's blocks with attention; 12 for SDXL) or 26 (all of them; 20 for SDXL): BASE for the text encoders,
IN, M00 and OUT. Names stand for lists of their own: ``lbw=ALL``, ``NONE``, ``INALL``, ``MIDALL``, ``OUTALL``.

>>> factor = factors("1,0,0,0,0,0,0,1,1,1,1,1,1,1,1,1,1")
>>> factor("lora_unet_down_blocks_0_attentions_0_proj_in"), factor("lora_unet_mid_block_attentions_0_proj_in")
(0.0, 1.0)
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable

from modules.checkpoints.networks.keys import candidates, is_text

_INS, _OUTS = [f"IN{n:02}" for n in range(12)], [f"OUT{n:02}" for n in range(12)]
_ALL = ["BASE", *_INS, "M00", *_OUTS]
_SD1 = ["BASE", *(_INS[n] for n in (1, 2, 4, 5, 7, 8)), "M00", *_OUTS[3:]]
_XL_ALL = ["BASE", *_INS[:9], "M00", *_OUTS[:9]]
_XL = ["BASE", *(_INS[n] for n in (4, 5, 7, 8)), "M00", *_OUTS[:6]]
_ORDERS = {len(order): order for order in (_SD1, _ALL, _XL, _XL_ALL)}
_BLOCK = re.compile(r"(?:diffusion_model_)?(input|middle|output)_block(?:s_(\d+))?_")
_PREFIXES = {"ALL": "", "INALL": "IN", "MIDALL": "M", "OUTALL": "OUT"}


def factors(text: str) -> Callable[[str], float]:
    """By kohya's name of a layer the part of its strength. Raises `ValueError` where the text is no such list."""
    name = text.strip().upper()
    if not name:
        return lambda layer: 1.0
    if name in ("NONE", *_PREFIXES):
        begin = _PREFIXES.get(name)
        own = {block: float(begin is not None and block.startswith(begin)) for block in _ALL}
        own["BASE"] = float(name != "NONE")
    else:
        numbers = [number(one) for one in text.split(",")]
        if len(numbers) not in _ORDERS:
            counts = ", ".join(str(count) for count in sorted(_ORDERS))
            raise ValueError(f"strengths of blocks are {counts} numbers, not {len(numbers)}")
        own = dict(zip(_ORDERS[len(numbers)], numbers, strict=True))
    return lambda layer: own.get(block_of(layer), own["BASE"] if is_text(layer) else 1.0)


def block_of(layer: str) -> str:
    """
    >>> block_of("lora_unet_up_blocks_1_attentions_2_proj_in"), block_of("lora_te_text_model_encoder_layers_0_mlp_fc1")
    ('OUT05', 'BASE')
    """
    if is_text(layer):
        return "BASE"
    match = next((match for name in candidates(layer) if (match := _BLOCK.match(name))), None)
    if match is None:
        return ""
    side, number = match.groups()
    return "M00" if side == "middle" else f"{'IN' if side == 'input' else 'OUT'}{int(number):02}"


def number(text: str) -> float:
    """A finite number, blanks around it allowed. Raises `ValueError`."""
    try:
        value = float(text)
    except ValueError:
        raise ValueError(f"{text[:40]!r} is not a number") from None
    if not math.isfinite(value):
        raise ValueError(f"{text.strip()} is not a strength")
    return value
