"""Pictures with every family of models, from the request to the recipe."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

from modules.builtin import register
from modules.checkpoints.catalogue import CheckpointCatalogue
from modules.checkpoints.embeddings import EmbeddingFolder
from modules.checkpoints.files import Hashes, read_header
from modules.checkpoints.model import LatentDiffusion, load
from modules.checkpoints.store import ModelStore
from modules.checkpoints.tiny import FAMILIES, write_tiny_checkpoint
from modules.devices import Device
from modules.diffusion.types import Cond
from modules.engine import Engine, Result
from modules.errors import UserError
from modules.extension.host import Host
from modules.gallery.inputs import InputStore
from modules.nn.text import Inserted
from modules.params.generation import GenerationParams, Hires, Init, Refiner
from modules.pipeline.conditioning import TextConditioner
from modules.pipeline.plan import make_plan
from modules.pipeline.texts import text_encoders, text_vector
from modules.prompt.tokens import default_tokenizer

ROOT = Path(__file__).parents[2]
CPU = Device(torch.device("cpu"), torch.float32)
PARAMS = GenerationParams(prompt="a red fox", width=64, height=64, steps=2, seed=7, sampler="Euler")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    for family in FAMILIES:
        write_tiny_checkpoint(folder / "Stable-diffusion" / f"{family}.safetensors", family)
    (folder / "embeddings").mkdir()
    both = {"clip_l": torch.full((2, 4), 3.0), "clip_g": torch.full((2, 4), -3.0)}
    save_file(both, folder / "embeddings" / "mystyle.safetensors")
    return folder


@pytest.fixture(scope="module")
def host() -> Host:
    host = Host()
    register(host)
    return host


@pytest.fixture(scope="module")
def engine(folder: Path, host: Host) -> Engine:
    store = ModelStore(folder / "Stable-diffusion", CPU, Hashes())
    return Engine(store, host, version="0.0", embeddings=EmbeddingFolder(folder / "embeddings"))


@pytest.fixture(scope="module")
def sdxl(engine: Engine) -> LatentDiffusion:
    return engine.store.load("sdxl")


def make(engine: Engine, **changes: Any) -> Result:
    results: list[Result] = []
    engine.run(PARAMS.changed(**changes), results.append)
    (result,) = results
    return result


def pixels(result: Result) -> bytes:
    return np.asarray(result.image).tobytes()


def conditioner(model: LatentDiffusion, params: GenerationParams = PARAMS, **options: Any) -> TextConditioner:
    vector = text_vector(model.config.family, params, (params.width, params.height))
    return TextConditioner(text_encoders(model, params), vector=vector, **options)


@torch.inference_mode()
def cond(model: LatentDiffusion, text: str, params: GenerationParams = PARAMS, **options: Any) -> Cond:
    return conditioner(model, params, **options).prompt(text, 4)[0].at(0)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_makes_a_picture_and_hears_its_prompt(engine: Engine, family: str) -> None:
    one, other = (make(engine, checkpoint=family, prompt=prompt) for prompt in ("a red fox", "a blue house"))
    assert one.image.size == (64, 64)
    assert pixels(one) == pixels(make(engine, checkpoint=family))
    assert pixels(one) != pixels(other)


@pytest.mark.parametrize("family", FAMILIES)
def test_inpainting_and_velocity_variants_make_one_too(host: Host, family: str, tmp_path: Path) -> None:
    path = tmp_path / "Stable-diffusion" / "x.safetensors"
    write_tiny_checkpoint(path, family, inpainting=True, prediction="v")
    card = CheckpointCatalogue(tmp_path, Hashes()).card("x")
    assert card.family.endswith(", inpainting")
    assert card.prediction == "v"
    found = Engine(ModelStore(path.parent, CPU, Hashes()), host, version="0.0")
    assert found.store.load("x").config.prediction == "v"
    assert make(found).image.size == (64, 64)


def test_a_pix2pix_model_changes_a_picture_and_text_and_recipe_say_how(host: Host, tmp_path: Path) -> None:
    folder, inputs = tmp_path / "Stable-diffusion", InputStore(tmp_path / "inputs")
    write_tiny_checkpoint(folder / "edit.safetensors", pix2pix=True)
    assert CheckpointCatalogue(tmp_path, Hashes()).card("edit").family == "Stable Diffusion 1.x, pix2pix"
    engine = Engine(ModelStore(folder, CPU, Hashes()), host, version="0.0", inputs=inputs)
    pictures = [inputs.put(Image.linear_gradient("L").convert("RGB").rotate(turn)) for turn in (0, 90)]
    found = [
        make(engine, init=Init(picture, denoising_strength=1.0, image_cfg_scale=scale))
        for picture in pictures
        for scale in (1.0, 1.5)
    ]
    assert len(set(map(pixels, found))) == 4
    assert "CFG scale: 7.0, Image CFG scale: 1.5, Seed: 7" in found[1].infotext
    assert found[1].recipe.request.init.image_cfg_scale == 1.5  # type: ignore[union-attr]
    assert "Image CFG scale" not in make(engine).infotext  # of a text alone
    with pytest.raises(UserError, match="AND cannot be combined with guidance by the picture"):
        make(engine, prompt="a AND b", init=Init(pictures[0]))
    make(engine, prompt="a AND b", init=Init(pictures[0], image_cfg_scale=1.0))


def test_the_command_line_writes_each_and_makes_a_picture_with_it(tmp_path: Path) -> None:
    def app(*arguments: str) -> None:
        done = subprocess.run([sys.executable, "app.py", *arguments], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr

    path = tmp_path / "models" / "Stable-diffusion" / "tiny.safetensors"
    app("make-tiny-checkpoint", str(path), "--family", "sdxl", "--inpainting", "--prediction", "v")
    header = read_header(path)
    assert header.tensors["model.diffusion_model.input_blocks.0.0.weight"].shape[1] == 9
    assert json.loads(header.metadata["reprise.config"])["prediction"] == "v"


def test_a_request_may_say_what_is_predicted_and_text_and_recipe_keep_it(engine: Engine) -> None:
    plain, asked = make(engine, checkpoint="sdxl"), make(engine, checkpoint="sdxl", prediction="v")
    assert pixels(plain) != pixels(asked)
    assert "Prediction: v" in asked.infotext
    assert "Prediction" not in plain.infotext
    assert asked.recipe.request.prediction == "v"
    assert pixels(make(engine, checkpoint="sdxl", prediction="eps")) == pixels(plain)


def test_the_options_of_sdxl_change_its_pictures_and_are_in_the_recipe(engine: Engine) -> None:
    plain = pixels(make(engine, checkpoint="sdxl"))
    for changes in ({"sdxl_crop_top": 16}, {"sdxl_crop_left": 16}, {"sdxl_clip_l_skip": True}):
        found = make(engine, checkpoint="sdxl", **changes)
        assert pixels(found) != plain
        assert {name: getattr(found.recipe.request, name) for name in changes} == changes
    refined = pixels(make(engine, checkpoint="sdxl-refiner"))
    for name in ("sdxl_refiner_low_aesthetic_score", "sdxl_refiner_high_aesthetic_score"):
        assert pixels(make(engine, checkpoint="sdxl-refiner", **{name: 4.0})) != refined
        assert pixels(make(engine, checkpoint="sdxl", **{name: 4.0})) == plain


def test_the_refiner_finishes_what_the_base_began(engine: Engine) -> None:
    plain = make(engine, checkpoint="sdxl", steps=4)
    refined = make(engine, checkpoint="sdxl", steps=4, refiner=Refiner("sdxl-refiner", 0.5))
    assert pixels(plain) != pixels(refined)


def test_a_second_pass_tells_sdxl_the_size_before_the_crop(host: Host) -> None:
    hires = Hires(width=128, height=64, upscaler="Latent")
    (batch,) = make_plan(PARAMS.changed(hires=hires), host).batches
    assert batch.shown_size == (64, 64)
    assert batch.hires_batch
    assert (batch.hires_batch.params.width, batch.hires_batch.params.height) == (128, 64)
    assert batch.hires_batch.shown_size == (128, 128)


# ---------------------------------------------------------------------------------------------------------------- texts


def test_sdxl_joins_both_encoders_and_takes_the_pooled_state_of_the_first_chunk(sdxl: LatentDiffusion) -> None:
    long = "a red fox " * 40  # two chunks
    found, first = cond(sdxl, long), cond(sdxl, "a red fox " * 25)  # 75 tokens: the same first chunk
    assert found.context.shape == (1, 154, 8)
    assert found.vector is not None and first.vector is not None
    assert found.vector.shape == (1, 4 + 6 * 256)
    assert torch.equal(found.vector, first.vector)
    assert torch.equal(found.context[:, :77], first.context)


def raw(model: LatentDiffusion, text: str) -> tuple[Tensor, Tensor]:
    """What each encoder says by itself, as transformers' conventions have it: the last but one layer, without norm."""
    ids = torch.full((1, 77), 49407)
    words = text_encoders(model, PARAMS)[0].tokenizer.ids(text)
    ids[0, : len(words) + 1] = torch.tensor([49406, *words])
    padded = ids.clone()
    padded[0, len(words) + 2 :] = 0
    with torch.inference_mode():
        return model.text[0](ids, 2, norm=False).context, model.text[1](padded, 2, norm=False).context


