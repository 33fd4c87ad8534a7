"""The engine of Reprise. What `__all__` names is public: extensions may rely on it, the rest may change.

A name is looked up when it is asked for, so that importing this package costs nothing and never loads torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from modules.checkpoints.model import LatentDiffusion as LatentDiffusion
    from modules.diffusion.types import Cond as Cond
    from modules.diffusion.types import Denoiser as Denoiser
    from modules.diffusion.types import Guidance as Guidance
    from modules.diffusion.types import Network as Network
    from modules.diffusion.types import Noise as Noise
    from modules.diffusion.types import OnStep as OnStep
    from modules.diffusion.types import SamplerSpec as SamplerSpec
    from modules.diffusion.types import SchedulerSpec as SchedulerSpec
    from modules.errors import Cancelled as Cancelled
    from modules.errors import RepriseError as RepriseError
    from modules.errors import UserError as UserError
    from modules.extension import Host as Host
    from modules.extension import RouteSpec as RouteSpec
    from modules.extension import TabSpec as TabSpec
    from modules.extension import TagSpec as TagSpec
    from modules.modifier import Modifier as Modifier
    from modules.modifier import ModifierSpec as ModifierSpec
    from modules.options import option as option
    from modules.params import GenerationParams as GenerationParams
    from modules.params import Hires as Hires
    from modules.params import Init as Init
    from modules.params import Mask as Mask
    from modules.params import Refiner as Refiner
    from modules.prompt.tree import NetworkTag as NetworkTag
    from modules.script import NO_AXIS as NO_AXIS
    from modules.script import ORDER_AXIS as ORDER_AXIS
    from modules.script import SEARCH_AXIS as SEARCH_AXIS
    from modules.script import Answer as Answer
    from modules.script import Axis as Axis
    from modules.script import Made as Made
    from modules.script import ScriptContext as ScriptContext
    from modules.script import ScriptSpec as ScriptSpec
    from modules.script import Sheet as Sheet
    from modules.script import Steps as Steps
    from modules.script import Turn as Turn
    from modules.upscale import UpscalerSpec as UpscalerSpec

_HOMES = {
    "Answer": "modules.script",
    "Axis": "modules.script",
    "Cancelled": "modules.errors",
    "Cond": "modules.diffusion.types",
    "Denoiser": "modules.diffusion.types",
    "GenerationParams": "modules.params",
    "Guidance": "modules.diffusion.types",
    "Hires": "modules.params",
    "Host": "modules.extension",
    "Init": "modules.params",
    "LatentDiffusion": "modules.checkpoints.model",
    "Made": "modules.script",
    "Mask": "modules.params",
    "Modifier": "modules.modifier",
    "ModifierSpec": "modules.modifier",
    "NO_AXIS": "modules.script",
    "Network": "modules.diffusion.types",
    "NetworkTag": "modules.prompt.tree",
    "Noise": "modules.diffusion.types",
    "ORDER_AXIS": "modules.script",
    "OnStep": "modules.diffusion.types",
    "Refiner": "modules.params",
    "RepriseError": "modules.errors",
    "RouteSpec": "modules.extension",
    "SEARCH_AXIS": "modules.script",
    "SamplerSpec": "modules.diffusion.types",
    "SchedulerSpec": "modules.diffusion.types",
    "ScriptContext": "modules.script",
    "ScriptSpec": "modules.script",
    "Sheet": "modules.script",
    "Steps": "modules.script",
    "TabSpec": "modules.extension",
    "TagSpec": "modules.extension",
    "Turn": "modules.script",
    "UpscalerSpec": "modules.upscale",
    "UserError": "modules.errors",
    "option": "modules.options",
}
"""Where each public name is at home. ``LatentDiffusion`` alone loads torch: name it for type checkers only."""

__all__ = [
    "NO_AXIS",
    "ORDER_AXIS",
    "SEARCH_AXIS",
    "Answer",
    "Axis",
    "Cancelled",
    "Cond",
    "Denoiser",
    "GenerationParams",
    "Guidance",
    "Hires",
    "Host",
    "Init",
    "LatentDiffusion",
    "Made",
    "Mask",
    "Modifier",
    "ModifierSpec",
    "Network",
    "NetworkTag",
    "Noise",
    "OnStep",
    "Refiner",
    "RepriseError",
    "RouteSpec",
    "SamplerSpec",
    "SchedulerSpec",
    "ScriptContext",
    "ScriptSpec",
    "Sheet",
    "Steps",
    "TabSpec",
    "TagSpec",
    "Turn",
    "UpscalerSpec",
    "UserError",
    "option",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'modules' has no public name {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
