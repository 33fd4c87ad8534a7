"""What preprocessors ("modules") and control types there are, with their sliders, as sd-webui-controlnet lists them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from modules import UserError

Number = int | float


@dataclass(frozen=True)
class Slider:
    lo: Number
    hi: Number
    default: Number
    step: Number
    label: str


HIDDEN = Slider(0, 1, 0.5, 0.01, "")
"""What counts in the place of a slider that a module does not have."""


@dataclass(frozen=True)
class Module:
    """A preprocessor. Flags: F it needs no model, N its result is no picture, M it takes a mask, R it needs one, C the
    control mode has no effect."""

    name: str
    label: str
    types: tuple[str, ...]
    resolution: Slider | None
    a: Slider | None
    b: Slider | None
    flags: str

    @property
    def takes_mask(self) -> bool:
        return "M" in self.flags

    def within(self, name: str, value: Number) -> Number:
        """A value of ``processor_res``, ``threshold_a`` or ``threshold_b``; outside of its range the default."""
        slider = {"processor_res": self.resolution, "threshold_a": self.a, "threshold_b": self.b}[name]
        if name == "processor_res" and slider is None:
            return value if 0 <= value <= 1 else HIDDEN.default
        slider = slider or HIDDEN
        return value if slider.lo <= value <= slider.hi else slider.default

    def detail(self) -> dict[str, Any]:
        """As GET /controlnet/module_list tells of it."""
        sliders = [slider for slider in (self.resolution, self.a, self.b) if slider]
        told = [{"name": s.label, "value": s.default, "min": s.lo, "max": s.hi, "step": s.step} for s in sliders]
        return {"model_free": "F" in self.flags, "sliders": told}


_ROWS = """\
none||InstructP2P|512
ip-adapter-auto||IP-Adapter|512|||NC
tile_resample||Tile|512|1.0 8.0 1.0 0.01 Down Sampling Rate
pidinet|softedge_pidinet|SoftEdge|512
oneformer_ade20k|seg_ofade20k|Segmentation|512
pidinet_scribble|scribble_pidinet|Scribble,SparseCtrl|512
revision_clipvision||Revision|512|0.0 1.0 0.0 0.01 Noise Augmentation||FNC
reference_only||Reference|512|0.0 1.0 0.5 0.01 Style Fidelity (only for Balanced mode)||F
recolor_luminance||Recolor|512|0.1 2.0 1.0 0.001 Gamma Correction
openpose_full||OpenPose|512
normal_bae||NormalMap|512
mlsd||MLSD|512|0.01 2.0 0.1 0.01 MLSD Value Threshold|0.01 20.0 0.1 0.01 MLSD Distance Threshold
lineart_standard|lineart_standard (from white bg & black line)|Lineart|512
ip-adapter_clip_sd15|ip-adapter_clip_h|IP-Adapter|512|||NMC
inpaint_only||Inpaint||||MR
depth|depth_midas|Depth|512
canny||Canny|512|1 255 100 1 Low Threshold|1 255 200 1 High Threshold
invert|invert (from white bg & black line)|Canny,Lineart,Scribble,MLSD
tile_colorfix+sharp||Tile|512|3.0 32.0 8.0 1.0 Variation|0.0 2.0 1.0 0.01 Sharpness
tile_colorfix||Tile|512|3.0 32.0 8.0 1.0 Variation
threshold|||512|0 255 127 0.01 Binarization Threshold
clip_vision|t2ia_style_clipvision|T2I-Adapter|512|||NC
pidinet_sketch|t2ia_sketch_pidi|T2I-Adapter|512
color|t2ia_color_grid|T2I-Adapter|512
softedge_teed||SoftEdge|512|0 10 2 1 Safe Steps
pidinet_safe|softedge_pidisafe|SoftEdge|512
hed_safe|softedge_hedsafe|SoftEdge|512
hed|softedge_hed|SoftEdge|512
softedge_anyline||SoftEdge|1280|0 10 2 1 Safe Steps
shuffle||Shuffle
segmentation|seg_ufade20k|Segmentation|512
oneformer_coco|seg_ofcoco|Segmentation|512
anime_face_segment|seg_anime_face|Segmentation|512
scribble_xdog||Scribble,SparseCtrl|512|1 64 32 0.01 XDoG Threshold
scribble_hed||Scribble,SparseCtrl|512
revision_ignore_prompt||Revision|512|0.0 1.0 0.0 0.01 Noise Augmentation||FNC
reference_adain+attn||Reference|512|0.0 1.0 0.5 0.01 Style Fidelity (only for Balanced mode)||F
reference_adain||Reference|512|0.0 1.0 0.5 0.01 Style Fidelity (only for Balanced mode)||F
recolor_intensity||Recolor|512|0.1 2.0 1.0 0.001 Gamma Correction
openpose_hand||OpenPose|512
openpose_faceonly||OpenPose|512
openpose_face||OpenPose|512
openpose||OpenPose|512
normal_map|normal_midas|NormalMap|512|0.0 1.0 0.4 0.01 Normal Background Threshold
normal_dsine||NormalMap|512|0 360 60 0.1 Fov|1 20 5 1 Iterations
mobile_sam||Segmentation|512
mediapipe_face|||512|1 10 1 1 Max Faces|0.01 1.0 0.5 0.01 Min Face Confidence
lineart|lineart_realistic|Lineart|512
lineart_coarse||Lineart|512
lineart_anime_denoise||Lineart|512
lineart_anime||Lineart|512
ip-adapter_pulid||IP-Adapter||||N
ip-adapter_face_id_plus||IP-Adapter|512|||NC
ip-adapter_face_id||IP-Adapter|512|||NC
ip-adapter_clip_sdxl_plus_vith||IP-Adapter|512|||NMC
ip-adapter_clip_sdxl|ip-adapter_clip_g|IP-Adapter|512|||NMC
instant_id_face_keypoints||Instant-ID|512
instant_id_face_embedding||Instant-ID|512|||N
inpaint_only+lama||Inpaint||||MR
inpaint|inpaint_global_harmonious|Inpaint||||MR
facexlib
dw_openpose_full||OpenPose|512
depth_zoe||Depth|512
depth_leres++||Depth|512|0 100 0 0.1 Remove Near %|0 100 0 0.1 Remove Background %
depth_leres||Depth|512|0 100 0 0.1 Remove Near %|0 100 0 0.1 Remove Background %
depth_hand_refiner||Depth|512
depth_anything_v2||Depth|512
depth_anything||Depth|512
densepose_parula|densepose_parula (black bg & blue torso)|OpenPose|512
densepose|densepose (pruple bg & purple torso)|OpenPose|512
blur_gaussian||Tile|512|0.01 64.0 9.0 0.01 Sigma
animal_openpose||OpenPose|512
"""
"""Name, label, types, resolution, two sliders (lo hi default step label), flags."""


def _number(text: str) -> Number:
    return float(text) if "." in text else int(text)


def _slider(text: str) -> Slider | None:
    if not text:
        return None
    lo, hi, default, step, label = text.split(" ", 4)
    return Slider(_number(lo), _number(hi), _number(default), _number(step), label)


def _module(row: str) -> Module:
    name, label, types, resolution, a, b, flags = (row.split("|") + [""] * 6)[:7]
    size = Slider(64, 2048, int(resolution), 8, "Resolution") if resolution else None
    return Module(name, label or name, tuple(filter(None, types.split(","))), size, _slider(a), _slider(b), flags)


MODULES: Mapping[str, Module] = {module.name: module for module in map(_module, _ROWS.splitlines())}
"""By name, in the order in which they are listed."""
LABELS: Mapping[str, Module] = {module.label: module for module in MODULES.values()}


def module_named(name: object) -> Module:
    """By name or label; raises `UserError`."""
    found = MODULES.get(str(name)) or LABELS.get(str(name))
    if found is None or not isinstance(name, str):
        raise UserError(f"no preprocessor named {str(name)[:40]!r}", hint="GET /controlnet/module_list lists them")
    return found


# ----------------------------------------------------------------------------------------------------- control types

ALL = "All"
UNION_TYPES = ("OpenPose", "Depth", "Soft Edge", "Hard Edge", "Normal Map", "Segmentation", "Tile", "Inpaint")
"""The kinds of pictures that union models know, in the order of their numbers."""
UNKNOWN = "Unknown"
UNION_TYPE_OF: Mapping[str, str] = {
    "OpenPose": "OpenPose",
    "Depth": "Depth",
    "Scribble": "Soft Edge",
    "SoftEdge": "Soft Edge",
    "Canny": "Hard Edge",
    "Lineart": "Hard Edge",
    "MLSD": "Hard Edge",
    "NormalMap": "Normal Map",
    "Segmentation": "Segmentation",
    "Tile": "Tile",
    "Blur": "Tile",
    "Inpaint": "Inpaint",
}
"""That of a union model for a control type."""
_ALSO: Mapping[str, tuple[str, ...]] = {
    "InstructP2P": ("ip2p",),
    "Segmentation": ("seg",),
    "NormalMap": ("normal",),
    "T2I-Adapter": ("t2i_adapter", "t2iadapter", "t2ia"),
    "IP-Adapter": ("ip_adapter", "ipadapter"),
    "OpenPose": ("densepose",),
    "Instant-ID": ("instant_id", "instantid"),
    "Scribble": ("sketch",),
    "Tile": ("blur",),
}
"""Further words in the names of models of a type."""
TYPES = (ALL, *sorted({kind for module in MODULES.values() for kind in module.types}))


@dataclass(frozen=True)
class ControlType:
    """A control type with the modules and models that belong to it."""

    name: str
    entries: tuple[str, ...]
    """All models, as they are listed."""

    @cached_property
    def modules(self) -> tuple[str, ...]:
        """Labels."""
        own = [m.label for m in MODULES.values() if self.name in (ALL, *m.types) and m.name != "none"]
        return ("none", *own)

    @cached_property
    def models(self) -> tuple[str, ...]:
        if self.name == ALL:
            return self.entries
        words = (self.name.lower(), *_ALSO.get(self.name, ()), *(["union"] if self.name in UNION_TYPE_OF else []))
        return tuple(entry for entry in self.entries if any(word in entry.lower() for word in words))

    @property
    def default_module(self) -> str:
        return "none" if self.name == ALL or len(self.modules) == 1 else self.modules[1]

    @property
    def default_model(self) -> str:
        """The first of version 1.1, else the first."""
        if self.name == ALL or not self.models:
            return "None"
        return next((entry for entry in self.models if "11" in entry.split(" ")[0]), self.models[0])


def union_type(module: Module, chosen: str) -> int | None:
    """The number of the kind of picture for a union model: the one that is chosen, else that of the module's type."""
    if chosen == UNKNOWN:
        chosen = next((UNION_TYPE_OF[kind] for kind in module.types if kind in UNION_TYPE_OF), "")
    return UNION_TYPES.index(chosen) if chosen in UNION_TYPES else None


def types_of(entries: Iterable[str]) -> Sequence[ControlType]:
    return [ControlType(name, tuple(entries)) for name in TYPES]