def test_emphasis_of_sdxl_restores_the_mean_of_each_encoder_by_itself(sdxl: LatentDiffusion) -> None:
    states, weights = raw(sdxl, "a red fox"), torch.ones(77, 1)
    weights[2] = 1.5
    expected = [z * weights * (z.mean() / (z * weights).mean()) for z in states]
    found = cond(sdxl, "a (red:1.5) fox").context
    torch.testing.assert_close(found, torch.cat(expected, dim=-1), rtol=1e-4, atol=1e-5)


def test_clip_skip_counts_for_sdxl_only_where_asked_and_for_its_first_encoder_alone(sdxl: LatentDiffusion) -> None:
    plain = cond(sdxl, "a red fox").context
    skipped = PARAMS.changed(clip_skip=4)
    assert torch.equal(cond(sdxl, "a red fox", skipped).context, plain)
    found = cond(sdxl, "a red fox", skipped.changed(sdxl_clip_l_skip=True)).context
    assert torch.equal(found[..., 4:], plain[..., 4:])
    assert not torch.equal(found[..., :4], plain[..., :4])
    last = cond(sdxl, "a red fox", PARAMS.changed(sdxl_clip_l_skip=True)).context  # clip skip 1: the last layer
    assert not torch.equal(last[..., :4], plain[..., :4])


