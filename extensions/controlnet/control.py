"""The units of a request at work: hints for each pass, and networks beside the UNet that add to what it computes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modules import (
    Cond,
    Layer,
    Modifier,
    Network,
    PassRun,
    Report,
    RepriseError,
    SamplingPass,
    Step,
    UsedFile,
    UserError,
)

from . import hints, ip_adapter, models
from .corrections import MODULES as CORRECTING
from .corrections import Correction, latent_mask
from .ip_adapter import Sight
from .preprocessors import preprocessed, refusal
from .registry import LABELS, Module, union_type
from .units import BALANCED, BOTH, CONTROL, HIGH, JUST, Unit

if TYPE_CHECKING:
    from torch import Tensor

    from modules import Attention, Control, LatentDiffusion, Patcher

SOFT, MIDDLE = 0.825, 12
ADAPTER_SOFT = (0.25, 0.62, 0.825, 1.0)
SOFT_IN_HIRES = ("canny", "mlsd")
"""Preprocessors whose hints are followed softly in the second pass of hires fix, whatever the mode."""


def scales(unit: Unit, module: Module, count: int, *, hires: bool, adapter: bool = False) -> list[float]:
    """What each of a network's outputs is multiplied by: those beside the input blocks, then that of the middle."""
    if unit.advanced_weighting.strip():
        own = [float(number) for number in unit.advanced_weighting.split(",")][:count]
        return own + [0.0] * (count - len(own))
    if unit.control_mode == BALANCED and not (hires and module.name in SOFT_IN_HIRES):
        return [unit.weight] * count
    soft = ADAPTER_SOFT if adapter else [SOFT ** (MIDDLE - i) for i in range(count)]
    return [unit.weight * factor for factor in soft]


def takes_part(unit: Unit, pass_: int) -> bool:
    return unit.hr_option == BOTH or (unit.hr_option == HIGH) == bool(pass_)


def is_active(counter: int, steps: int, start: float, end: float) -> bool:
    """Whether a unit has an effect at a step, counted as A1111 counts."""
    return start <= counter / max(steps, 1) <= end


class Counter:
    """A1111's count of steps: it is one behind in the first call of each."""

    def __init__(self) -> None:
        self._step, self._first = -1, -1

    def at(self, step: int, call: int) -> int:
        if step != self._step:
            self._step, self._first = step, call
        return step if call > self._first else max(step - 1, 0)


def adapter_places(blocks: int) -> list[tuple[str, int]]:
    """Where the maps of a T2I-Adapter are added: behind these blocks of a UNet with so many input blocks."""
    inputs = (2, 5, 8, 11) if blocks == 12 else (3, 5, 8)
    places = [("input", number) for number in inputs]
    return places if len(places) == 4 else [*places, ("middle", 0)]


class Networks:
    """The networks of the last request, kept for the next one."""

    def __init__(self) -> None:
        self._kept: dict[tuple[Any, ...], Control] = {}

    def load(self, path: Path, model: LatentDiffusion) -> Control:
        from modules import load_control

        key = self._key(path, model)
        if key not in self._kept:
            self._kept[key] = load_control(path, model)
        return self._kept[key]

    def keep(self, used: Sequence[tuple[Path, LatentDiffusion]]) -> None:
        """Let go of all others."""
        keys = {self._key(path, model) for path, model in used}
        self._kept = {key: control for key, control in self._kept.items() if key in keys}

    def _key(self, path: Path, model: LatentDiffusion) -> tuple[Any, ...]:
        return path, path.stat().st_mtime_ns, model.sha256, str(model.device.device), model.device.dtype


@dataclass
class Ready:
    """A unit whose network is there."""

    number: int
    unit: Unit
    module: Module
    control: Control
    kind: int
    """Of its picture, for a union model."""
    maps: dict[int, tuple[hints.Pixels, str]] = field(default_factory=dict)
    """Preprocessed pictures with their resize mode: one for all images, or one each."""
    guide: Any = None
    """What the network made of its hints for the pass at hand; None: it takes no part in it."""
    texts: dict[int, tuple[Cond, Any]] = field(default_factory=dict)
    """Keys and values of each text. The `Cond` is kept so that its id stays its own."""
    region: Tensor | None = None
    correction: Correction | None = None
    """What its module does to the network's answers in the pass at hand."""

    @property
    def is_ip_adapter(self) -> bool:
        return hasattr(self.control.network, "key_values")

    @property
    def is_adapter(self) -> bool:
        """Whether it is a T2I-Adapter."""
        return not self.is_ip_adapter and not hasattr(self.control.network, "residuals")

    @property
    def spares_negative(self) -> bool:
        return self.unit.control_mode == CONTROL or self.control.averages


