"""How much memory models may take, and which of their networks lie on the card.

On a machine without a card all of this is about main memory, and networks never move.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol
from weakref import WeakKeyDictionary

import torch
from torch import nn

from modules.devices import Device, in_main_memory
from modules.errors import UserError
from modules.nn.configs import UNetConfig, VAEConfig
from modules.nn.streamed import STORED, Streamed, units
from modules.nn.unet import UNet

log = logging.getLogger(__name__)

AUTO, WHOLE, MEDVRAM, LOWVRAM = "auto", "whole", "medvram", "lowvram"
OFFLOADS = (AUTO, WHOLE, MEDVRAM, LOWVRAM)
"""How networks share the card: as many as fit; all of a model; one at a time; one at a time and the UNet by blocks."""
GB = 2**30
ORDER = ("text", "text_2", "vae", "unet")
"""In which a model's networks leave the card where another needs room. Text encoders are needed once for all images of
a request, the autoencoder once an image, the UNet at every step: what is needed least often goes first."""


@dataclass(frozen=True)
class Budget:
    """Bytes of weights that may be kept: in main memory, and on the card; None where there is no card."""

    ram: int
    card: int | None = None

    def __str__(self) -> str:
        """
        >>> print(Budget(12 * GB, 6 * GB))
        up to 12.0 GB of models in main memory and 6.0 GB on the card
        """
        card = "" if self.card is None else f" and {self.card / GB:.1f} GB on the card"
        return f"up to {self.ram / GB:.1f} GB of models in main memory{card}"

    @property
    def all(self) -> int:
        return self.ram + (self.card or 0)


def find_budget(device: Device, ram: float | None = None, card: float | None = None) -> Budget:
    """The budget of this machine; ``ram`` and ``card`` in GB where the owner says so.

    Of main memory that is free, a quarter and at least 2 GB are left to the system, to images and to what is computed;
    of the card what others do not use is ours, and each request's own needs are seen to by `Residence`.
    """
    for name, value in (("ram_budget", ram), ("card_budget", card)):
        if value is not None and not 0 < value < 2**20:
            raise UserError(f"{value} GB is no amount of memory", hint="give it in GB, like 12 or 5.5", field=name)
    available, _ = in_main_memory()
    found = max(available - max(available // 4, 2 * GB), GB)
    on_card = device.memory()[0] if device.is_card else None
    if on_card is not None and card is not None:
        on_card = min(round(card * GB), on_card)
    return Budget(found if ram is None else round(ram * GB), on_card)


def said_for_nothing(device: Device, **flags: object) -> str:
    """A sentence on the flags that were given about a card's memory where there is no card; else empty."""
    given = ", ".join(f"--{name.replace('_', '-')}" for name, value in flags.items() if value)
    return f"images are made without a card, so nothing comes of {given}" if given and not device.is_card else ""


class Mover(Protocol):
    """Moves weights between main memory and the card. `DeviceMover` does; tests have their own."""

    def bring(self, module: nn.Module) -> None:
        """Put what of ``module`` is not on the card there."""

    def take_away(self, module: nn.Module) -> None:
        """Put it into main memory."""


@dataclass(frozen=True)
class DeviceMover:
    """Moves the data of parameters and buffers, which stay the same objects."""

    device: torch.device

    def bring(self, module: nn.Module) -> None:
        _move(module, self.device)

    def take_away(self, module: nn.Module) -> None:
        _move(module, torch.device("cpu"))


def _move(module: nn.Module, device: torch.device) -> None:
    for tensor in (*module.parameters(), *module.buffers()):
        if tensor.device != device:
            tensor.data = tensor.data.to(device)


class Networks(Protocol):
    """What `Residence` needs to know of a model."""

    @property
    def unet(self) -> UNet: ...
    def parts(self) -> dict[str, nn.Module]: ...


