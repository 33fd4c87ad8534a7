"""What an extension sees: the tables of a `Host`. Built-in parts come in through the same door."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from modules.diffusion.types import SamplerSpec, SchedulerSpec
from modules.registry import Registry
from modules.script import ScriptSpec
from modules.upscale import UpscalerSpec

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True)
class TabSpec:
    """A tab of the page. ``build`` receives the front end's context and makes the tab's components."""

    name: str
    label: str
    build: Callable[[Any], None]


class FaceRestorer(Protocol):
    """``(image, weight) -> image`` of the same size, with faces made clearer; weight from 0 (most) to 1 (least)."""

    def __call__(self, image: Image, weight: float, /) -> Image: ...


class Host:
    """Filled once at start, then only read."""

    def __init__(self) -> None:
        self.samplers: Registry[SamplerSpec] = Registry("sampler")
        self.schedulers: Registry[SchedulerSpec] = Registry("schedule type", field="scheduler")
        self.upscalers: Registry[UpscalerSpec] = Registry("upscaler")
        self.face_restorers: Registry[FaceRestorer] = Registry("face restorer")
        self.tabs: Registry[TabSpec] = Registry("tab")
        self.scripts: Registry[ScriptSpec] = Registry("script")

    def add_sampler(self, spec: SamplerSpec) -> None:
        self.samplers.add(spec.name, spec, spec.aliases)

    def add_scheduler(self, spec: SchedulerSpec) -> None:
        self.schedulers.add(spec.label, spec, (spec.name, *spec.aliases))

    def add_upscaler(self, spec: UpscalerSpec) -> None:
        self.upscalers.add(spec.name, spec, spec.aliases)

    def add_face_restorer(self, name: str, restorer: FaceRestorer) -> None:
        self.face_restorers.add(name, restorer)

    def add_tab(self, spec: TabSpec) -> None:
        self.tabs.add(spec.name, spec)

    def add_script(self, spec: ScriptSpec) -> None:
        self.scripts.add(spec.name, spec, (spec.label,))
