"""What an extension sees: the tables of a `Host`. Built-in parts come in through the same door."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from modules.diffusion.types import SamplerSpec, SchedulerSpec
from modules.registry import Registry
from modules.resize import Enlarge


@dataclass(frozen=True)
class TabSpec:
    """A tab of the page. ``build`` receives the front end's context and makes the tab's components."""

    name: str
    label: str
    build: Callable[[Any], None]


class Host:
    """Filled once at start, then only read."""

    def __init__(self) -> None:
        self.samplers: Registry[SamplerSpec] = Registry("sampler")
        self.schedulers: Registry[SchedulerSpec] = Registry("schedule type", field="scheduler")
        self.upscalers: Registry[Enlarge] = Registry("upscaler")
        self.tabs: Registry[TabSpec] = Registry("tab")

    def add_sampler(self, spec: SamplerSpec) -> None:
        self.samplers.add(spec.name, spec, spec.aliases)

    def add_scheduler(self, spec: SchedulerSpec) -> None:
        self.schedulers.add(spec.label, spec, (spec.name, *spec.aliases))

    def add_upscaler(self, name: str, enlarge: Enlarge) -> None:
        self.upscalers.add(name, enlarge)

    def add_tab(self, spec: TabSpec) -> None:
        self.tabs.add(spec.name, spec)
