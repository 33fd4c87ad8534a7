"""Autoencoders in files of their own: which one is meant, and what stands in for the checkpoint's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from modules.checkpoints.files import Hashes, read_header
from modules.checkpoints.model import LatentDiffusion
from modules.checkpoints.networks.side_files import UserMetadata, changed, side_base, write_user
from modules.checkpoints.store import ModelStore
from modules.checkpoints.tiny import write_tiny_checkpoint
from modules.checkpoints.vaes import AUTOMATIC, OWN, VaeFolders
from modules.devices import Device
from modules.errors import CheckpointError, UnknownName
from tests.tiny_vae import write_vae

CPU = Device(torch.device("cpu"), torch.float32)


def touched(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def folders(root: Path) -> VaeFolders:
    return VaeFolders(root / "VAE", root / "Stable-diffusion")


def test_vaes_lie_in_their_folder_and_beside_checkpoints(tmp_path: Path) -> None:
    beside, own = tmp_path / "Stable-diffusion", tmp_path / "VAE"
    touched(beside / "a.safetensors", beside / "sub" / "b.vae.safetensors", beside / "c.vae.pt")
    touched(own / "sub" / "Fine.safetensors", own / "b.vae.safetensors", own / "old.ckpt", own / "notes.txt")
    found = folders(tmp_path)
    assert found.list() == {
        "b.vae.safetensors": own / "b.vae.safetensors",  # of two with one name, that in the VAE folder
        "Fine.safetensors": own / "sub" / "Fine.safetensors",
    }
    checkpoint = beside / "a.safetensors"
    assert (
        found.find("fine", checkpoint) == found.find("Fine.safetensors", checkpoint) == found.list()["Fine.safetensors"]
    )
    with pytest.raises(UnknownName, match=r"there are 'b\.vae.safetensors', 'Fine\.safetensors'") as unknown:
        found.find("rough", checkpoint)
    assert unknown.value.field == "vae"
    with pytest.raises(CheckpointError, match=r"app\.py convert old\.ckpt") as pickle:
        found.find("old.ckpt", checkpoint)
    assert pickle.value.field == "vae"


def test_automatic_is_the_file_whose_name_begins_like_the_checkpoints(tmp_path: Path) -> None:
    beside = tmp_path / "Stable-diffusion"
    touched(beside / "model.vae.safetensors", tmp_path / "VAE" / "model2-fine.safetensors", beside / "third.vae.pt")
    found = folders(tmp_path)
    for name, vae in (("model", "model.vae.safetensors"), ("model2", "model2-fine.safetensors"), ("third", None)):
        path = found.find(AUTOMATIC, beside / f"{name}.safetensors")
        assert (path and path.name) == vae
    assert found.unconverted(beside / "third.safetensors") == beside / "third.vae.pt"
    assert found.find(OWN, beside / "model.safetensors") is None
    assert VaeFolders(tmp_path / "none", tmp_path / "none").list() == {}


def test_a_vae_that_its_name_alone_speaks_for_is_told(tmp_path: Path) -> None:
    beside, own = tmp_path / "Stable-diffusion", tmp_path / "VAE"
    touched(
        beside / "sd.safetensors", own / "sdxl_vae.safetensors", beside / "a.safetensors", own / "a.vae.safetensors"
    )
    found = folders(tmp_path)

    def guessed(name: str) -> str:
        checkpoint = beside / f"{name}.safetensors"
        return found.guessed(checkpoint, found.find(AUTOMATIC, checkpoint))

    assert (guessed("sd"), guessed("a"), guessed("other")) == ("sdxl_vae.safetensors", "", "")
    write_user(side_base(beside / "sd.safetensors"), changed(beside / "sd.safetensors", vae="sdxl_vae.safetensors"))
    assert guessed("sd") == ""  # a person chose it


def test_automatic_is_what_the_checkpoints_card_remembers(tmp_path: Path) -> None:
    """The reference's order: the card's VAE where it is here, None for the checkpoint's own, else the name's."""
    beside = tmp_path / "Stable-diffusion"
    touched(
        beside / "model.safetensors", tmp_path / "VAE" / "model-x.safetensors", tmp_path / "VAE" / "fine.safetensors"
    )
    found, checkpoint = folders(tmp_path), beside / "model.safetensors"

    def automatic(vae: str) -> str | None:
        write_user(checkpoint, changed(checkpoint, vae=vae))
        path = found.find(AUTOMATIC, checkpoint)
        return path.name if path else None

    assert automatic("fine.safetensors") == "fine.safetensors"
    assert automatic(OWN) is None
    assert automatic(AUTOMATIC) == automatic("gone.safetensors") == automatic("") == "model-x.safetensors"
    for vae, lost in (("gone.safetensors", "gone.safetensors"), ("fine.safetensors", ""), (OWN, ""), (AUTOMATIC, "")):
        write_user(checkpoint, changed(checkpoint, vae=vae))
        assert found.lost(checkpoint) == lost
    write_user(checkpoint, changed(checkpoint, vae="fine.safetensors"))
    assert found.find(OWN, checkpoint) is None  # who asks for one gets that one
    (beside / "diffusers").mkdir()
    write_user(side_base(beside / "diffusers" / "model_index.json"), UserMetadata(vae="fine.safetensors"))
    assert (beside / "diffusers.json").is_file()
    index = beside / "diffusers" / "model_index.json"
    assert found.find(AUTOMATIC, index) == tmp_path / "VAE" / "fine.safetensors"


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    folder = tmp_path / "Stable-diffusion"
    write_tiny_checkpoint(folder / "tiny.safetensors")
    write_vae(tmp_path / "VAE" / "other.safetensors")
    return ModelStore(folder, CPU, Hashes(), vaes=folders(tmp_path))


def decoded(model: LatentDiffusion) -> Tensor:
    with torch.inference_mode():
        return model.decode(torch.ones(1, 4, 8, 8))


def test_another_vae_is_put_in_without_loading_the_rest_again_and_taken_out_exactly(store: ModelStore) -> None:
    own = store.load()
    before, weights = decoded(own), {key: tensor.clone() for key, tensor in own.vae.state_dict().items()}
    other = store.load(vae="other")
    assert other.unet is own.unet
    assert other.text is own.text
    assert not torch.equal(decoded(other), before)
    assert (other.vae_name, own.vae_name) == ("other.safetensors", OWN)
    assert store.load(vae="other").vae is other.vae
    again = store.load()
    assert again is own
    assert torch.equal(decoded(again), before)
    assert all(torch.equal(tensor, weights[key]) for key, tensor in again.vae.state_dict().items())


@pytest.mark.parametrize("family", ["sd1", "sd2", "sdxl"])
def test_the_checkpoints_own_vae_in_a_file_gives_the_same_pictures(
    store: ModelStore, tmp_path: Path, family: str
) -> None:
    """With and without the prefix, leftovers of training beside it; the factor of latents is the checkpoint's."""
    prefix = "first_stage_model."
    write_tiny_checkpoint(store.find("tiny").path, family)
    own = {k: v for k, v in load_file(store.find("tiny").path).items() if k.startswith(prefix)}
    metadata = {"reprise.config": '{"vae": {"norm_groups": 2}}'}
    save_file(own | {"cond.weight": torch.ones(2)}, tmp_path / "VAE" / "a.safetensors", metadata=metadata)
    bare = {key.removeprefix(prefix): tensor for key, tensor in own.items()}
    extra = {"loss.logvar": torch.ones(1), "model_ema.decay": torch.ones(1)}
    save_file(bare | extra, tmp_path / "VAE" / "b.safetensors", metadata=metadata)
    for name in ("a", "b"):
        assert torch.equal(decoded(store.load(vae=name)), decoded(store.load()))


