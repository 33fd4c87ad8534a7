"""Files and facts of a batch, as those who use them name them."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from PIL import Image

from modules.builtin import register
from modules.checkpoints.embeddings import EmbeddingFolder
from modules.checkpoints.files import Hashes
from modules.checkpoints.model import LatentDiffusion
from modules.checkpoints.store import ModelStore
from modules.checkpoints.tiny import write_tiny_checkpoint
from modules.checkpoints.vaes import VaeFolders
from modules.devices import Device
from modules.extension.host import Host, Owner, TagSpec
from modules.extension.modifier import Modifier, ModifierSpec
from modules.gallery.inputs import InputStore
from modules.metadata import infotext
from modules.metadata.recipe import File, Recipe, pixel_hash
from modules.params.generation import GenerationParams, Hires, Init, Mask, ModifierOptions
from modules.pipeline.hooks import RequestHooks
from modules.pipeline.inventory import Inventory
from modules.pipeline.plan import Batch, make_plan
from modules.pipeline.provenance import Provenance, Recorder, input_files, model_files, provenance_of, used_extensions
from modules.pipeline.results import BatchImage
from tests.tiny_vae import write_vae

PARAMS = GenerationParams(prompt="a fox", width=64, height=64, steps=2, seed=7, subseed=1, sampler="Euler")


@dataclass(frozen=True)
class Nothing:
    """No options."""


@pytest.fixture
def host() -> Host:
    host = Host()
    register(host)
    part = Host(Owner("mine", "2.0", permissions=frozenset({"modifier", "tag", "face_restorer"})))
    for name in ("one", "two"):
        part.add_modifier(ModifierSpec(name, f"Do {name}", Nothing, lambda _: Modifier()))
        part.add_tag(TagSpec(name, name, lambda tags: {}))
    host.take(part)
    return host


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> ModelStore:
    folder = tmp_path_factory.mktemp("models")
    write_tiny_checkpoint(folder / "tiny.safetensors")
    write_vae(folder / "VAE" / "fine.safetensors")
    vaes = VaeFolders(folder / "VAE", folder)
    return ModelStore(folder, Device(torch.device("cpu"), torch.float32), Hashes(), default="tiny", vaes=vaes)


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def batch_of(host: Host, params: GenerationParams = PARAMS) -> Batch:
    return make_plan(params, host).batches[0]


def test_users_are_asked_in_their_order_and_equal_files_stand_once(store: ModelStore, host: Host) -> None:
    first, second = File("a", "a.bin", "0"), File("b", "b.bin", "1")
    users = [
        lambda model, batch: Provenance((first,), {"A": 1, "B": 1}),
        lambda model, batch: Provenance((second, first), {"B": 2}),
    ]
    found = provenance_of(users, store.load(), batch_of(host))
    assert found == Provenance((first, second), {"A": 1, "B": 2})


def test_a_vae_of_its_own_is_named_beside_the_checkpoint(store: ModelStore, host: Host) -> None:
    own = model_files(store.load(), batch_of(host))
    checkpoint = store.find("tiny").path
    assert own == Provenance((File("checkpoint", "tiny.safetensors", sha256(checkpoint)),))
    other = model_files(store.load("", "fine"), batch_of(host))
    vae = sha256(checkpoint.parent / "VAE" / "fine.safetensors")
    assert other.files == (*own.files, File("vae", "fine.safetensors", vae))
    assert other.infotext == {"VAE hash": vae[:10], "VAE": "fine.safetensors"}


def test_start_images_are_named_once_each_with_their_mask(store: ModelStore, host: Host) -> None:
    a, b, mask = ("a" * 64, "b" * 64, "c" * 64)
    init = Init(image=f"{a},{b},{a}", mask=Mask(image=mask))
    found = input_files(store.load(), batch_of(host, PARAMS.changed(init=init, batch_size=3)))
    assert [(file.role, file.sha256) for file in found.files] == [("image", a), ("image", b), ("mask", mask)]
    assert input_files(store.load(), batch_of(host)).files == ()


def test_extensions_of_either_pass_and_those_that_are_absent_are_told(host: Host) -> None:
    params = PARAMS.changed(prompt="<one:1>", hires=Hires(prompt="<one:1> <two:1>"))
    batch = batch_of(host, params)
    passes = RequestHooks(host, ModifierOptions()).passes(batch)
    used = used_extensions(host, params, batch, passes, {})
    assert [(one.name, one.version, one.failed) for one in used] == [("one", "2.0", ""), ("two", "2.0", "")]
    passes = RequestHooks(host, ModifierOptions(), absent={"two"}).passes(batch)
    used = used_extensions(host, params, batch, passes, {"two": "it fell", "nobody": "asked for it"})
    assert [(one.name, one.failed) for one in used] == [("one", ""), ("two", "it fell")]


def test_infotext_and_recipe_are_of_the_image_s_own_seed(store: ModelStore, host: Host) -> None:
    batch, model = batch_of(host, PARAMS.changed(batch_size=2)), store.load()
    image, hooks = Image.new("RGB", (64, 64), "red"), RequestHooks(host, ModifierOptions()).of()
    facts = Provenance((File("lora", "ink.safetensors", "0" * 64),), {"Lora hashes": "ink: 0000"})
    recorder = Recorder(host, "Reprise 1.0", PARAMS, model, batch, model_files(model, batch) + facts, ())
    result = recorder.result(BatchImage(1, image, batch.params, hooks, skipped=1))
    parsed = infotext.read(result.infotext)
    assert (parsed["Seed"], parsed["Lora hashes"], parsed["Model"]) == ("8", "ink: 0000", "tiny")
    assert (result.recipe.index, result.recipe.seed, result.recipe.skipped) == (1, 8, 1)
    assert [file.role for file in result.recipe.files] == ["checkpoint", "lora"]
    assert (result.recipe.pixels, result.recipe.request) == (pixel_hash(image), PARAMS)
    assert json.loads(str(result.recipe))["program"] == "Reprise 1.0"


def test_the_inventory_knows_files_by_what_they_are(store: ModelStore, host: Host, tmp_path: Path) -> None:
    inputs, folder = InputStore(tmp_path / "inputs"), store.find("tiny").path.parent
    key = inputs.put(_png())
    face = tmp_path / "face.pth"
    face.write_bytes(b"a face")
    host.add_face_restorer("Mine", lambda image, weight: image, (("face file", face),))
    inventory = Inventory(store, host, inputs, absent={"two"})
    here = [
        ("checkpoint", sha256(folder / "tiny.safetensors")),
        ("vae", sha256(folder / "VAE" / "fine.safetensors")),
        ("image", key),
        ("mask", key),
        ("face file", sha256(face)),
    ]
    for role, content in here:
        assert inventory.has(File(role, "whatever it was called", content)), role
        assert not inventory.has(File(role, "tiny.safetensors", "f" * 64)), role
    assert inventory.extensions() == {"mine", "one"}
    assert not Inventory(store, host).has(File("image", "a.png", key))


def test_further_users_of_files_say_whether_theirs_are_here(store: ModelStore, host: Host) -> None:
    inventory = Inventory(store, host, others={"lora": lambda file: file.sha256 == "1" * 64})
    assert inventory.has(File("lora", "ink", "1" * 64))
    assert not inventory.has(File("lora", "ink", store.sha256(store.find("tiny").path)))


def test_recorded_embeddings_are_found_under_other_names(store: ModelStore, host: Host, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    save_file({"emb_params": torch.ones(1, 4)}, tmp_path / "new name.safetensors")
    inventory = Inventory(store, host, embeddings=EmbeddingFolder(tmp_path))
    recorded = File("embedding", "old name.safetensors", sha256(tmp_path / "new name.safetensors"))
    gone = File("embedding", "gone.pt", "0" * 64)
    assert [file.name for file in inventory.recorded_embeddings((recorded, gone)).files] == ["old name"]
    assert inventory.has(recorded)
    assert not inventory.has(gone)


def test_files_that_a_result_carries_are_those_its_recipe_was_followed_from(
    store: ModelStore, host: Host, tmp_path: Path
) -> None:
    inputs = InputStore(tmp_path)
    key = inputs.put(_png())
    recipe = _recorded(store.load(), host, PARAMS.changed(init=Init(image=key)))
    assert Inventory(store, host, inputs).carried(recipe) == [inputs.read(key)]
    assert Inventory(store, host).carried(recipe) == []


def _recorded(model: LatentDiffusion, host: Host, params: GenerationParams) -> Recipe:
    batch, hooks = batch_of(host, params), RequestHooks(host, ModifierOptions()).of()
    recorder = Recorder(host, "Reprise 1.0", params, model, batch, input_files(model, batch), ())
    return recorder.result(BatchImage(0, Image.new("RGB", (64, 64)), params, hooks)).recipe


def _png() -> bytes:
    from io import BytesIO

    file = BytesIO()
    Image.new("RGB", (8, 8), "red").save(file, "PNG")
    return file.getvalue()
