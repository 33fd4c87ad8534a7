"""What clients of A1111's ControlNet extension ask, answered without a page and without a model."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from starlette.testclient import TestClient

from extensions import controlnet
from modules.errors import UserError
from modules.extension.host import Host, Owner
from tests.webui.conftest import ORIGIN
from tests.webui.fake_server import services
from webui.api.sdapi.asking import read_request
from webui.server import create_app
from webui.services import Services

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "controlnet.json").read_text(encoding="utf-8"))
EVERYTHING = frozenset(("modifier", "route", "setting", "slot"))


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Services]:
    with services(tmp_path_factory.mktemp("server")) as made:
        models = tmp_path_factory.mktemp("models")
        (models / "ControlNet").mkdir()
        for name in ("control_v11p_sd15_canny.pth", "control_sd15_depth.safetensors"):
            (models / "ControlNet" / name).write_bytes(b"short")
        made.host.models = models
        part = Host(Owner("controlnet", "1.0", permissions=EVERYTHING), made.host.reserved, models)
        controlnet.register(part)
        made.host.take(part)
        yield made


@pytest.fixture(scope="module")
def client(given: Services) -> Iterator[TestClient]:
    with TestClient(create_app(given, page=False), base_url=ORIGIN) as made:
        yield made


def png(image: Image.Image) -> str:
    file = io.BytesIO()
    image.save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


SQUARE = png(Image.new("RGB", (8, 8), (10, 20, 30)))


def test_lists_are_at_the_paths_that_clients_know(client: TestClient) -> None:
    assert client.get("/controlnet/version").json() == {"version": 3}
    assert client.get("/controlnet/settings").json() == {"control_net_unit_count": 3}
    entries = ["control_sd15_depth [e3b0c442]", "control_v11p_sd15_canny [e3b0c442]"]
    assert client.get("/controlnet/model_list?update=true").json() == {"model_list": entries}
    modules = client.get("/controlnet/module_list").json()
    assert modules["module_list"] == [row[0] for row in GOLDEN["registry"]["rows"]]
    for name, detail in GOLDEN["module_detail"]["rows"].items():
        assert modules["module_detail"][name] == detail
    labels = client.get("/controlnet/module_list?alias_names=true").json()["module_list"]
    assert labels == [row[1] or row[0] for row in GOLDEN["registry"]["rows"]]
    types = client.get("/controlnet/control_types").json()["control_types"]
    assert list(types) == list(GOLDEN["control_types"]["types"])
    assert types["Canny"]["model_list"] == ["None", entries[1]] and types["Canny"]["default_model"] == entries[1]
    assert client.get("/api/ext/controlnet/version").json() == {"version": 3}
    assert (
        client.get("/controlnet/nothing").status_code == 404 and client.post("/controlnet/version").status_code == 404
    )


def test_pictures_are_preprocessed_for_clients(client: TestClient) -> None:
    def ask(**values: Any) -> Any:
        return client.post("/controlnet/detect", json={f"controlnet_{name}": value for name, value in values.items()})

    answer = ask(module="invert", input_images=[SQUARE]).json()
    assert answer["info"] == "Success"
    found = Image.open(io.BytesIO(base64.b64decode(answer["images"][0])))
    assert found.size == (8, 8) and found.getpixel((0, 0)) == (245, 235, 225)
    refusals: dict[str, dict[str, Any]] = {
        "Module not available": {"module": "nothing"},
        "Module not supported": {"module": "revision_clipvision", "input_images": [SQUARE]},
        "No image selected": {"module": "canny"},
        "Preprocessor inpaint_only requires `controlnet_masks` param.": {
            "module": "inpaint_only",
            "input_images": [SQUARE],
        },
        "needs a network of its own": {"module": "depth_midas", "input_images": [SQUARE]},
    }
    for sentence, values in refusals.items():
        refused = ask(**values)
        assert refused.status_code == 422 and sentence in refused.json()["detail"], sentence
    assert ask(module="none", input_images=["?"]).status_code == 422


def test_units_of_always_on_scripts_become_options(given: Services) -> None:
    unit = {"enabled": True, "module": "canny", "model": "canny", "image": SQUARE, "weight": 0.5, "lowvram": True}
    for title in ("controlnet", "ControlNet"):
        body = {"prompt": "a fox", "alwayson_scripts": {title: {"args": [{"enabled": False}, unit, 7]}}}
        asked = read_request(given, "txt2img", body, {})
        options = asked.params.extensions["controlnet"]
        assert options["units_2_on"] and "units_1_on" not in options
        assert options["units_2_model"] == "control_v11p_sd15_canny.pth"
        assert (options["units_2_weight"], options["units_2_low_vram"]) == (0.5, True)
        assert given.inputs.open(str(options["units_2_image"])).getpixel((3, 3)) == (10, 20, 30)
    off = {"alwayson_scripts": {"controlnet": {"args": [{**unit, "enabled": False}]}}}
    assert "controlnet" not in read_request(given, "txt2img", off, {}).params.extensions
    with pytest.raises(UserError, match="weight of a ControlNet unit must be between 0 and 2"):
        read_request(given, "txt2img", {"alwayson_scripts": {"controlnet": {"args": [{"weight": 3}]}}}, {})


def test_texts_of_other_programs_are_pasted_into_units(given: Services) -> None:
    text = (
        GOLDEN["infotext_read"]["rows"][0][0]
        .replace("d14c016b", "e3b0c442")
        .replace("Threshold A: 100", "Threshold A: 90")
    )
    pasted = f'a fox\nSteps: 20, Seed: 1, ControlNet 0: "{text}", ControlNet 1: "broken", Version: v1.10.1'
    asked = read_request(given, "txt2img", {"infotext": pasted}, {})
    options = asked.params.extensions["controlnet"]
    assert options["units_1_on"] and not options["units_2_on"]
    assert any("ControlNet 1 is left out: a ControlNet unit in the text cannot be read" in note for note in asked.notes)
    assert (options["units_1_module"], options["units_1_model"]) == ("canny", "control_v11p_sd15_canny.pth")
    assert (options["units_1_threshold_a"], options["units_1_threshold_b"]) == (90.0, -1.0)  # 200 is the usual
