"""Prompts of a batch -> conditions on a model, and what is kept of them between jobs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from modules.builtin import register
from modules.checkpoints.embeddings import EmbeddingFolder
from modules.checkpoints.files import Hashes
from modules.checkpoints.model import LatentDiffusion
from modules.checkpoints.store import ModelStore
from modules.checkpoints.tiny import write_tiny_checkpoint
from modules.devices import Device
from modules.extension.host import Host
from modules.params.generation import GenerationParams, Hires
from modules.pipeline.plan import Batch, make_plan
from modules.pipeline.prompt_encoder import PromptEncoder

PARAMS = GenerationParams(prompt="a fox", width=64, height=64, steps=4, seed=7, subseed=1, sampler="Euler")


@pytest.fixture(scope="module")
def host() -> Host:
    host = Host()
    register(host)
    return host


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    write_tiny_checkpoint(folder / "tiny.safetensors")
    (folder / "embeddings").mkdir()
    for name, width in (("mystyle", 4), ("tall", 768)):
        save_file({"emb_params": torch.ones(1, width)}, folder / "embeddings" / f"{name}.safetensors")
    return folder


@pytest.fixture(scope="module")
def store(folder: Path) -> ModelStore:
    return ModelStore(folder, Device(torch.device("cpu"), torch.float32), Hashes(), default="tiny")


@pytest.fixture
def model(store: ModelStore, folder: Path) -> LatentDiffusion:
    return replace(store.load(), embeddings=EmbeddingFolder(folder / "embeddings").list())


def batch_of(host: Host, **changes: Any) -> Batch:
    return make_plan(PARAMS.changed(**changes), host).batches[0]


@torch.inference_mode()
def test_each_pass_has_its_own_texts_and_counts_its_own_steps(
    store: ModelStore, host: Host, model: LatentDiffusion
) -> None:
    batch = batch_of(host, prompt="[a:b:0.5]", hires=Hires(prompt="[c:d:1.5]", steps=6))
    texts = []
    for each in batch.passes:
        (part,), _, _ = PromptEncoder(store).encode(model, each)
        texts.append([(segment.until, segment.text) for segment in part.segments])
    assert texts == [[(2, "a"), (4, "b")], [(3, "c"), (6, "d")]]


@torch.inference_mode()
def test_equal_texts_are_encoded_once_for_all_jobs_unless_the_model_reads_otherwise(
    store: ModelStore, host: Host, model: LatentDiffusion
) -> None:
    encoder = PromptEncoder(store)
    (first,), _, _ = encoder.encode(model, batch_of(host))
    (again,), _, _ = encoder.encode(model, batch_of(host, seed=9, steps=8))
    assert again.conds[0].context is first.conds[0].context
    (patched,), _, _ = encoder.encode(model, batch_of(host), patches="a lora")
    assert patched.conds[0].context is not first.conds[0].context
    (skipping,), _, _ = encoder.encode(model, batch_of(host, clip_skip=2))
    assert not torch.equal(skipping.conds[0].context, first.conds[0].context)


@torch.inference_mode()
def test_padding_that_changed_nothing_is_not_told(store: ModelStore, host: Host, model: LatentDiffusion) -> None:
    encoder, long = PromptEncoder(store), "snow, " * 60
    for name in ("pad_cond_uncond", "pad_cond_uncond_v0"):
        (positive,), negative, params = encoder.encode(model, batch_of(host, negative_prompt=long, **{name: True}))
        assert getattr(params, name)
        assert positive.conds[0].context.shape == negative.conds[0].context.shape or name == "pad_cond_uncond_v0"
        assert not getattr(encoder.encode(model, batch_of(host, **{name: True}))[2], name)


def test_embeddings_of_either_pass_are_named_and_those_of_another_width_noted(
    store: ModelStore, host: Host, model: LatentDiffusion, folder: Path
) -> None:
    encoder = PromptEncoder(store)
    batch = batch_of(host, prompt="a fox", hires=Hires(prompt="mystyle, tall"))
    sha256 = store.sha256(folder / "embeddings" / "mystyle.safetensors")
    found = encoder.provenance(model, batch)
    assert [(file.role, file.name, file.sha256) for file in found.files] == [
        ("embedding", "mystyle.safetensors", sha256)
    ]
    assert found.infotext == {"TI hashes": f"mystyle: {sha256[:12]}"}
    (note,) = encoder.notes(model, batch)
    assert note.startswith("the embedding tall was left out: ")
    assert encoder.provenance(model, batch_of(host)).infotext == {"TI hashes": None}