@pytest.mark.parametrize(
    ("sizes", "said"),
    [
        ({"z_channels": 16}, "its latents have 16 channels, and the checkpoint's 4"),
        ({"channel_mult": (1, 2, 4)}, "it makes pictures of another size"),
    ],
    ids=["latents", "levels"],
)
def test_a_vae_that_does_not_fit_is_refused(
    store: ModelStore, tmp_path: Path, sizes: dict[str, Any], said: str
) -> None:
    write_vae(tmp_path / "VAE" / "wrong.safetensors", **sizes)
    with pytest.raises(CheckpointError, match=f"wrong.safetensors is no VAE for this checkpoint: {said}") as refused:
        store.load(vae="wrong")
    assert refused.value.field == "vae"
    assert decoded(store.load(vae="other")).isfinite().all()


def test_what_is_no_vae_is_refused(store: ModelStore, tmp_path: Path) -> None:
    save_file({"emb_params": torch.ones(1, 4)}, tmp_path / "VAE" / "embedding.safetensors")
    save_file(
        {"encoder.down_blocks.0.resnets.0.conv1.weight": torch.ones(1)}, tmp_path / "VAE" / "diffusers.safetensors"
    )
    tensors = load_file(write_vae(tmp_path / "VAE" / "part.safetensors"))
    del tensors["decoder.conv_out.bias"]
    save_file(
        tensors, tmp_path / "VAE" / "part.safetensors", metadata={"reprise.config": '{"vae": {"norm_groups": 2}}'}
    )
    for name, said in (
        ("embedding", "encoder.conv_in.weight is missing"),
        ("diffusers", "encoder.conv_in.weight is missing"),
        ("part", "it lacks decoder.conv_out.bias"),
    ):
        with pytest.raises(CheckpointError, match=said):
            store.load(vae=name)


