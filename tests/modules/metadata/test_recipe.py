"""The record of a picture: nothing is lost in it, and what it says of a picture made again."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from modules.errors import UserError
from modules.metadata.recipe import File, Recipe, pixel_hash, read
from modules.metadata.verdict import EARLIER, Verdict, check, compare, difference
from modules.params.generation import MAX_SEED, GenerationParams
from modules.params.options import Option, options_of

MODEL = File("checkpoint", "mini.safetensors", "ab" * 32)
RECIPE = Recipe(
    request=GenerationParams(prompt="a fox", seed=5),
    index=0,
    seed=5,
    subseed=9,
    files=(MODEL,),
    program="Reprise 0.1.0",
    torch="2.13.0+cpu",
    device="cpu",
    dtype="bfloat16",
    kernels="exact",
    pixels="00" * 32,
)


def values(option: Option) -> st.SearchStrategy[Any]:
    """Anything that the declaration allows."""
    if option.type is str:
        allowed = option.choices if isinstance(option.choices, tuple) else None
        return st.sampled_from(allowed) if allowed else st.text(st.characters())  # surrogates and controls too
    if option.type is bool:
        return st.booleans()
    number: st.SearchStrategy[Any]
    if option.type is int:
        number = st.integers(int(option.lo or 0), int(option.hi or 0))
    else:
        number = st.floats(option.lo, option.hi, allow_nan=False)
    return st.none() | number if option.optional else number


requests = st.builds(
    GenerationParams, **{name: values(option) for name, option in options_of(GenerationParams).items()}
)


@settings(max_examples=100, deadline=None)
@given(requests, st.integers(0, 2**32))
def test_a_recipe_gives_back_every_request(request: GenerationParams, seed: int) -> None:
    recipe = dataclasses.replace(RECIPE, request=request, seed=seed)
    text = str(recipe)
    assert read(text) == recipe
    assert str(read(text)) == text
    assert text.isascii()


@pytest.mark.parametrize(
    "prompt", ["a\nNegative prompt: x", ' "q": \\ ', "trailing  \n", "\r\n\t", "\x00", "# comment", "\ud800"]
)
def test_a_recipe_carries_what_the_generation_text_loses(prompt: str) -> None:
    recipe = dataclasses.replace(RECIPE, request=GenerationParams(prompt=prompt, negative_prompt=prompt))
    assert read(str(recipe)).request.prompt == prompt


def test_recipes_are_canonical() -> None:
    two = dataclasses.replace(RECIPE, files=(MODEL, File("vae", "b", "1")))
    assert str(two) == str(dataclasses.replace(two, files=two.files[::-1]))
    loaded = json.loads(str(two))
    assert str(two) == json.dumps(loaded, sort_keys=True, separators=(",", ":"))
    assert loaded["schema"] == 1


@pytest.mark.parametrize(
    "text",
    [
        "",
        "null",
        "[]",
        "{",
        "{}",
        '{"schema":1}',
        "[" * 100_000,
        str(RECIPE).replace('"seed":5,"subseed"', '"seed":["5"],"subseed"'),
        str(RECIPE).replace('"files":[', '"files":[3,'),
        str(RECIPE).replace('"device":"cpu"', '"device":null'),
        str(RECIPE).replace('"device":"cpu"', '"device":"cpu","foreign":1'),
        str(RECIPE).replace('"files":[{', '"files":[{"evil":1,'),
    ],
)
def test_what_is_no_recipe_is_refused_in_a_sentence(text: str) -> None:
    with pytest.raises(UserError, match="not a recipe"):
        read(text)


def test_seeds_of_64_bits_are_read_as_numbers_and_as_text() -> None:
    whole = replace(RECIPE, request=RECIPE.request.changed(seed=MAX_SEED), seed=MAX_SEED, subseed=2**53 + 1)
    assert read(str(whole)) == whole
    as_text = re.sub(r'"(seed|subseed)":(\d+)', r'"\1":"\2"', str(whole))
    assert as_text.count(f'"{MAX_SEED}"') == 2
    assert read(as_text) == whole
    with pytest.raises(UserError, match="Seed must be between -1 and 18446744073709551615"):
        read(as_text.replace(str(MAX_SEED), str(MAX_SEED + 1)))


def test_a_recipe_of_another_schema_is_refused_in_a_sentence() -> None:
    with pytest.raises(UserError, match="schema 2 and this version reads schema 1"):
        read(str(RECIPE).replace('"schema":1', '"schema":2'))


def test_values_out_of_range_are_refused_by_name() -> None:
    with pytest.raises(UserError, match="Steps must be between 1 and 150"):
        read(str(RECIPE).replace('"steps":20', '"steps":20000'))


def test_pixel_hash_is_of_the_bytes_row_by_row() -> None:
    image = Image.frombytes("RGB", (2, 1), b"\1\2\3\4\5\6")
    assert pixel_hash(image) == hashlib.sha256(b"\1\2\3\4\5\6").hexdigest()


def test_equal_pixels_are_identical_whatever_made_them() -> None:
    assert str(compare(RECIPE, dataclasses.replace(RECIPE, torch="2.14.0"))) == "identical"


def test_each_differing_fact_is_named() -> None:
    again = dataclasses.replace(RECIPE, pixels="11" * 32, torch="2.14.0", device="cuda", dtype="float16")
    assert str(compare(RECIPE, again)) == (
        "differs, because torch 2.13.0+cpu became 2.14.0; device cpu became cuda; number format bfloat16 became float16"
    )


def test_another_processor_is_named_where_it_was_recorded() -> None:
    here = dataclasses.replace(RECIPE, processor="AVX512, 2 threads", pixels="1")
    assert compare(RECIPE, here).reasons == ()
    there = dataclasses.replace(RECIPE, processor="AVX2, 8 threads")
    assert compare(there, here).reasons == ("processor AVX2, 8 threads became AVX512, 2 threads",)
    assert read(str(there)) == there


def test_a_recipe_of_before_the_processor_was_recorded_is_read() -> None:
    assert read(str(RECIPE).replace('"processor":"",', "")) == RECIPE


def test_another_request_or_model_is_named() -> None:
    again = dataclasses.replace(
        RECIPE,
        pixels="11" * 32,
        request=RECIPE.request.changed(steps=30),
        files=(File("checkpoint", "other.safetensors", "cd" * 32),),
    )
    verdict = compare(RECIPE, again)
    assert verdict.kind == "differs"
    assert verdict.reasons == (
        "steps 20 became 30",
        "checkpoint mini.safetensors (sha256 abababababab) was used only then",
        "checkpoint other.safetensors (sha256 cdcdcdcdcdcd) was used only now",
    )


def test_a_renamed_model_is_no_reason() -> None:
    renamed = dataclasses.replace(MODEL, name="renamed.safetensors")
    assert compare(RECIPE, dataclasses.replace(RECIPE, pixels="1", files=(renamed,))).reasons == ()


def test_a_difference_without_a_reason_says_so_with_its_size() -> None:
    old = Image.new("RGB", (10, 10))
    new = old.copy()
    new.putpixel((3, 3), (0, 30, 0))
    recorded = dataclasses.replace(RECIPE, pixels=pixel_hash(old))
    verdict = compare(recorded, dataclasses.replace(RECIPE, pixels=pixel_hash(new)), old, new)
    assert str(verdict) == (
        "differs, because something that is not recorded changed "
        "(1.0% of the pixels differ, by at most 30 of 255 and 0.1 on average)"
    )


def test_pictures_of_two_sizes_have_no_difference_in_levels() -> None:
    assert difference(Image.new("RGB", (2, 3)), Image.new("RGB", (3, 2))) is None


def test_difference_agrees_with_its_definition() -> None:
    rng = np.random.default_rng(1)
    old, new = (rng.integers(0, 256, (5, 7, 3), dtype=np.uint8) for _ in range(2))
    found = difference(Image.fromarray(old), Image.fromarray(new))
    apart = np.abs(old.astype(float) - new.astype(float))
    assert found is not None
    assert found.largest == apart.max()
    assert found.mean == pytest.approx(apart.mean())
    assert found.share == np.mean([pixel.any() for row in apart for pixel in row])


def test_a_missing_file_is_known_before_anything_is_computed() -> None:
    lora = File("LoRA", "x", "ef" * 32)
    recipe = dataclasses.replace(RECIPE, files=(MODEL, lora))
    assert check(recipe, {MODEL.sha256, lora.sha256}) is None
    assert str(check(recipe, {MODEL.sha256})) == "cannot, because LoRA x (sha256 efefefefefef) is missing"
    assert check(recipe, set()) == Verdict(
        "cannot",
        (
            "checkpoint mini.safetensors (sha256 abababababab) is missing",
            "LoRA x (sha256 efefefefefef) is missing",
        ),
    )


def test_recipes_of_before_0_2_keep_their_meaning() -> None:
    """There was one eta for all samplers then, and the kernels were not chosen."""
    values = json.loads(str(dataclasses.replace(RECIPE, kernels="fast")))
    request = {k: v for k, v in values["request"].items() if k not in ("eta_ddim", "kernels")} | {"eta": 0.5}
    old = read(json.dumps(values | {"request": request})).request
    assert (old.eta, old.eta_ddim, old.kernels) == (0.5, 0.5, "fast")


@pytest.mark.parametrize("sha256", sorted(EARLIER))
def test_an_earlier_default_model_is_named_with_the_commit_that_has_it(sha256: str) -> None:
    """The command that the verdict gives is run: the history has that very file."""
    version, commit = EARLIER[sha256]
    recipe = dataclasses.replace(RECIPE, files=(File("checkpoint", "reprise-mini.safetensors", sha256),))
    said = str(check(recipe, ()))
    assert said.startswith("cannot, because checkpoint reprise-mini.safetensors")
    assert f"version {version} of the default model, and commit {commit} has it: git show {commit}:" in said
    at = said.split("git show ")[1].split(" >")[0]
    root = Path(__file__).parents[3]
    found = subprocess.run(["git", "show", at], cwd=root, capture_output=True, check=False)
    assert found.returncode != 0 or hashlib.sha256(found.stdout).hexdigest() == sha256  # a copy may have no history
