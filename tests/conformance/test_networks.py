"""LoRA and its relatives against the reference's own numbers: names, changes of weights, tags, hashes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from modules.checkpoints.files import Hashes
from modules.checkpoints.networks.arguments import BadTag, strength_at, uses
from modules.checkpoints.networks.cards import Cards, clicked
from modules.checkpoints.networks.hashes import data_sha256, old_hash, short
from modules.checkpoints.networks.hypernetworks import Hypernetwork, activation_named, net, through
from modules.checkpoints.networks.keys import ldm_name, part_name
from modules.checkpoints.networks.kinds import change_of
from modules.checkpoints.networks.listing import NetworkFolders
from modules.checkpoints.networks.metadata import decoded, stated_family_forge, training_tags
from modules.checkpoints.networks.metadata import facts as facts_of
from modules.checkpoints.networks.shelf import NetworkShelf
from modules.diffusion.noise import PhiloxGenerator
from modules.params.profile import A1111
from modules.prompt.clock import Clock
from modules.prompt.schedule import Pass

Case = dict[str, Any]
KINDS = {"Lora": "LoRA", "Hada": "LoHa", "Ia3": "(IA)3", "Lokr": "LoKr", "Full": "full", "Norm": "norm"}


def normal(seed: int, shape: list[int]) -> torch.Tensor:
    return PhiloxGenerator(seed).randn(tuple(shape))


def tensors(case: Case) -> dict[str, torch.Tensor]:
    found = {}
    for i, (name, shape) in enumerate(case["tensors"].items()):
        if not isinstance(shape, list):
            found[name] = torch.tensor(shape)
        else:
            found[name] = 0.5 * normal(case["seed_base"] + i, shape)
            if name == "dora_scale":
                found[name] = found[name].abs() + 0.5
    return found


@pytest.mark.golden("lora.json", "deltas")
def test_a_layer_changes_as_the_reference_changes_it(case: Case) -> None:
    change = change_of({part_name(name): tensor for name, tensor in tensors(case).items()})
    assert change is not None and change.kind.name == KINDS.get(case["type"], case["type"].replace("GLora", "GLoRA"))
    text = "transformer" in case["target"] and not case["target"].startswith("diffusion_model")
    multiplier = case["te_multiplier"] if text else case["unet_multiplier"]
    weight = 0.5 * normal(case["seed_base"] + 900, case["weight_shape"])
    delta = change.weight_delta(weight, multiplier, case["dyn_dim"])
    wanted = torch.tensor(case["delta"]).reshape(case["delta_shape"])
    assert delta.shape == weight.shape
    assert (delta.reshape(wanted.shape) - wanted).abs().max() <= 1e-5 * wanted.abs().max()
    bias = change.bias_delta(multiplier)
    if case["bias_delta"] is None:
        assert bias is None
    else:
        assert bias is not None
        np.testing.assert_allclose(bias.numpy(), case["bias_delta"], rtol=1e-5, atol=1e-7)


@pytest.mark.golden("lora.json", "key_names")
def test_layers_have_the_names_of_the_reference(case: dict[str, str], request: pytest.FixtureRequest) -> None:
    sd2 = "sd2" in request.node.name
    assert {name: ldm_name(name, sd2=sd2) for name in case} == case


@pytest.mark.golden("lora.json", "prompt_arguments")
def test_tags_are_read_as_the_reference_reads_them(case: Case) -> None:
    clock = Clock(Pass(20, 20), 20, A1111)
    if case.get("error"):
        with pytest.raises(BadTag, match="is not a number"):
            uses(case["prompt"], clock)
        return
    found = uses(case["prompt"], clock)
    assert [use.name for use in found] == case["names"]
    assert [use.te for use in found] == case["te"]
    assert [use.unet for use in found] == case["unet"]
    assert [use.dyn for use in found] == case["dyn"]


@pytest.mark.golden("side_files.json", "lora_schedule")
def test_strengths_go_in_lines_as_forge_neo_has_them(case: Case) -> None:
    clock = Clock(Pass(case["steps"], case["steps"]), case["steps"], A1111)
    (use,) = uses(case["tag"], clock)
    assert use.te == 0
    weights = [strength_at(use.unet, clock, step, step) for step in range(case["steps"])]
    assert weights == pytest.approx(case["weights"])


@pytest.mark.golden("lora.json", "hashes")
def test_files_have_the_hashes_of_the_reference(case: Case, tmp_path: Path) -> None:
    path = safetensors_file(tmp_path / "x.safetensors", case["floats"], case["metadata"])
    assert path.stat().st_size == case["file_size"]
    assert Hashes().sha256(path) == case["sha256"]
    assert Hashes().sha256(path)[:10] == case["shorthash10"]
    assert data_sha256(path) == case["addnet_sha256"]
    assert short(data_sha256(path)) == case["lora_shorthash12"]
    assert old_hash(path) == case["old_hash8"]


def safetensors_file(path: Path, floats: int, metadata: dict[str, str] | None) -> Path:
    """As the reference data describes its files."""
    tensor = {"dtype": "F32", "shape": [floats], "data_offsets": [0, 4 * floats]}
    table = {"w": tensor} if metadata is None else {"__metadata__": metadata, "w": tensor}
    header = json.dumps(table, separators=(",", ":"), ensure_ascii=False).encode()
    header += b" " * (-len(header) % 8)
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(len(header).to_bytes(8, "little") + header + np.arange(floats, dtype="<f4").tobytes())
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Path:
    """All files of the reference data in one folder, as their names and aliases depend on each other."""
    made = tmp_path_factory.mktemp("Lora")
    for case in json.loads((request.config.getoption("golden") / "side_files.json").read_text("utf-8"))[
        "lora_metadata"
    ]:
        safetensors_file(made / case["file"], case["floats"], case["metadata"])
    return made


@pytest.mark.golden("side_files.json", "lora_metadata")
def test_loras_have_the_names_and_facts_of_the_reference(case: Case, folder: Path) -> None:
    listing = NetworkFolders([folder]).read()
    file = next(file for file in listing.files if file.path.name == case["file"])
    facts = decoded(case["metadata"] or {})
    assert file.alias == case["alias"]
    assert listing.prompt_name(file) == case["prompt_name"]
    assert listing.prompt_name(file, by_file=True) == case["prompt_name_filename_mode"]
    found = listing.find(case["alias"])
    assert (found.stem if found else None) == case["alias_resolves_to"]
    assert (file.described.hash or data_sha256(file.path)) == case["hash"]
    assert short(case["hash"]) == case["infotext_hash"]
    assert bool(file.described.hash) == case["hash_known_before_first_use"]
    assert file.described.stated_family == case["version"]
    assert stated_family_forge(facts) == case["version_forge"]
    tags = case.get("top_tags", [])
    assert [list(tag) for tag in training_tags(facts)[: len(tags)]] == tags
    table = [[fact.label, fact.value, *([fact.whole] if fact.whole else [])] for fact in facts_of(facts)]
    assert table == case.get("info_table", [])


@pytest.mark.golden("files.json", "hypernetwork_modules")
def test_hypernetworks_answer_as_those_of_the_reference(case: Case) -> None:
    state = {
        name: parameter["scale"] * normal(parameter["nv_seed"], parameter["shape"])
        for name, parameter in case["parameters"].items()
    }
    activation = activation_named(case["activation_func"])
    own = net(state, activation, case["activate_output"])
    x = normal(case["input"]["nv_seed"], case["input"]["shape"])
    used = [(Hypernetwork(Path("x.pt"), {case["dim"]: (own, own)}), case["multiplier"])]
    np.testing.assert_allclose(through(used, x, 0).flatten().numpy(), case["output"], rtol=1e-5, atol=1e-6)


@pytest.mark.golden("side_files.json", "cards")
def test_a_click_on_a_card_writes_what_the_references_does(case: Case, tmp_path: Path) -> None:
    metadata = {"ss_output_name": case["ss_output_name"]} if case["ss_output_name"] else {}
    file = safetensors_file(tmp_path / "Lora" / case["file"], 4, metadata)
    if case["json"] is not None:
        file.with_suffix(".json").write_text(json.dumps(case["json"]), encoding="utf-8")
    settings = case["settings"]
    shelf = NetworkShelf(tmp_path)
    shelf.read()
    weight, by_file = settings.get("extra_networks_default_multiplier", 1.0), settings.get("lora_preferred_name")
    (card,) = Cards(shelf, default_weight=weight, by_file=by_file == "Filename").list()
    assert (card.insertion.text, card.insertion.negative) == (case["tag"], case["negative"])
    separator = settings.get("extra_networks_add_text_separator", " ")
    once = clicked(tuple(case["before"]), card.insertion, separator)
    assert list(once) == case["after_click"]
    assert list(clicked(once, card.insertion, separator)) == case["after_second_click"]
