"""ControlNet and T2I-Adapter, with the options, texts and HTTP API of A1111's extension."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from modules import Host, ModifierSpec, TextForm, option, options_list

from . import units
from .ip_adapter import VISION_FOLDER, Sight
from .models import FOLDER, Models
from .previews import add_previews
from .routes import add_routes

if TYPE_CHECKING:
    from modules import Modifier

    from .control import Networks


@dataclass(frozen=True)
class Settings:
    control_net_unit_count: int = option(3, "Units", lo=1, hi=10, help="how many there are room for in a request")


def options_for(count: int) -> type:
    """The options of a request with room for ``count`` units."""

    @dataclass(frozen=True)
    class Options:
        units: tuple[units.Unit, ...] = options_list(units.Unit, "Unit", most=count)

    return Options


def register(host: Host) -> None:
    count = host.add_settings(Settings).control_net_unit_count
    models = Models(lambda: host.model_files(FOLDER))

    @cache
    def kept() -> tuple[Networks, Sight]:
        from .control import Networks

        return Networks(), Sight(lambda: host.model_files(VISION_FOLDER))

    def make(options: Any) -> Modifier:
        from .control import ControlNets

        return ControlNets(options.units, *kept())

    text = TextForm(
        tuple(f"ControlNet {i}" for i in range(count)),
        lambda values: units.texts_of(values, count, models.entry),
        lambda texts, tell: units.options_of_texts(texts, models.find, tell),
    )
    spec = ModifierSpec(
        "controlnet",
        "ControlNet",
        options_for(count),
        make,
        order=50,
        help="Pictures that control composition, outlines and colours",
        text=text,
        from_args=lambda args: units.from_args(args, count, models.find),
    )
    host.add_modifier(spec)
    add_routes(host, models, count)
    add_previews(host, count)