@dataclass
class Sums:
    """What is added to a UNet in one evaluation."""

    skips: list[Tensor] = field(default_factory=list)
    """Beside the output of each input block."""
    middle: Tensor | None = None
    features: dict[tuple[str, int], Tensor] = field(default_factory=dict)
    """Of T2I-Adapters, by the blocks behind which they are added."""


class ControlNets(Modifier):
    """The units of one request."""

    def __init__(self, units: Sequence[Unit], networks: Networks, sight: Sight):
        self._units = units
        self._networks = networks
        self._sight = sight
        self._recorded: Sequence[UsedFile] = ()
        self._files: dict[UsedFile, None] = {}
        self._attentions: dict[str, int] = {}
        self._active: list[Ready] = []
        """IP-Adapters at the evaluation at hand."""
        self._ready: list[Ready] = []
        self._notes: dict[str, None] = {}
        self._run: PassRun | None = None
        self._first_size = 0, 0
        self._counter = Counter()
        self._sums: Sums | None = None

    # -- before a batch

    def prepare(self, passes: Sequence[SamplingPass], model: LatentDiffusion, recorded: Sequence[UsedFile]) -> None:
        self._notes, self._ready, self._run, self._files = {}, [], None, {}
        self._recorded = recorded
        used = []
        for number, unit in enumerate(self._units, 1):
            try:
                ready = self._made_ready(number, unit, model)
                if ready.is_ip_adapter:
                    ready.guide = self._seen(ready, model)
            except RepriseError as error:
                self._tell(number, error)
            else:
                self._ready.append(ready)
                used.append((_path(unit), model))
        self._networks.keep(used)

    def _made_ready(self, number: int, unit: Unit, model: LatentDiffusion) -> Ready:
        module = LABELS[unit.module]
        if sentence := refusal(module):
            raise UserError(sentence)
        if not unit.model:
            raise UserError("no model is chosen for it")
        if unit.guidance_start > unit.guidance_end:
            raise UserError("its start is behind its end")
        path = _path(unit)
        told, is_sdxl = models.family_of(path.stem), bool(model.config.unet.vector_dim)
        if told != models.UNKNOWN and (told == models.SDXL) != is_sdxl:
            raise UserError(f"{unit.model} is for {told}, and {model.name} is {model.config.family.label}")
        control = self._networks.load(path, model)
        if module.name in ip_adapter.MODULES and not hasattr(control.network, "key_values"):
            raise UserError(f"{unit.model} is {control.kind.words}, and {module.label} a preprocessor for IP-Adapters")
        kind = union_type(module, unit.union_control_type) if control.types else 0
        if kind is None or (control.types and kind >= control.types):
            raise UserError("a union model needs to know what its picture shows; choose a union type")
        try:
            scales(unit, module, 1, hires=False)
        except ValueError:
            raise UserError("its weights of blocks are no numbers") from None
        ready = Ready(number, unit, module, control, kind)
        if unit.effective_region_mask:
            import torch

            mask = hints.with_mask(_opened(unit.effective_region_mask))[..., 0].astype("float32") / 255
            ready.region = torch.from_numpy(mask)[None, None].to(model.device.device)
        return ready

    def _tell(self, number: int, error: RepriseError) -> None:
        self._notes[f"ControlNet unit {number} has no effect: {error.message}"] = None

    def report(self) -> Report:
        return Report(tuple(self._notes), tuple(self._files))

    def modify(self, model: Patcher) -> None:
        if any(not ready.is_adapter and not ready.is_ip_adapter for ready in self._ready):
            model.skip("output.*", self._join)
        if any(ready.is_ip_adapter for ready in self._ready):
            self._attentions = ip_adapter.attentions(model.layers())
            model.attention("cross", self._attend)
        if any(not ready.is_ip_adapter for ready in self._ready):
            model.block("middle.0", self._behind)
        if any(ready.is_adapter for ready in self._ready):
            model.block("input.*", self._behind)

    # -- hints of a pass

    def before_pass(self, run: PassRun, x: Tensor) -> Tensor:
        factor = run.model.config.latent.factor
        height, width = x.shape[2] * factor, x.shape[3] * factor
        if run.pass_.number == 0:
            self._first_size = height, width
            for ready in self._ready:
                ready.maps = {}
                ready.guide = ready.guide if ready.is_ip_adapter else None
        self._run, self._counter = run, Counter()
        for ready in [ready for ready in self._ready if not ready.is_ip_adapter]:
            ready.texts, ready.correction = {}, None
            if not takes_part(ready.unit, run.pass_.number):
                ready.guide = None
                continue
            try:
                self._guide(ready, run, height, width)
            except RepriseError as error:
                ready.guide = None
                self._tell(ready.number, error)
        return x

    def _guide(self, ready: Ready, run: PassRun, height: int, width: int) -> None:
        if not ready.maps:
            ready.maps = {i: self._preprocessed(ready, run, i) for i in range(self._pictures(ready, run))}
        if ready.is_adapter and ready.guide is not None:
            return  # as it was in the first pass
        import torch

        pictures = [_hint(hints.fitted(x, height, width, mode), ready.module) for x, mode in ready.maps.values()]
        picture = torch.stack([torch.from_numpy(one) for one in pictures])
        network: Any = ready.control.network
        device = run.model.device
        network.to(device.device)
        if ready.module.name in CORRECTING:
            ready.correction = self._correction(ready, run, height, width)
        if ready.is_adapter:
            channels = network.config.in_channels // network.config.unshuffle**2
            ready.guide = network(device.place(picture[:, :channels]))
        else:
            ready.guide = network.hint(device.place(picture))

    def _correction(self, ready: Ready, run: PassRun, height: int, width: int) -> Correction:
        import torch

        fitted = [torch.from_numpy(hints.fitted(x, height, width, mode)).float() for x, mode in ready.maps.values()]
        x = torch.stack(fitted).permute(0, 3, 1, 2) / 255
        latents = run.model.encode(x[:, :3] * 2 - 1)
        mask = latent_mask((x[:, 3:] > 0.5).float()) if x.shape[1] == 4 else None
        unit, module = ready.unit, ready.module
        radius = int(module.within("threshold_a", unit.threshold_a)) * (2 if run.pass_.number else 1)
        sharpness = float(module.within("threshold_b", unit.threshold_b))
        return Correction(module.name, unit.weight, latents, mask, radius, sharpness)

    def _pictures(self, ready: Ready, run: PassRun) -> int:
        if not ready.unit.image and not run.start_images:
            raise UserError("it has no image")
        if ready.module.name == "shuffle":
            return len(run.seeds)  # by each image's own
        return 1 if ready.unit.image else len(run.start_images)

    def _preprocessed(self, ready: Ready, run: PassRun, number: int) -> tuple[hints.Pixels, str]:
        """A picture as the unit's module makes it, and how it is brought to the image's size."""
        unit, module = ready.unit, ready.module
        if unit.image:
            image, mask = _opened(unit.image), _opened(unit.mask) if unit.mask else None
            mode = unit.resize_mode
            if mask is not None and not module.takes_mask and hints.is_drawn(mask):
                image, mask = mask, None
        else:
            image, mode = run.start_images[number % len(run.start_images)], JUST
            mask = run.start_masks[number % len(run.start_masks)] if run.start_masks else None
        if "R" in module.flags and mask is None:
            raise UserError(f"the preprocessor {module.label} needs a mask")
        x = hints.with_mask(image, mask if module.takes_mask else None)
        x = x if module.takes_mask else x[..., :3]
        resolution: float = unit.processor_res
        if unit.pixel_perfect and module.resolution:
            height, width = self._first_size
            resolution = hints.pixel_perfect(x.shape[0], x.shape[1], height, width, mode)
        seed = run.seeds[number % len(run.seeds)] + run.subseeds[number % len(run.subseeds)]
        return preprocessed(module, x, resolution, unit.threshold_a, unit.threshold_b, seed=seed), mode

    # -- at each step

    def on_network(self, step: Step, x: Tensor, sigma: float, cond: Cond, network: Network) -> Tensor:
        before, counter = (self._sums, self._active), self._counter.at(step.step, step.call)
        self._sums = self._summed(step, x, sigma, cond, counter)
        self._active = [ready for ready in self._ready if ready.is_ip_adapter and _is_active(ready, step, counter)]
        try:
            answer = network(x, sigma, cond)
        finally:
            self._sums, self._active = before
        for ready in self._ready:
            answer = ready.correction.of(step, answer) if ready.correction else answer
        return answer

    def _summed(self, step: Step, x: Tensor, sigma: float, cond: Cond, counter: int) -> Sums | None:
        found = Sums()
        for ready in self._ready:
            if ready.is_ip_adapter or ready.guide is None or not _is_active(ready, step, counter):
                continue
            if ready.is_adapter:
                self._add_features(ready, step, found)
            elif cond.context.shape[-1] == ready.control.network.config.context_dim:  # type: ignore[union-attr]
                self._add_residuals(ready, step, x, sigma, cond, found)
        return found if found.skips or found.features else None

    def _add_residuals(self, ready: Ready, step: Step, x: Tensor, sigma: float, cond: Cond, found: Sums) -> None:
        import torch

        assert self._run
        net: Any = ready.control.network
        device, rows = self._run.model.device, len(x)
        text, label = self._text(ready, cond, rows)

        def residuals() -> list[Tensor]:
            emb = net.embed(torch.tensor([step.timestep(sigma)], device=device.device)).expand(rows, -1)
            emb = emb if label is None else emb + label
            scaled = device.place(x / (sigma**2 + 1) ** 0.5)
            answer: list[Tensor] = net.residuals(scaled, emb, text, _rows(ready.guide, step), ready.kind)
            return answer

        outs = self._run.model.memory.attempt(residuals)
        factors = scales(ready.unit, ready.module, len(outs), hires=bool(step.pass_.number))
        outs = [self._weighted(ready, step, out, factor) for out, factor in zip(outs, factors, strict=True)]
        found.skips = [a + b for a, b in zip(found.skips, outs[:-1], strict=True)] if found.skips else outs[:-1]
        found.middle = outs[-1] if found.middle is None else found.middle + outs[-1]

    def _add_features(self, ready: Ready, step: Step, found: Sums) -> None:
        assert self._run
        places = adapter_places(len(self._run.model.unet.input_blocks))
        factors = scales(ready.unit, ready.module, 4, hires=bool(step.pass_.number), adapter=True)
        for place, feature, factor in zip(places, ready.guide, factors, strict=True):
            rows = _rows(feature, step)
            rows = rows if len(rows) == len(step.rows) else rows.expand(len(step.rows), -1, -1, -1)
            out = self._weighted(ready, step, rows, factor)
            found.features[place] = out + found.features[place] if place in found.features else out

    def _weighted(self, ready: Ready, step: Step, out: Tensor, factor: float) -> Tensor:
        from torch.nn import functional

        if ready.spares_negative and (negative := step.masked("negative")):
            out = out.clone()
            out[negative] = 0
        out = out * factor
        if ready.region is not None:
            mask = functional.interpolate(ready.region, out.shape[-2:], mode="bilinear", align_corners=False)
            out = out * mask.to(out.dtype)
        return out.mean((2, 3), keepdim=True) if ready.control.averages else out

    def _text(self, ready: Ready, cond: Cond, rows: int) -> tuple[Any, Tensor | None]:
        if id(cond) not in ready.texts:
            assert self._run
            net: Any = ready.control.network
            context = self._run.model.device.place(cond.context)
            keys = net.text_keys(context)
            if len(context) != rows:
                whole = (rows, -1, -1, -1)
                keys = {layer: (k.expand(whole), v.expand(whole)) for layer, (k, v) in keys.items()}
            label = None if cond.vector is None else net.label(cond.vector.to(context.device))
            ready.texts[id(cond)] = cond, (keys, label)
        found: tuple[Any, Tensor | None] = ready.texts[id(cond)][1]
        return found

    def _join(self, step: Step, layer: Layer, h: Tensor, skip: Tensor) -> tuple[Tensor, Tensor]:
        skips = self._sums.skips if self._sums else []
        return h, _plus(skip, skips[len(skips) - 1 - layer.block]) if layer.block < len(skips) else skip

    def _behind(self, step: Step, layer: Layer, h: Tensor) -> Tensor:
        if self._sums is None:
            return h
        if (feature := self._sums.features.get((layer.place, layer.block))) is not None:
            h = _plus(h, feature)
        return _plus(h, self._sums.middle) if layer.place == "middle" and self._sums.middle is not None else h

    # -- IP-Adapters

    def _seen(self, ready: Ready, model: LatentDiffusion) -> Any:
        """Keys and values of the unit's picture for each cross-attention of the model."""
        if not ready.unit.image:
            raise UserError("it has no image")
        image = _opened(ready.unit.image)
        picture, none, file = self._sight.of(ready.unit.image, image, ready.control, model, self._recorded)
        self._files[file] = None
        return ip_adapter.pairs_of(ready.control, picture, none, model)

    def _attend(self, step: Step, layer: Layer, q: Tensor, k: Tensor, v: Tensor, attention: Attention) -> Tensor:
        out, number = attention(q, k, v), self._attentions[layer.name]
        for ready in self._active:
            if number < len(ready.guide) and ready.guide[number][0].shape[1::2] == q.shape[1::2]:
                weight = _weight(ready.unit, number)
                mask = _tokens(ready.region, layer.size(*step.x.shape[-2:])) if ready.region is not None else None
                out = ip_adapter.beside(step, out, q, ready.guide[number], weight, mask)
        return out

    def after_sampling(self, run: PassRun, latents: Tensor) -> Tensor:
        for ready in self._ready:
            ready.texts, ready.correction = {}, None
            if not ready.is_adapter and not ready.is_ip_adapter:
                ready.guide = None
            if ready.unit.low_vram:
                ready.control.network.to("cpu")
        return latents


