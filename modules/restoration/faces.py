"""Face restoration: detects faces, aligns them, restores each with a network, and blends them back.

No torch here: the server lists the files' names, the worker alone loads the networks. Points are complex numbers x + iy
in pixels; the first pixel is centred at 0.5 + 0.5i.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.Image import Resampling, Transform

from modules.checkpoints.files import PICKLES, list_models
from modules.checkpoints.folders import folders_in

if TYPE_CHECKING:
    from torch import Tensor

    from modules.devices import Device
    from modules.nn.codeformer import CodeFormer
    from modules.nn.gfpgan import GFPGAN
    from modules.nn.retinaface import RetinaFace

Points = tuple[complex, ...]
"""Landmarks of one face: eyes, nose and corners of the mouth, left ones first as seen in the image."""

UPRIGHT = (
    192.98138 + 239.94708j,
    318.90277 + 240.1936j,
    256.63416 + 314.01935j,
    201.26117 + 371.41043j,
    313.08905 + 371.15118j,
)
"""The landmarks' positions in the networks' 512 x 512 crops: FFHQ's mean (arXiv:1812.04948), from facexlib."""
SURE = 0.97
"""The detection threshold."""
LOOKED_AT = 640
"""Side in pixels to which a picture's shorter one is brought for the detector."""
SMALLEST = 5.0
"""Minimal distance of the eyes, in pixels, of a face to be restored."""
EDGE = 0.1
"""Share of the crop, at each side, over which the face fades in."""
GREY = (132, 133, 135)
"""The colour outside the image, as in the networks' training."""


class FaceRestorer(Protocol):
    """``(image, weight) -> image`` of the same size, with restored faces; weight from 0 (strongest) to 1 (weakest).

    Where it finds no face it gives back the very picture that it got.
    """

    def __call__(self, image: Image.Image, weight: float, /) -> Image.Image: ...


@dataclass(frozen=True)
class FaceRestorerSpec:
    """A face restorer as registered, with its name and files."""

    name: str
    restore: FaceRestorer
    files: tuple[tuple[str, Path], ...] = ()
    """The files that hold its networks, each after its role in a recipe."""


# ---------------------------------------------------------------------------------------------------------- geometry


@dataclass(frozen=True)
class Similarity:
    """A similarity transform without mirroring, in complex numbers: z -> turn * z + shift."""

    turn: complex
    shift: complex

    def __call__(self, z: complex) -> complex:
        return self.turn * z + self.shift

    @property
    def inverse(self) -> Similarity:
        return Similarity(1 / self.turn, -self.shift / self.turn)

    def within(self, corner: complex, step: int) -> Similarity:
        """The transform from pixels of a crop that begins at ``corner`` to pixels that are ``step`` times as large."""
        return Similarity(self.turn / step, self(corner) / step)

    @property
    def coefficients(self) -> tuple[float, ...]:
        """Pillow's coefficients: the source x and y of a pixel of the new image."""
        a, b = self.turn, self.shift
        return a.real, -a.imag, b.real, a.imag, a.real, b.imag


def best_similarity(points: Sequence[complex], targets: Sequence[complex]) -> Similarity:
    """The least-squares similarity that maps ``points`` to ``targets``; the points must not all coincide."""
    z, w = np.array(points), np.array(targets)
    centred = z - z.mean()
    turn = complex(np.vdot(centred, w - w.mean()) / np.vdot(centred, centred))
    return Similarity(turn, complex(w.mean() - turn * z.mean()))


def upright(points: Sequence[complex], size: int) -> Similarity:
    """The transform from the image to an aligned face crop of ``size`` pixels a side."""
    return best_similarity(points, [point * size / 512 for point in UPRIGHT])


def cut_out(image: Image.Image, to_face: Similarity, size: int) -> Image.Image:
    """Crop an aligned face from an RGB image. A large one is downscaled first, so that every pixel counts."""
    step = _coarser(1 / abs(to_face.turn))
    back = to_face.inverse.within(0j, step)
    bands = (_warped(band, step, back, (size, size), fill) for band, fill in zip(image.split(), GREY, strict=True))
    return _image_of(np.stack(list(bands), -1))