class Residence:
    """Which networks lie on the card. One for all models of a store; where there is no card nothing ever moves."""

    def __init__(self, device: Device, budget: Budget, offload: str = AUTO, mover: Mover | None = None):
        if offload not in OFFLOADS:
            raise UserError(f"no way to share a card named {offload!r}", hint=f"there are {', '.join(OFFLOADS)}")
        self.device = device
        self.budget = budget
        self.offload = offload
        self.streaming = False
        """UNets come block by block, whatever ``offload`` says: memory ran out."""
        self._mover = mover or (DeviceMover(device.device) if device.is_card else None)
        self._there: WeakKeyDictionary[nn.Module, tuple[int, str]] = WeakKeyDictionary()
        """What lies on the card, in the order of use: bytes, and the network's name in its model."""
        self._streams: WeakKeyDictionary[nn.Module, Streamed] = WeakKeyDictionary()
        self._sizes: WeakKeyDictionary[nn.Module, int] = WeakKeyDictionary()
        self._changes: WeakKeyDictionary[nn.Module, int] = WeakKeyDictionary()

    @property
    def moves(self) -> bool:
        """Whether networks can lie elsewhere than where they are computed with."""
        return self._mover is not None and self.offload != WHOLE

    @property
    def room(self) -> int:
        """Bytes that the card may hold, of weights and of what is computed."""
        return 2**62 if self.budget.card is None else self.budget.card

    def home(self, nbytes: int, working: int) -> torch.device | None:
        """Where a model of so many bytes is loaded: None is the device that computes, where all of it fits there beside
        ``working`` bytes of what is computed.
        """
        if not self.moves or (self.offload == AUTO and nbytes + working <= self.room):
            return None
        return torch.device("cpu")

    def make_room(self, nbytes: int) -> None:
        """Take from the card what has to go before so many bytes are loaded onto it."""
        if self.moves:
            self._make_room(nbytes, ())

    def bring(self, model: Networks, name: str, working: int = 0) -> None:
        """See to it that a network of ``model`` can be computed with, which needs ``working`` bytes beside its weights;
        others leave the card where it needs room.
        """
        module = model.parts()[name]
        if isinstance(module, UNet):
            streams = self._streams_now(module, working)
            self._hook(module, streams or _is_stored(module))
            if streams and self._mover:
                self._stream(module, working)
                return
        if self._mover is None:
            return
        changes = module.changes if isinstance(module, UNet) else None
        if module not in self._there:
            self._make_room(self._size(module) + working, (module,))
        elif changes is not None and changes == self._changes.get(module):
            self._there[module] = self._there.pop(module)
            return
        self._mover.bring(module)  # where it is there, what patches made elsewhere
        self._there.pop(module, None)
        self._there[module] = self._size(module), name
        if changes is not None:
            self._changes[module] = changes

    def relieve(self, *keep: nn.Module) -> bool:
        """Take everything but ``keep`` from the card; whether there was anything. What torch holds and does not use is
        given back.
        """
        gone = [module for module in self._there if module not in keep] if self.moves else []
        for module in gone:
            self._take_away(module)
        self.device.release()
        return bool(gone)

    def _size(self, module: nn.Module) -> int:
        if module not in self._sizes:
            self._sizes[module] = weight_bytes(module)
        return self._sizes[module]

    def _streams_now(self, unet: UNet, working: int) -> bool:
        if not self.moves:
            return False
        too_large = self.offload == AUTO and self._size(unet) + working > self.room
        return self.streaming or self.offload == LOWVRAM or too_large

    def _make_room(self, size: int, keep: Sequence[nn.Module]) -> None:
        rank = {name: i for i, name in enumerate(ORDER)}
        alone = self.streaming or self.offload in (MEDVRAM, LOWVRAM)
        # Sorting is stable: of equals the one that was used longest ago goes first.
        for module in sorted((m for m in self._there if m not in keep), key=lambda m: rank[self._there[m][1]]):
            if not alone and sum(nbytes for nbytes, _ in self._there.values()) + size <= self.room:
                return
            self._take_away(module)

    def _take_away(self, module: nn.Module) -> None:
        if self.moves and self._mover:
            self._mover.take_away(module)
            del self._there[module]
            log.debug("%s left the card", type(module).__name__)

    def _stream(self, unet: UNet, working: int) -> None:
        """Keep a UNet in main memory but for as many layers as there is room for: each that stays need not come."""
        assert self._mover
        room = 0 if self.streaming or self.offload == LOWVRAM else self.room - working
        if unet in self._there and self._there[unet][0] <= max(room, 0):
            return
        self._make_room(self._size(unet) + working, ())
        self._mover.take_away(unet)
        layers, kept = list(units(unet)), 0
        largest = max(weight_bytes(layer) for layer in layers)
        for layer in layers:
            size = weight_bytes(layer)
            if kept + size + largest > room:
                break
            self._mover.bring(layer)
            kept += size
        self._there[unet] = kept, "unet"
        self._changes.pop(unet, None)

    def _hook(self, unet: UNet, needed: bool) -> None:
        if needed and unet not in self._streams:
            self._streams[unet] = Streamed(unet, self.device.device, self.device.dtype)
        elif not needed and (stream := self._streams.pop(unet, None)):
            stream.remove()
            self._there.pop(unet, None)  # some of it may be there, and now all is wanted


def _is_stored(unet: UNet) -> bool:
    """Whether its weights are kept in 8 bits."""
    return any(parameter.dtype == STORED for parameter in unet.input_blocks[0].parameters())


def weight_bytes(module: nn.Module) -> int:
    """Bytes of the parameters and buffers as they are kept."""
    return sum(tensor.nbytes for tensor in (*module.parameters(), *module.buffers()))


def unet_working(config: UNetConfig, images: int, area: int, dtype: torch.dtype) -> int:
    """Bytes that a UNet needs for ``images`` of ``area`` latent pixels at once, beside its weights.

    Its feature maps and what attention and convolutions put down; `python -m tests.benchmarks memory` counts them.
    """
    return 32 * images * area * config.model_channels * dtype.itemsize


def vae_working(config: VAEConfig, area: int, dtype: torch.dtype) -> int:
    """Bytes that an autoencoder needs for an image of ``area`` latent pixels: six maps in full size and their kernels'
    own memory.
    """
    return 8 * config.channels * area * config.factor**2 * dtype.itemsize