@pytest.mark.parametrize("family", ["sd2", "sdxl-refiner"])
def test_clip_skip_is_nothing_to_open_clip(engine: Engine, family: str) -> None:
    model = engine.store.load(family)
    for changes in ({"clip_skip": 3}, {"clip_skip": 3, "sdxl_clip_l_skip": True}):
        assert torch.equal(cond(model, "a fox", PARAMS.changed(**changes)).context, cond(model, "a fox").context)


@torch.inference_mode()
def test_an_empty_negative_prompt_is_zeros_to_sdxl_and_sizes_stay(sdxl: LatentDiffusion, engine: Engine) -> None:
    texts = conditioner(sdxl)
    empty, positive = texts.negative("", 4).at(0), texts.prompt("", 4)[0].at(0)
    assert empty.vector is not None and positive.vector is not None
    assert not empty.context.any()
    assert not empty.vector[:, :4].any()
    assert torch.equal(empty.vector[:, 4:], positive.vector[:, 4:])
    assert positive.context.any()
    for text in ("blurry", "[:blurry:0.5]"):  # one that is not empty throughout
        assert texts.negative(text, 4).at(0).context.any()
    assert conditioner(engine.store.load("sd2")).negative("", 4).at(0).context.any()


def test_embeddings_of_sdxl_give_each_encoder_its_own_vectors(sdxl: LatentDiffusion, engine: Engine) -> None:
    (file,) = engine.embeddings.list().for_width(8).files if engine.embeddings else ()
    seen: list[Sequence[Inserted]] = []
    for text in sdxl.text:
        text.register_forward_pre_hook(lambda _m, args: seen.append(args[2]))
    try:
        cond(sdxl, "a mystyle fox", embeddings=[file])
    finally:
        for text in sdxl.text:
            text._forward_pre_hooks.clear()
    assert [(item.position, item.vectors[0, 0].item()) for (item,) in seen] == [(2, 3.0), (2, -3.0)]
    made = make(engine, checkpoint="sdxl", prompt="a mystyle fox")
    assert 'TI hashes: "mystyle: ' in made.infotext
    assert pixels(made) != pixels(make(engine, checkpoint="sdxl", prompt="a fox"))