def lay_back(image: Image.Image, face: Image.Image, to_face: Similarity) -> Image.Image:
    """Blend ``face`` back into ``image``, both RGB. No pixel outside the face's square changes."""
    corners = [to_face.inverse(complex(x, y)) for x in (0, face.width) for y in (0, face.height)]
    left, top = (max(math.floor(min(side)), 0) for side in ([z.real for z in corners], [z.imag for z in corners]))
    right = min(math.ceil(max(z.real for z in corners)), image.width)
    bottom = min(math.ceil(max(z.imag for z in corners)), image.height)
    if right <= left or bottom <= top:
        return image
    step = _coarser(abs(to_face.turn))  # a small face is made smaller before, so that every pixel counts
    there, size = to_face.within(complex(left, top), step), (right - left, bottom - top)
    mask, *drawn = (_warped(band, step, there, size, 0) for band in (soft_square(face.width), *face.split()))
    before = np.asarray(image.crop((left, top, right, bottom)), np.float32)
    visible = mask[..., None] / np.float32(255)
    laid = image.copy()
    laid.paste(_image_of(before + (np.stack(drawn, -1) - before) * visible), (left, top))
    return laid


def _warped(band: Image.Image, step: int, back: Similarity, size: tuple[int, int], fill: int) -> NDArray[np.float32]:
    """Warp one channel, reduced by ``step``, with ``back``. In float, since Pillow truncates bytes instead of
    rounding.
    """
    levels = band.convert("F")
    smaller = levels.reduce(step) if step > 1 else levels
    moved = smaller.transform(size, Transform.AFFINE, back.coefficients, Resampling.BILINEAR, fillcolor=fill)
    return np.asarray(moved, np.float32)


def _image_of(levels: NDArray[np.float32]) -> Image.Image:
    return Image.fromarray(levels.round().clip(0, 255).astype(np.uint8))


def _coarser(factor: float) -> int:
    """The largest power of two that is not above a scale, at least 1.

    >>> _coarser(0.3), _coarser(3.9), _coarser(4.1)
    (1, 2, 4)
    """
    return int(2 ** max(math.floor(math.log2(factor)), 0))


def soft_square(size: int) -> Image.Image:
    """A blending mask: 255 in the middle, falling to 0 at the edge along a cosine."""
    from_side = np.minimum(np.arange(size), np.arange(size)[::-1]) / (EDGE * size)
    ramp = (1 - np.cos(np.pi * np.minimum(from_side, 1))) / 2
    return Image.fromarray((255 * np.outer(ramp, ramp)).astype(np.float32))


# ---------------------------------------------------------------------------------------------------------- networks


def restore_each(
    image: Image.Image, faces: Sequence[Points], draw: Callable[[Image.Image], Image.Image], size: int
) -> Image.Image:
    """``image`` with each of ``faces`` replaced by ``draw`` of its crop; without faces the same object."""
    if not faces:
        return image
    result = image.convert("RGB")
    for points in faces:
        to_face = upright(points, size)
        result = lay_back(result, draw(cut_out(result, to_face, size)), to_face)
    if "A" in image.getbands():
        result.putalpha(image.getchannel("A"))
    return result


class FaceNetworks:
    """Caches the detector and the restorer used last. ``device`` is called when the first is loaded."""

    def __init__(self, device: Callable[[], Device]):
        self._device = device
        self._detector: tuple[tuple[Path, int], RetinaFace, Device] | None = None
        self._restorer: tuple[tuple[Path, int], GFPGAN | CodeFormer, Device] | None = None

    def restore(self, detector: Path, restorer: Path, image: Image.Image, weight: float) -> Image.Image:
        """Restore the faces found by the network in one file with the network in the other, both in float32."""
        faces = self._faces(detector, image)
        if not faces:
            return image
        network, device = self._load_restorer(restorer)
        return restore_each(image, faces, lambda face: _drawn(network, device, face, weight), network.size)

    def _faces(self, path: Path, image: Image.Image) -> list[Points]:
        import torch

        network, device = self._load_detector(path)
        looked_at = image.convert("RGB").resize(_looked_at(image.size), Resampling.LANCZOS)
        from modules.nn.retinaface import prepared, without_doubles

        with torch.no_grad():
            scores, boxes, points = (
                part[0].float().cpu() for part in network(device.place(prepared(_tensor(looked_at))))
            )
        sure = scores > SURE
        kept = without_doubles(boxes[sure], scores[sure])
        grown = torch.tensor([image.width / looked_at.width, image.height / looked_at.height])
        found = [tuple(complex(*point) for point in face) for face in (points[sure][kept] * grown).tolist()]
        return [face for face in found if abs(face[0] - face[1]) >= SMALLEST]

    def _load_detector(self, path: Path) -> tuple[RetinaFace, Device]:
        from modules.checkpoints.faces import load_detector

        if self._detector is None or self._detector[0] != _stamp(path):
            self._detector = None  # before the next takes its memory
            device = self._device()
            self._detector = _stamp(path), load_detector(path, device), device
        return self._detector[1:]

    def _load_restorer(self, path: Path) -> tuple[GFPGAN | CodeFormer, Device]:
        from modules.checkpoints.faces import load_restorer

        if self._restorer is None or self._restorer[0] != _stamp(path):
            self._restorer = None
            device = self._device()
            self._restorer = _stamp(path), load_restorer(path, device), device
        return self._restorer[1:]


