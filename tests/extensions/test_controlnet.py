"""The ControlNet extension against the reference data, function by function."""

from __future__ import annotations

import base64
import importlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from extensions.controlnet import hints, models, preprocessors, previews, registry, units
from modules.errors import UserError

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "controlnet.json").read_text(encoding="utf-8"))
HAS_OPENCV = importlib.util.find_spec("cv2") is not None
needs_opencv = pytest.mark.skipif(not HAS_OPENCV, reason="opencv-python-headless is not installed")
INPUTS = GOLDEN["api_image"]["inputs"]


def pixels(text: str) -> NDArray[np.uint8]:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(text.rpartition(",")[2]))))


def filled(value: Any) -> Any:
    """A request of the reference data with its pictures."""
    if isinstance(value, str) and value.startswith("$"):
        return INPUTS[value[1:]]
    if isinstance(value, dict):
        return {key: filled(inner) for key, inner in value.items()}
    return [filled(inner) for inner in value] if isinstance(value, list) else value


# ------------------------------------------------------------------------------------------------------------ registry


def test_modules_are_the_references_in_its_order() -> None:
    rows = []
    for module in registry.MODULES.values():
        slider = [[s.lo, s.hi, s.default, s.step, s.label] if s else None for s in (module.a, module.b)]
        res = module.resolution
        size = [res.lo, res.hi, res.default] if res else None
        label = "" if module.label == module.name else module.label
        rows.append([module.name, label, list(module.types), size, *slider, module.flags])
    assert rows == [[*row[:3], *row[4:]] for row in GOLDEN["registry"]["rows"]]


def test_details_of_modules_are_the_references() -> None:
    for name, told in GOLDEN["module_detail"]["rows"].items():
        assert registry.MODULES[name].detail() == told


def test_control_types_have_the_references_modules_and_models() -> None:
    sample = GOLDEN["control_types"]["sample_models"]
    assert list(registry.TYPES) == list(GOLDEN["control_types"]["types"])
    for kind in registry.types_of(sample):
        module, numbers, model, *_ = GOLDEN["control_types"]["types"][kind.name]
        assert (kind.default_module, kind.default_model) == (module, model), kind.name
        assert list(kind.models) == [sample[i] for i in numbers], kind.name


def test_union_models_are_told_the_references_kind() -> None:
    for kind, (name, number) in GOLDEN["union_type"]["rows"].items():
        assert registry.UNION_TYPE_OF.get(kind, registry.UNKNOWN) == name
        assert registry.union_type(registry.MODULES["none"], name) == number
    assert registry.union_type(registry.MODULES["canny"], registry.UNKNOWN) == 3


# -------------------------------------------------------------------------------------------------------------- models


def test_families_are_told_by_names_as_the_reference_does() -> None:
    assert {name: models.family_of(name) for name in GOLDEN["model_family_by_name"]["rows"]} == GOLDEN[
        "model_family_by_name"
    ]["rows"]


def test_names_of_models_mean_what_they_mean_to_the_reference() -> None:
    entries = {entry: entry for entry in GOLDEN["control_types"]["sample_models"]}
    for name, entry in GOLDEN["model_lookup"]["rows"]:
        assert models.found(name, entries) == entry, name


def test_a_short_file_has_the_hash_of_nothing(tmp_path: Path) -> None:
    (tmp_path / "a.safetensors").write_bytes(b"short")
    listed = models.Models(lambda: {"a.safetensors": tmp_path / "a.safetensors"})
    assert listed.entries() == {"a [e3b0c442]": "a.safetensors"}
    assert listed.entry("a.safetensors") == "a [e3b0c442]" and listed.find("A") == "a.safetensors"
    long = bytes(range(256)) * 2**13
    (tmp_path / "b.pth").write_bytes(long)
    import hashlib

    assert models.hash8(tmp_path / "b.pth") == hashlib.sha256(long[2**20 : 2**20 + 2**16]).hexdigest()[:8]


# --------------------------------------------------------------------------------------------------------------- units


def test_a_unit_that_says_nothing_has_the_references_fields() -> None:
    assert units.read_unit({}) == GOLDEN["api_defaults"]["fields"]


@pytest.mark.parametrize("row", GOLDEN["api_fields"]["rows"], ids=lambda row: json.dumps(row[0])[:60])
def test_fields_of_units_are_read_as_the_reference_reads_them(row: list[Any]) -> None:
    given, differing = row
    if isinstance(differing, str):
        with pytest.raises(UserError):
            units.read_unit(filled(given))
        return
    found = units.read_unit(filled(given))
    changed = {name: value for name, value in found.items() if value != units.DEFAULTS[name]}
    if "effective_region_mask" in differing:
        assert list(pixels(changed["effective_region_mask"]).shape) == [2, 3, 3]
        changed["effective_region_mask"] = differing["effective_region_mask"]
    assert changed == differing


@pytest.mark.parametrize("row", GOLDEN["api_image"]["rows"], ids=lambda row: json.dumps(row[0])[:60])
def test_pictures_of_units_are_read_as_the_reference_reads_them(row: list[Any]) -> None:
    given, expected = row
    if isinstance(expected, str):
        with pytest.raises(UserError):
            for image, mask in units.read_unit({**filled(given), "enabled": True})["image"]:
                hints.with_mask(Image.fromarray(pixels(image)), Image.fromarray(pixels(mask)) if mask else None)
        return
    found = units.read_unit({**filled(given), "enabled": True})["image"]
    arrays = found and [
        hints.with_mask(Image.fromarray(pixels(image)), Image.fromarray(pixels(mask)) if mask else None).tolist()
        for image, mask in found
    ]
    assert arrays == expected