def test_an_embedding_of_sd2_stands_for_the_words_whose_vectors_it_has(engine: Engine, tmp_path: Path) -> None:
    """Its vectors are those of two words, so that the text with its name is the text with the words."""
    model = engine.store.load("sd2")
    table = model.text[0].state_dict()["token_embedding.weight"]
    words = default_tokenizer(open_clip=True).ids("red fox")
    assert len(words) == 2
    save_file({"emb_params": table[words].clone()}, tmp_path / "mystyle.safetensors")
    (file,) = EmbeddingFolder(tmp_path).list().for_width(table.shape[1]).files
    with torch.inference_mode():
        named = cond(model, "a mystyle in snow", embeddings=[file]).context
        assert torch.equal(named, cond(model, "a red fox in snow").context)
        assert not torch.equal(named, cond(model, "a mystyle in snow").context)


# --------------------------------------------------------------------------------------- predictions that are seen


def silent(path: Path, lift: float) -> Path:
    """An SD2 file that does not say what it predicts, whose UNet answers with its last bias."""
    write_tiny_checkpoint(path, "sd2")
    config = json.loads(read_header(path).metadata["reprise.config"])
    del config["prediction"], config["native_size"]
    tensors = load_file(path)
    tensors["model.diffusion_model.out.2.weight"].zero_()
    tensors["model.diffusion_model.out.2.bias"].fill_(lift)
    save_file(tensors, path, metadata={"reprise.config": json.dumps(config)})
    return path


@pytest.mark.parametrize(("lift", "kind", "side"), [(-0.4, "eps", 512), (-0.6, "v", 768)])
@torch.inference_mode()
def test_an_sd2_file_that_says_nothing_is_asked_once_and_its_card_knows_then(
    lift: float, kind: str, side: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A1111 calls it velocity where the mean of answer less latents, which are 0.5, is below -1."""
    path, cache = silent(tmp_path / "Stable-diffusion" / "x.safetensors", lift), tmp_path / "hashes.json"
    assert CheckpointCatalogue(tmp_path, Hashes(cache)).card("x").prediction == ""
    model = ModelStore(path.parent, CPU, Hashes(cache)).load("x")
    assert (model.config.prediction, model.config.native_size) == (kind, side)
    card = CheckpointCatalogue(tmp_path, Hashes(cache)).card("x")
    assert (card.prediction, card.native_size) == (kind, side)
    monkeypatch.setattr("modules.checkpoints.store.answers_with", lambda _model: pytest.fail("asked again"))
    assert ModelStore(path.parent, CPU, Hashes(cache)).load("x").config.prediction == kind
    path.with_suffix(".yaml").write_text('model: {params: {parameterization: "eps"}}')
    assert load(path, CPU).config.prediction == "eps"  # who says it is believed