@pytest.fixture
def without_vae(store: ModelStore, tmp_path: Path) -> Path:
    """The tiny checkpoint as "noVAE" files are, its autoencoder in a file of its own."""
    prefix, tiny = "first_stage_model.", store.find("tiny").path
    tensors, metadata = load_file(tiny), dict(read_header(tiny).metadata)
    rest = {key: tensor for key, tensor in tensors.items() if not key.startswith(prefix)}
    leftover = {f"{prefix}loss.logvar": torch.ones(1), f"{prefix}model_ema.decay": torch.ones(1)}
    save_file(rest | leftover, tiny.with_name("bare.safetensors"), metadata=metadata)
    own = {key.removeprefix(prefix): tensor for key, tensor in tensors.items() if key.startswith(prefix)}
    save_file(own, tmp_path / "VAE" / "its own.safetensors", metadata=metadata)
    return tiny.with_name("bare.safetensors")


def test_a_checkpoint_without_an_autoencoder_works_with_one_from_the_folder(
    store: ModelStore, without_vae: Path
) -> None:
    model = store.load("bare", vae="its own")
    assert (model.vae_name, model.config.own_vae) == ("its own.safetensors", False)
    assert torch.equal(decoded(model), decoded(store.load("tiny")))


def test_a_checkpoint_without_an_autoencoder_takes_the_one_of_its_name_by_itself(
    store: ModelStore, without_vae: Path, tmp_path: Path
) -> None:
    (tmp_path / "VAE" / "its own.safetensors").rename(tmp_path / "VAE" / "bare-fine.safetensors")
    assert store.load("bare").vae_name == "bare-fine.safetensors"


@pytest.mark.parametrize("vae", [AUTOMATIC, OWN])
def test_a_checkpoint_without_an_autoencoder_says_which_ones_there_are(
    store: ModelStore, without_vae: Path, vae: str
) -> None:
    with pytest.raises(CheckpointError, match=r"bare has no autoencoder of its own; .*'its own\.safetensors'") as lost:
        store.load("bare", vae)
    assert lost.value.field == "vae"