def test_only_units_that_are_enabled_and_within_the_count_take_part() -> None:
    off, on = {"model": "x"}, {"enabled": True, "model": "x", "image": "abc"}
    find = {"x": "x.pth"}.get
    found = units.from_args([off, 7, on, on, on], 3, find)
    assert found is not None and found["units_2_on"] and found["units_2_model"] == "x.pth"
    assert not any(name.startswith(("units_1_", "units_3_")) for name in found)
    assert units.from_args([off], 3, find) is None
    with pytest.raises(UserError, match="no ControlNet model 'y'"):
        units.from_args([{**on, "model": "y"}], 3, find)


@pytest.mark.parametrize("row", GOLDEN["infotext_write"]["rows"], ids=lambda row: json.dumps(row[0])[:60])
def test_texts_of_units_are_the_references(row: list[Any]) -> None:
    given, text = row
    assert units.write_unit(units.read_unit({**given, "enabled": True})) == text


@pytest.mark.parametrize("row", GOLDEN["infotext_read"]["rows"], ids=lambda row: row[0][:60])
def test_texts_of_units_are_read_as_the_reference_reads_them(row: list[Any]) -> None:
    text, expected = row
    if isinstance(expected, str):
        with pytest.raises(UserError):
            units.read_text(text)
    else:
        assert units.read_text(text) == expected


# -------------------------------------------------------------------------------------------------------------- hints


def test_resolutions_and_places_are_the_references() -> None:
    for h, w, height, width, crop, fill in GOLDEN["pixel_perfect"]["rows"]:
        assert hints.pixel_perfect(h, w, height, width, units.CROP) == crop
        assert hints.pixel_perfect(h, w, height, width, units.JUST) == crop
        assert hints.pixel_perfect(h, w, height, width, units.FILL) == fill
    for h, w, height, width, mode, expected in GOLDEN["resize_geometry"]["rows"]:
        assert list(hints.placed(h, w, height, width, mode)) == expected


@needs_opencv
@pytest.mark.parametrize("case", GOLDEN["resize_content"]["cases"], ids=lambda case: case["name"])
def test_hints_are_resized_as_the_reference_resizes_them(case: dict[str, Any]) -> None:
    picture = pixels(case["input"])
    for mode, height, width, _, text in case["out"]:
        expected = pixels(text).astype(int)
        found = hints.fitted(picture, height, width, mode).astype(int)
        assert found.shape == expected.shape
        assert np.abs(found - expected).max() <= (1 if case["name"] == "inpaint" else 0), mode


@needs_opencv
@pytest.mark.parametrize("case", GOLDEN["preprocessors"]["cases"], ids=lambda case: f"{case['module']} {case['a']}")
def test_preprocessors_give_the_references_pictures(case: dict[str, Any]) -> None:
    name = case["module"]
    picture = pixels(GOLDEN["preprocessors"]["inpaint_input" if name == "inpaint_only" else "input"])
    given = preprocessors.Arguments(case["res"], case["a"], case["b"], case.get("numpy_seed", 0))
    found = preprocessors.PREPROCESSORS[name](picture, given)
    expected = pixels(case["out"])
    assert list(found.shape) == case["shape"]
    difference = np.abs(found.astype(int) - expected.reshape(found.shape).astype(int)).max()
    assert difference <= (3 if name == "shuffle" else 0)


def test_modules_without_weights_are_named_in_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    square = np.zeros((8, 8, 3), np.uint8)
    with pytest.raises(UserError, match="depth_midas needs a network of its own"):
        preprocessors.preprocessed(registry.MODULES["depth"], square, -1, -1, -1)
    monkeypatch.setattr(preprocessors, "has_opencv", lambda: False)
    with pytest.raises(UserError, match=r"canny needs OpenCV; install it with: python3 app.py install-extension"):
        preprocessors.preprocessed(registry.MODULES["canny"], square, -1, -1, -1)
    assert preprocessors.preprocessed(registry.MODULES["invert"], square, -1, -1, -1).min() == 255


def test_a_preview_shows_what_the_preprocessor_makes() -> None:
    class Slot:
        @staticmethod
        def stored(name: str) -> Image.Image:
            return Image.new("RGB", (4, 4), (10, 20, 30))

    unit = {"image": "a", "mask": "", "module": "invert (from white bg & black line)", "pixel_perfect": True}
    unit |= {"processor_res": -1, "threshold_a": -1, "threshold_b": -1, "resize_mode": units.CROP}
    html = previews.preview(Slot, unit, (64, 64))
    shown = pixels(html.partition("base64,")[2].partition('"')[0])
    assert shown.shape == (4, 4, 3) and shown[0, 0].tolist() == [245, 235, 225]
    with pytest.raises(UserError, match="the unit has no image"):
        previews.preview(Slot, {**unit, "image": ""}, (64, 64))


def test_a_unit_as_usual_comes_back_from_its_text_alone() -> None:
    values = {f"units_1_{name}": value for name, value in vars(units.Unit(module="canny", model="x.pth")).items()}
    texts = units.texts_of({"units_1_on": True, **values}, 1, lambda file: "x [e3b0c442]")
    heard: list[str] = []
    found = units.options_of_texts(texts, {"x [e3b0c442]": "x.pth"}.get, heard.append)
    assert found == {name: value for name, value in {**values, "units_1_on": True}.items() if name in found}
    assert len(found) == 1 + len(units.TOLD) and heard == []