def _is_active(ready: Ready, step: Step, counter: int) -> bool:
    return is_active(counter, step.steps, ready.unit.guidance_start, ready.unit.guidance_end)


def _weight(unit: Unit, number: int) -> float:
    """Of the cross-attention of that number."""
    own = [float(weight) for weight in unit.advanced_weighting.split(",")] if unit.advanced_weighting.strip() else []
    return unit.weight if not own else own[number] if number < len(own) else 0.0


def _tokens(region: Tensor, size: tuple[int, int]) -> Tensor:
    """A region (1, 1, H, W) for the tokens of a feature map: (1, 1, tokens, 1)."""
    from torch.nn import functional

    return functional.interpolate(region, size, mode="bilinear", align_corners=False).reshape(1, 1, -1, 1)


def _path(unit: Unit) -> Path:
    path: Path = unit.model.path  # type: ignore[attr-defined]  # a `ModelFile`
    return path


def _opened(picture: str) -> Any:
    return picture.open()  # type: ignore[attr-defined]  # a `StoredImage`


def _hint(x: hints.Pixels, module: Module) -> Any:
    """A picture (h, w, 3 or 4) as a network takes it: (3, h, w) float32 in [0, 1], and -1 where it is masked."""
    picture = x[..., :3].astype("float32") / 255
    if x.shape[2] == 4 and module.takes_mask:
        masked = (x[..., 3:] > 127).astype("float32")
        picture = picture * (1 - masked) - masked
    return picture.transpose(2, 0, 1).copy()


def _rows(guide: Tensor, step: Step) -> Tensor:
    """What belongs to each row: ``guide`` has one for all images, or one each."""
    return guide if len(guide) == 1 else guide[[row.image % len(guide) for row in step.rows]]


def _plus(h: Tensor, more: Tensor) -> Tensor:
    """``h`` with ``more``, which is no longer for this network where its channels differ (a refiner's)."""
    from torch.nn import functional

    if more.shape[1] != h.shape[1]:
        return h
    if more.shape[-2:] not in (h.shape[-2:], (1, 1)):
        more = functional.interpolate(more, h.shape[-2:], mode="nearest")
    return h + more