def _looked_at(size: tuple[int, int]) -> tuple[int, int]:
    """The image scaled for detection: shorter side 640 pixels, but the longer one at most four times that."""
    factor = min(LOOKED_AT / min(size), 4 * LOOKED_AT / max(size))
    return max(round(size[0] * factor), 1), max(round(size[1] * factor), 1)


def _stamp(path: Path) -> tuple[Path, int]:
    return path, path.stat().st_mtime_ns if path.exists() else 0


def _tensor(image: Image.Image) -> Tensor:
    """The image as a tensor (1, 3, h, w), 0 to 255."""
    import torch

    return torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1).float()[None]


def _drawn(network: GFPGAN | CodeFormer, device: Device, face: Image.Image, weight: float) -> Image.Image:
    """Run one face through the network; GFPGAN takes no weight."""
    import torch

    from modules.nn.codeformer import CodeFormer

    with torch.no_grad():
        x = device.place(_tensor(face) / 127.5 - 1)
        y = network(x, weight) if isinstance(network, CodeFormer) else network(x)
        levels = ((y[0].float().clamp(-1, 1) + 1) * 127.5).round().byte()
    return Image.fromarray(levels.permute(1, 2, 0).cpu().contiguous().numpy())


# ------------------------------------------------------------------------------------------------------------- files


@dataclass(frozen=True)
class Wanted:
    """A model file by its usual name, and the folders in which people keep it."""

    role: str
    name: str
    folders: tuple[str, ...]
    start: str
    """Lower-case prefix of other versions' names."""

    def find(self, models_dir: Path, further: Sequence[Path] = ()) -> Path | None:
        """The file with the usual name, else the matching one whose name sorts last; None if there is none."""
        names = {folder.casefold() for folder in self.folders}
        folders = [folder for folder in folders_in(models_dir) if folder.name.casefold() in names]
        files = [
            file.path for folder in (*folders, *further) for file in list_models(folder, (".safetensors", *PICKLES))
        ]
        fitting = sorted(
            (f for f in files if f.name.casefold().startswith(self.start)), key=lambda f: f.name.casefold()
        )
        return next((f for f in fitting if f.name == self.name), fitting[-1] if fitting else None)


DETECTOR = Wanted(
    "face detector",
    "detection_Resnet50_Final.pth",
    ("GFPGAN", "Codeformer", "facelib", "facexlib", "facedetection"),
    "detection_resnet50",
)
RESTORERS = {
    "CodeFormer": Wanted("face restorer", "codeformer-v0.1.0.pth", ("Codeformer", "facerestore_models"), "codeformer"),
    "GFPGAN": Wanted("face restorer", "GFPGANv1.4.pth", ("GFPGAN", "facerestore_models"), "gfpgan"),
}
"""In A1111's order; the first folder of each is where A1111 puts it."""


@dataclass(frozen=True)
class FileRestorer:
    """The `FaceRestorer` of two network files."""

    detector: Path
    restorer: Path
    networks: FaceNetworks

    def __call__(self, image: Image.Image, weight: float, /) -> Image.Image:
        return self.networks.restore(self.detector, self.restorer, image, weight)


def file_restorers(
    models_dir: Path, networks: FaceNetworks, further: Sequence[Path] = ()
) -> tuple[list[FaceRestorerSpec], dict[str, str]]:
    """The face restorers whose files are present, there or in ``further`` folders; and for each other one, which file
    is missing in which folder.
    """
    there, absent = [], {}
    detector = DETECTOR.find(models_dir, further)
    for name, wanted in RESTORERS.items():
        restorer = wanted.find(models_dir, further)
        if detector and restorer:
            files = (wanted.role, restorer), (DETECTOR.role, detector)
            there.append(FaceRestorerSpec(name, FileRestorer(detector, restorer, networks), files))
        else:
            missing = [file for file, path in ((wanted, restorer), (DETECTOR, detector)) if path is None]
            places = (f"{file.name} is missing in {models_dir.name}/{file.folders[0]}" for file in missing)
            absent[name] = " and ".join(places)
    return there, absent
