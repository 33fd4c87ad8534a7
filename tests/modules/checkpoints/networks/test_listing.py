"""Which files there are, which one a name means, and how fast thousands are listed."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.numpy import save_file

from modules.checkpoints.networks.cards import Cards, chosen
from modules.checkpoints.networks.listing import NetworkFolders
from modules.checkpoints.networks.shelf import HYPERNETWORK, LORA, NetworkShelf
from modules.checkpoints.networks.side_files import (
    UserMetadata,
    changed,
    read_description,
    read_downloaded,
    read_user,
    write_preview,
    write_user,
)


def write(path: Path, metadata: dict[str, str] | None = None, key: str = "w", shape: tuple[int, ...] = (1,)) -> Path:
    """A safetensors file with one tensor."""
    size = 4 * int(np.prod(shape))
    table = {"__metadata__": metadata or {}, key: {"dtype": "F32", "shape": shape, "data_offsets": [0, size]}}
    header = json.dumps(table).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(size))
    return path


def test_a_later_file_of_one_name_counts_and_its_alias_no_more(tmp_path: Path) -> None:
    write(tmp_path / "Lora" / "ink.safetensors")
    write(tmp_path / "LyCORIS" / "ink.safetensors")
    found = NetworkShelf(tmp_path).read().find("ink")
    assert found is not None and found.path.parent.name == "LyCORIS"


def test_numbers_in_names_are_in_order(tmp_path: Path) -> None:
    for name in ("v10", "v2", "V1"):
        write(tmp_path / f"{name}.safetensors")
    assert [file.stem for file in NetworkFolders([tmp_path]).read().files] == ["V1", "v2", "v10"]


def test_what_headers_say_is_kept_until_the_file_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from modules.checkpoints.networks import listing

    path = write(tmp_path / "Lora" / "ink.safetensors", {"ss_output_name": "brush"})
    NetworkShelf(tmp_path, tmp_path / "data").read()
    monkeypatch.setattr(listing, "describe", lambda path: pytest.fail("it was read already"))
    (file,) = NetworkShelf(tmp_path, tmp_path / "data").read().files
    assert file.alias == "brush"
    monkeypatch.undo()
    write(path, {"ss_output_name": "pen", "more": "of it"})
    assert NetworkShelf(tmp_path, tmp_path / "data").read().files[0].alias == "pen"


@pytest.mark.parametrize("content", ["{", "[]", '{"a": 1}', '{"a": {"alias": ["x"]}}'])
def test_a_cache_that_is_damaged_is_read_as_far_as_it_goes(content: str, tmp_path: Path) -> None:
    write(tmp_path / "Lora" / "ink.safetensors", {"ss_output_name": "brush"})
    (tmp_path / "networks.json").write_text(content, encoding="utf-8")
    assert NetworkShelf(tmp_path, tmp_path).read().files[0].alias == "brush"


@pytest.mark.parametrize(
    ("key", "shape", "family"),
    [
        ("lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k.lora_down.weight", (4, 768), "SD1"),
        ("lora_unet_input_blocks_1_1_transformer_blocks_0_attn2_to_v.lora_down.weight", (4, 1024), "SD2"),
        ("unet.down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k.lora_A.weight", (4, 2048), "SDXL"),
        ("lora_te2_text_model_encoder_layers_0_mlp_fc1.alpha", (1,), "SDXL"),
        ("lora_unet_double_blocks_0_img_attn_qkv.lora_down.weight", (4, 3072), "Flux"),
        ("lora_unet_down_blocks_0_resnets_0_conv1.lora_down.weight", (4, 320, 3, 3), ""),
    ],
)
def test_layers_tell_the_family(key: str, shape: tuple[int, ...], family: str, tmp_path: Path) -> None:
    write(tmp_path / "x.safetensors", key=key, shape=shape)
    assert NetworkFolders([tmp_path]).read().files[0].described.family == family


@pytest.mark.parametrize(
    ("keys", "kinds", "problem"),
    [
        (["lora_unet_input_blocks_1_1_proj_in.lora_down.weight"], (), "is no network: no layer"),
        (["model.weight"], (), "is no network: no layer"),
        (["bundle_emb.charm.string_to_param.*"], (), ""),
        (["unet.conv_in.lora_A.weight", "unet.conv_in.lora_B.weight", "x.y.diff"], ("LoRA", "full"), ""),
        (["diffusion_model.blocks.0.ffn.0.diff"], ("full",), "is for another kind of model"),
        (["transformer.transformer_blocks.0.attn.to_q.diff"], ("full",), "is for another kind of model"),
    ],
)
def test_names_of_layers_tell_kinds_and_what_is_no_network(
    keys: list[str], kinds: tuple[str, ...], problem: str, tmp_path: Path
) -> None:
    save_file({key: np.zeros(1, np.float32) for key in keys}, tmp_path / "x.safetensors")
    about = NetworkFolders([tmp_path]).read().files[0].described
    assert about.kinds == kinds
    assert about.problem.startswith(f"x.safetensors {problem}") if problem else not about.problem


def test_a_hypernetwork_without_widths_is_none(tmp_path: Path) -> None:
    (tmp_path / "hypernetworks").mkdir()
    torch.save({"step": 5}, tmp_path / "hypernetworks" / "x.pt")
    (file,) = NetworkShelf(tmp_path).read(HYPERNETWORK).files
    assert file.described.problem == "x.pt is no hypernetwork: it holds no networks"


@pytest.mark.parametrize("content", ["{", "[]", '{"a": 1}'])
def test_a_damaged_record_of_tried_files_is_an_empty_one(content: str, tmp_path: Path) -> None:
    write(tmp_path / "Lora" / "ink.safetensors", key="unet.conv_in.diff")
    (tmp_path / "networks-tried.json").write_text(content, encoding="utf-8")
    shelf = NetworkShelf(tmp_path, tmp_path)
    shelf.remember(LORA, shelf.read().files[0], "it is damaged")
    assert [file.described.problem for file in NetworkShelf(tmp_path, tmp_path).read().files] == ["it is damaged"]


def test_files_of_a_recipe_are_found_by_content_under_their_old_names(tmp_path: Path) -> None:
    shelf = NetworkShelf(tmp_path)
    path = write(tmp_path / "Lora" / "new.safetensors", {"ss_output_name": "brush"})
    sha256 = shelf.sha256(shelf.read().files[0])
    found = shelf.recorded(LORA, [("old.safetensors", sha256), ("gone.safetensors", "0" * 64)])
    for name in ("old", "brush"):
        file = found.find(name)
        assert file is not None and file.path == path
    assert found.find("new") is None and found.find("gone") is None


def test_two_thousand_files_are_listed_at_once_and_read_beside_the_page(tmp_path: Path) -> None:
    """The page asks while headers are still read; what they say arrives later."""
    for n in range(2000):
        path = write(tmp_path / "Lora" / f"set{n % 20}" / f"n{n:04}.safetensors", {"ss_output_name": f"alias {n}"})
        if n % 4 == 0:
            path.with_suffix(".json").write_text('{"activation text": "word"}', encoding="utf-8")
    cards = Cards(NetworkShelf(tmp_path, tmp_path / "data"))
    assert len(cards.list()) == 2000
    deadline = time.monotonic() + 60
    while any(card.name.startswith("n") for card in cards.list()) and time.monotonic() < deadline:
        time.sleep(0.05)
    listed = cards.list()
    assert {card.name for card in listed} == {f"alias {n}" for n in range(2000)}
    assert sum(card.user.activation_text == "word" for card in listed) == 500


def test_a_card_whose_name_means_another_file_names_that_one(tmp_path: Path) -> None:
    write(tmp_path / "Lora" / "old" / "ink.safetensors", {"ss_output_name": "brush"})
    write(tmp_path / "Lora" / "other.safetensors")
    write(tmp_path / "LyCORIS" / "ink.safetensors")
    shelf = NetworkShelf(tmp_path)
    shelf.read()
    cards = Cards(shelf)
    assert [(card.name, card.meant) for card in cards.list()] == [
        ("brush", ""),
        ("other", ""),
        ("ink", ""),
    ]
    write(tmp_path / "LyCORIS" / "brush.safetensors", {"ss_output_name": "brush"})
    shelf.read()
    assert {card.file.path.name: card.meant for card in cards.list() if card.name == "ink"} == {
        "ink.safetensors": "",
    }
    first, *_ = [card for card in cards.list() if card.folder == "Lora/old"]
    assert (first.name, first.meant) == ("ink", "LyCORIS/ink.safetensors")


def test_cards_are_found_by_words_folders_and_families(tmp_path: Path) -> None:
    tags = json.dumps({"10_x": {"cat": 5, "hat": 2}})
    write(tmp_path / "Lora" / "animals" / "felix.safetensors", {"ss_tag_frequency": tags, "ss_v2": "False"})
    write(tmp_path / "Lora" / "xl.safetensors", {"ss_base_model_version": "sdxl_base_v1-0"})
    write(tmp_path / "Lora" / "plain.safetensors")
    shelf = NetworkShelf(tmp_path)
    shelf.read()
    cards = Cards(shelf).list()

    def names(**wanted: str) -> list[str]:
        return [card.file.stem for card in chosen(cards, **wanted)]

    assert names(search="hat CAT") == names(search="lora/animals") == ["felix"]
    assert names(family="SD1") == ["felix", "plain"]
    assert names(family="SDXL") == ["plain", "xl"]
    assert names(sort="Name") == ["felix", "plain", "xl"]
    assert names(folder="Lora/animals") == ["felix"] and len(names(folder="Lora")) == 3 and not names(folder="Lora/a")
    assert [card.folder for card in cards] == ["Lora/animals", "Lora", "Lora"]


def test_a_hypernetworks_card_writes_its_tag(tmp_path: Path) -> None:
    (tmp_path / "hypernetworks").mkdir()
    (tmp_path / "hypernetworks" / "anime.pt").write_bytes(b"")
    (card,) = Cards(NetworkShelf(tmp_path), default_weight=0.8).list(HYPERNETWORK)
    assert card.insertion.text == "<hypernet:anime:0.8>"


def test_what_a_person_chose_is_kept_with_what_others_wrote(tmp_path: Path) -> None:
    model = tmp_path / "ink.safetensors"
    model.with_suffix(".json").write_text('{"sd version": "SDXL", "theirs": [1]}', encoding="utf-8")
    write_user(model, changed(model, preferred_weight=0.7, notes="for skies"))
    table = json.loads(model.with_suffix(".json").read_text(encoding="utf-8"))
    assert table == {
        "sd version": "SDXL",
        "theirs": [1],
        "description": "",
        "notes": "for skies",
        "activation text": "",
        "preferred weight": 0.7,
    }
    assert read_user(model).preferred_weight == 0.7 and read_user(model).others == {"theirs": [1]}


def test_notes_do_not_hide_the_description_of_the_txt(tmp_path: Path) -> None:
    model = tmp_path / "ink.safetensors"
    model.with_suffix(".txt").write_text("for skies", encoding="utf-8")
    write_user(model, changed(model, notes="mine"))
    assert read_user(model).description == "for skies"
    write_user(model, changed(model, description=""))
    write_user(model, changed(model, notes="others"))
    assert read_user(model).description == ""


@pytest.mark.parametrize("text", ["", "[1]", '"x"', '{"preferred weight": "much", "notes": 5}', "\ufeff{}"])
def test_a_file_that_says_nothing_of_use_says_nothing(text: str, tmp_path: Path) -> None:
    model = tmp_path / "ink.safetensors"
    model.with_suffix(".json").write_text(text, encoding="utf-8")
    assert read_user(model) == UserMetadata()


def test_downloaders_files_give_words_and_prompts(tmp_path: Path) -> None:
    model = tmp_path / "ink.safetensors"
    civitai = {
        "id": 7,
        "modelId": 5,
        "name": "v2",
        "baseModel": "SD 1.5",
        "trainedWords": ["brush", "ink wash"],
        "images": [{"url": "x", "meta": None}, {"meta": {"prompt": "a crane", "negativePrompt": "blurry"}}],
        "model": {"name": "Ink"},
    }
    own = {"ModelName": "Ink", "TrainedWords": ["pen"], "BaseModel": "SDXL 1.0", "VersionName": "v3"}
    model.with_suffix(".cm-info.json").write_text(json.dumps(own), encoding="utf-8")
    assert read_downloaded(model).trained_words == ("pen",)
    model.with_suffix(".civitai.info").write_text(json.dumps(civitai), encoding="utf-8")
    found = read_downloaded(model)
    assert (found.name, found.version, found.trained_words) == ("Ink", "v2", ("brush", "ink wash"))
    assert found.prompts == ("a crane", "blurry") and found.url == "https://civitai.com/models/5"
    model.with_suffix(".civitai.info").write_text("{}", encoding="utf-8")
    assert read_downloaded(model).trained_words == ("pen",)


def test_descriptions_and_previews_lie_beside(tmp_path: Path) -> None:
    model = write(tmp_path / "Lora" / "ink.safetensors")
    model.with_suffix(".description.txt").write_text("long", encoding="utf-8")
    assert read_description(model) == "long"
    model.with_suffix(".txt").write_text("short", encoding="utf-8")
    assert read_description(model) == "short"
    model.with_suffix(".preview.jpg").write_bytes(b"")
    assert Cards(NetworkShelf(tmp_path)).list()[0].preview == model.with_suffix(".preview.jpg")
    path = write_preview(model, Image.new("RGB", (8, 8), "red"), "a fox\nSteps: 4")
    assert Cards(NetworkShelf(tmp_path)).list()[0].preview == path
    with Image.open(path) as image:
        assert image.info["parameters"] == "a fox\nSteps: 4"


def test_a_card_shows_what_changed_since(tmp_path: Path) -> None:
    model = write(tmp_path / "Lora" / "ink.safetensors")
    cards = Cards(NetworkShelf(tmp_path))
    assert cards.list()[0].description == ""
    model.with_suffix(".txt").write_text("for skies", encoding="utf-8")
    assert cards.list()[0].description == "for skies"
    write_user(model, changed(model, description=""))
    os.utime(model.with_suffix(".json"), ns=(1, 1))
    assert cards.list()[0].description == ""
