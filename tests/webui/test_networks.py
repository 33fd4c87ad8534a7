"""Networks over HTTP: listed, searched, told of, edited by administrators, no place on the disk is told."""

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

from modules.accounts import ADMIN, USER, Accounts
from modules.extension.host import Host
from modules.extension.loader import Loader
from modules.extension.manifest import Refused
from modules.extension.page import CardsSpec
from tests.modules.extension.test_loader import ROOT, write
from tests.webui.conftest import ORIGIN
from tests.webui.fake_server import CHECKPOINTS, services, write_model
from webui.server import create_app
from webui.services import Services


@pytest.fixture
def made(tmp_path: Path) -> Iterator[Services]:
    with services(tmp_path) as found:
        assert found.networks
        found.networks._shelf.read()
        yield found


@pytest.fixture
def web(made: Services) -> Iterator[TestClient]:
    with TestClient(create_app(made), base_url=ORIGIN, raise_server_exceptions=False) as client:
        yield client


def told(web: TestClient, **query: Any) -> dict[str, Any]:
    answer = web.get("/api/v1/networks", params=query)
    assert answer.status_code == 200, answer.text
    found = answer.json()
    assert isinstance(found, dict)
    return found


def names(web: TestClient, **query: Any) -> list[str]:
    return [one["name"] for one in told(web, **query)["networks"]]


def card(web: TestClient, name: str, **query: Any) -> dict[str, Any]:
    (found,) = [one for one in told(web, **query)["networks"] if one["name"] == name]
    assert isinstance(found, dict)
    return found


def test_cards_are_searched_by_words_and_folders_and_families(web: TestClient) -> None:
    assert names(web) == ['<b>"quote"', "broken", "ann", "xl", "ink wash", "locon"]
    assert names(web, search="BRUSH lora/styles") == ["ink wash"]
    assert names(web, folder="Lora/styles") == ["xl", "ink wash"]
    assert names(web, family="SDXL", sort="Name") == ['<b>"quote"', "ann", "broken", "xl"]
    assert told(web, limit=2, offset=1)["count"] == 6 and names(web, limit=2, offset=1) == ["broken", "ann"]
    assert names(web, kind="hypernetwork") == ["anime"]
    assert len(names(web, kind="embedding")) == 34 and len(names(web, kind="embedding", family="SD2")) == 1
    assert sorted(names(web, kind="checkpoint")) == sorted(CHECKPOINTS)


def test_a_card_has_what_a_click_writes_and_no_place_on_the_disk(web: TestClient, made: Services) -> None:
    ink = card(web, "ink wash")
    assert (ink["insert"], ink["negative"], ink["weight"]) == ("<lora:ink wash:0.7> brush strokes", "(photo:1)", 0.7)
    assert (ink["folder"], ink["file"], ink["trigger_words"]) == (
        "Lora/styles",
        "ink_v1.safetensors",
        ["brush strokes"],
    )
    full = web.get(f"/api/v1/networks/lora/{ink['key']}").json()
    assert full["tags"] == {"brush": 12, "paper": 7, "<b>ink</b>": 3}
    assert full["facts"] == {"Output name": "ink wash", "Resolution": "768x512", "Dataset size": 22}
    for answer in (ink, full, told(web), told(web, kind="embedding"), told(web, kind="checkpoint")):
        assert str(made.data_dir) not in json.dumps(answer)


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/api/v1/networks?kind=nonsense", 404),
        ("/api/v1/networks?sort=Colour", 422),
        ("/api/v1/networks?offset=-1", 422),
        ("/api/v1/networks/lora/0123456789abcdef", 404),
        ("/api/v1/networks/nonsense/0123456789abcdef", 404),
        ("/api/v1/networks/lora/0123456789abcdef/preview", 404),
        ("/page/networks?kind=..%2F..", 404),
        ("/page/networks/lora/..%2Fetc", 404),
    ],
)
def test_what_is_not_there_is_said_in_a_sentence(web: TestClient, path: str, status: int) -> None:
    answer = web.get(path)
    assert answer.status_code == status and answer.json()["detail"]


def test_what_a_person_writes_lies_beside_the_file_and_on_the_card(web: TestClient, made: Services) -> None:
    ink = card(web, "ink wash")
    values = {"notes": "for <b>skies</b>", "preferred_weight": -0.5, "family": "SDXL", "activation_text": "wet"}
    answer = web.post(f"/api/v1/networks/lora/{ink['key']}", json=values)
    assert answer.status_code == 200 and answer.json()["insert"] == "<lora:ink wash:-0.5> wet"
    assert answer.json()["family"] == "SDXL"
    kept = json.loads((made.data_dir / "models/Lora/styles/ink_v1.json").read_text("utf-8"))
    assert kept["sd version"] == "SDXL" and kept["preferred weight"] == -0.5 and kept["negative text"] == "photo"
    for wrong in (
        {"family": "SD9"},
        {"preferred_weight": "much"},
        {"preferred_weight": 1e9},
        {"notes": 5},
        {"vae": "x"},
    ):
        assert web.post(f"/api/v1/networks/lora/{ink['key']}", json=wrong).status_code == 422, wrong


def test_a_table_that_cannot_be_read_is_not_written_over(web: TestClient, made: Services) -> None:
    ink = card(web, "ink wash")
    side = made.data_dir / "models/Lora/styles/ink_v1.json"
    side.write_text('{"notes": "half', encoding="utf-8")
    answer = web.post(f"/api/v1/networks/lora/{ink['key']}", json={"notes": "new"})
    assert answer.status_code == 422 and "cannot be read" in answer.json()["detail"]
    assert side.read_text("utf-8") == '{"notes": "half'


def png(colour: str, side: int = 700) -> bytes:
    data = io.BytesIO()
    Image.new("RGB", (side, side // 2), colour).save(data, "PNG")
    return data.getvalue()


@pytest.mark.parametrize(
    ("kind", "name", "written"),
    [
        ("lora", "locon", "LyCORIS/locon.png"),
        ("hypernetwork", "anime", "hypernetworks/anime.preview.png"),
        ("embedding", "my style", "embeddings/my style.preview.png"),
        ("checkpoint", CHECKPOINTS[1], f"Stable-diffusion/{CHECKPOINTS[1]}.png"),
    ],
)
def test_a_picture_becomes_a_preview(web: TestClient, made: Services, kind: str, name: str, written: str) -> None:
    one = card(web, name, kind=kind)
    assert one["preview"] is None and web.get(f"/api/v1/networks/{kind}/{one['key']}/preview").status_code == 404
    image = "data:image/png;base64," + base64.b64encode(png("red")).decode()
    answer = web.post(f"/api/v1/networks/{kind}/{one['key']}/preview", json={"image": image})
    assert answer.status_code == 200
    assert (made.data_dir / "models" / written).is_file()
    small = web.get(answer.json()["preview"])
    with Image.open(io.BytesIO(small.content)) as shown:
        assert shown.format == "WEBP" and shown.size == (384, 192)
    assert len(names(web, kind=kind)) == len(set(names(web, kind=kind)))
    assert card(web, name, kind=kind)["preview"] == answer.json()["preview"]


def test_a_picture_that_was_made_becomes_a_preview_with_its_text(web: TestClient, made: Services) -> None:
    job = web.post("/api/v1/jobs", json={"params": {"prompt": "a fox", "steps": 1, "seed": 5}}).json()
    assert web.get(job["events"]).status_code == 200  # until it has ended
    one = card(web, "locon")
    preview = f"/api/v1/networks/lora/{one['key']}/preview"
    assert web.post(preview, json={"job": job["id"], "index": 0}).status_code == 200
    with Image.open(made.data_dir / "models/LyCORIS/locon.png") as image:
        assert image.info["parameters"].startswith("a fox\n")
    assert web.post(preview, json={"job": job["id"], "index": 1}).status_code == 404
    assert web.post(preview, json={"job": "nobody's"}).status_code == 404
    assert web.post(preview, json={"image": "no picture"}).status_code == 422
    assert web.post(preview, json={}).status_code == 404


def test_a_file_carries_its_own_preview(web: TestClient, made: Services) -> None:
    covers = json.dumps([base64.b64encode(png("blue")).decode()])
    write_model(made.data_dir / "models/Lora/cover.safetensors", {"ssmd_cover_images": covers})
    write_model(made.data_dir / "models/Lora/odd.safetensors", {"ssmd_cover_images": "[5"})
    assert made.networks
    made.networks._shelf.read()
    found = web.get(card(web, "cover")["preview"])
    assert found.status_code == 200 and found.headers["content-type"] == "image/webp"
    assert web.get(card(web, "odd")["preview"]).status_code == 404


def test_others_than_administrators_look_and_do_not_touch(tmp_path: Path) -> None:
    accounts = Accounts(tmp_path / "users.db")
    accounts.add("ann", "a long password", ADMIN)
    accounts.add("uma", "a long password", USER)
    with services(tmp_path, accounts=accounts) as found, TestClient(create_app(found), base_url=ORIGIN) as web:
        assert web.get("/api/v1/networks").status_code == web.get("/page/networks").status_code == 401
        for name, status in (("uma", 403), ("ann", 200)):
            web.auth = (name, "a long password")
            one = card(web, "locon")
            assert web.post(f"/api/v1/networks/lora/{one['key']}", json={"notes": "x"}).status_code == status
            html = web.get(f"/page/networks/lora/{one['key']}").json()["html"]
            assert ("rp-net-save" in html) is (status == 200)


def test_the_panel_gets_what_fits_the_checkpoint(web: TestClient) -> None:
    def shown(**query: Any) -> dict[str, Any]:
        found = web.get("/page/networks", params=query).json()
        assert isinstance(found, dict)
        return found

    assert shown(fitting=True, checkpoint=CHECKPOINTS[0])["count"] == 5
    assert shown(fitting=True, checkpoint=CHECKPOINTS[1])["count"] == 4
    assert shown(fitting=False, checkpoint=CHECKPOINTS[1])["html"].count("does-not-fit") == 2
    assert shown(search="nothing is called so")["none"] == "Nothing here fits the search."
    others = shown(search="xl", fitting=True, checkpoint=CHECKPOINTS[0])
    assert others["count"] == 0 and "untick" in others["none"]
    first = shown(kind="embedding")
    assert (first["count"], first["next"], first["separator"]) == (34, 0, " ")


FINDER = """
from dataclasses import dataclass

from modules import CardsSpec, Modifier, ModifierSpec, option


@dataclass(frozen=True)
class Options:
    model: str = option("", "Finder model", kind="file:finders")


def register(host):
    host.add_modifier(ModifierSpec("finder", "Finder", Options, Modifier))
    host.add_cards(CardsSpec("finders", "Finders", folder="finders", option="finder.model"))
    host.add_cards(CardsSpec("words", "Words <b>", folder="words", insert="<find:{stem}> in {name}"))
"""


def test_files_of_an_extension_are_a_tab_of_the_panel(tmp_path: Path) -> None:
    """Previews, notes, search and folders as LoRAs have them; a click writes what the extension says, or sets its
    option, which takes the very name that the card has."""
    write(tmp_path / "extensions", "finder", FINDER, '"modifier", "cards"')
    with services(tmp_path / "data") as made:
        loader = Loader(tmp_path / "extensions", tmp_path / "data", ROOT, process="server")
        loader.load_all(made.host)
        assert [one.reason for one in loader.extensions.values()] == [""]
        models = made.data_dir / "models"
        (models / "words" / "old").mkdir(parents=True)
        (models / "words" / "old" / "face.v2.pt").write_bytes(b"anything")
        (models / "words" / "old" / "face.v2.txt").write_text("finds <i>faces</i>", encoding="utf-8")
        (models / "words" / "old" / "face.v2.png").write_bytes(png("red"))
        (models / "words" / "hand {name}.onnx").write_bytes(b"anything")
        (models / "finders").mkdir()
        (models / "finders" / "eye.safetensors").write_bytes(b"anything")
        with TestClient(create_app(made), base_url=ORIGIN, raise_server_exceptions=False) as web:
            (eye,) = told(web, kind="cards_finders")["networks"]
            assert (eye["name"], eye["option"]) == ("eye.safetensors", "finder.model")
            assert eye["name"] in made.tables()["file:finders"]()
            found = {one["name"]: one["insert"] for one in told(web, kind="cards_words")["networks"]}
            assert found == {
                "hand {name}.onnx": "<find:hand {name}> in hand {name}.onnx",
                "old/face.v2.pt": "<find:face.v2> in old/face.v2.pt",
            }
            assert names(web, kind="cards_words", search="FACES old/") == ["old/face.v2.pt"]
            face = card(web, "old/face.v2.pt", kind="cards_words")
            assert web.get(face["preview"]).headers["content-type"] == "image/webp"
            edited = web.post(f"/api/v1/networks/cards_words/{face['key']}", json={"notes": "good"})
            assert edited.status_code == 200
            assert json.loads((models / "words/old/face.v2.json").read_text("utf-8"))["notes"] == "good"
            wrong = web.post(f"/api/v1/networks/cards_words/{face['key']}", json={"preferred_weight": 1})
            assert wrong.status_code == 422 and "it has description, notes" in wrong.json()["hint"]
            html = web.get("/page/networks", params={"kind": "cards_finders"}).json()["html"]
            assert 'data-option="finder.model"' in html and 'data-name="eye.safetensors"' in html
            (models / "finders" / "eye.safetensors").unlink()
            nothing = web.get("/page/networks", params={"kind": "cards_finders"}).json()
            assert nothing["none"] == "There are no files here yet. Their folder: models/finders"
            components = web.get("/config").json()["components"]
            panel = next(c["props"]["value"] for c in components if c["props"].get("elem_id") == "rp_networks_home")
            assert 'data-kind="cards_words"' in panel and "Words &lt;b&gt;</button>" in panel
            assert not [c for c in components if "_cards_words" in str(c["props"].get("elem_id"))]  # no fold as well
            assert web.get("/api/v1/networks", params={"kind": "cards_gone"}).status_code == 404


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        (CardsSpec("x", "X"), "needs cards or a folder"),
        (CardsSpec("x", "X", list, "x"), "needs cards or a folder"),
        (CardsSpec("x", "X", folder="../x"), "no plain name or folder"),
        (CardsSpec("x y", "X", folder="x"), "no plain name or folder"),
        (CardsSpec("x", "X", folder="x", option="finder.model"), "takes none of x"),
    ],
)
def test_a_page_of_cards_that_cannot_work_is_refused(spec: CardsSpec, reason: str) -> None:
    with pytest.raises(Refused, match=reason):
        Host().add_cards(spec)
