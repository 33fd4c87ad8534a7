"""Names of saved pictures from patterns."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path

import pytest
from PIL import Image

from modules.gallery import Gallery
from modules.names import BYTES, Names, facts_of, fill
from tests.modules.test_recipe import RECIPE

BEGUN = datetime(2026, 11, 25, 22, 54, 7)
FACTS = facts_of(str(RECIPE), RECIPE.seed, (64, 128))


@pytest.mark.parametrize(
    ("pattern", "name"),
    [
        ("[seed]", str(RECIPE.seed)),
        ("[width]x[height]", "64x128"),
        ("[steps]-[cfg]-[sampler]", f"{RECIPE.request.steps}-{RECIPE.request.cfg_scale}-{RECIPE.request.sampler}"),
        ("[model_hash]", next(file.sha256[:10] for file in RECIPE.files if file.role == "checkpoint")),
        ("[job_timestamp]", "20261125225407"),
        ("[batch_number]", str(RECIPE.index + 1)),
        ("[unknown] [SEED]", "[unknown] [SEED]"),
        ("a/b:c*[seed]", f"a_b_c_{RECIPE.seed}"),
        ("plain", "plain"),
        ("", ""),
    ],
)
def test_words_are_filled_in(pattern: str, name: str) -> None:
    assert Names(pattern, begun=BEGUN).file_for(FACTS) == name


@pytest.mark.parametrize(
    ("prompt", "word", "name"),
    [
        # What A1111 1.10's sanitize_filename_part and prompt_words give.
        ("a red fox, (snow:1.2)", "[prompt]", "a_red_fox,_(snow_1.2)"),
        ("a red fox, (snow:1.2)", "[prompt_spaces]", "a red fox, (snow_1.2)"),
        ("a red fox, (snow:1.2)", "[prompt_words]", "a red fox snow 1 2"),
        ("one two three four five six seven eight nine", "[prompt_words]", "one two three four five six seven eight"),
        ("<lora:x:1> c:\\d|e?", "[prompt_spaces]", "_lora_x_1_ c__d_e_"),
        ("line\nline. ", "[prompt]", "line_line._"),
        ("x" * 300, "[prompt]", "x" * 128),
        ("..", "[prompt]", ""),
    ],
)
def test_prompts_become_what_file_systems_take(prompt: str, word: str, name: str) -> None:
    facts = facts_of(json.dumps({"request": {"prompt": prompt}}), None, (8, 8))
    assert fill(word, facts, BEGUN) == name


def test_what_a_picture_does_not_have_is_left_out() -> None:
    assert Names("[seed]-[prompt_words]").file_for(facts_of(None, None, (8, 8))) == ""
    assert Names("[seed]").file_for(facts_of(None, 7, (8, 8))) == "7"


def test_a_name_is_never_longer_than_file_systems_allow() -> None:
    facts = facts_of(json.dumps({"request": {"prompt": "猫" * 400}}), 1, (8, 8))
    name = Names("[prompt_spaces]-[seed]-[prompt_words]-[prompt]").file_for(facts)
    assert len(name.encode()) <= BYTES
    assert set(name) == {"猫"}


@pytest.mark.parametrize(
    ("pattern", "folder"),
    [
        ("[width]/[seed]", f"64/{RECIPE.seed}"),
        ("../../etc/[seed]", f"etc/{RECIPE.seed}"),
        ("/root/.ssh", "root/ssh"),
        ("a//b/", "a/b"),
    ],
)
def test_folders_lead_nowhere_else(pattern: str, folder: str) -> None:
    assert Names(folder=pattern).folder_for(FACTS) == Path(folder)


def test_no_folder_at_all_is_the_day() -> None:
    for pattern in ("", "..", "/"):
        assert Names(folder=pattern).folder_for(FACTS) == Path(f"{datetime.now():%Y-%m-%d}")


def test_the_gallery_numbers_within_each_folder_and_finds_a_jobs_pictures(tmp_path: Path) -> None:
    gallery = Gallery(tmp_path, names=Names("[seed] [width]", "[width]/[date]"))
    saved = [
        gallery.save(Image.new("RGB", (side, 8)), seed=seed, infotext="", job=job).path
        for side, seed, job in ((8, 1, "a"), (16, 2, "a"), (8, 3, "b"), (16, 4, "a"))
    ]
    day = f"{datetime.now():%Y-%m-%d}"
    assert [str(path.relative_to(tmp_path / "txt2img-images")) for path in saved] == [
        f"8/{day}/00001-1 8.png",
        f"16/{day}/00001-2 16.png",
        f"8/{day}/00002-3 8.png",
        f"16/{day}/00002-4 16.png",
    ]
    assert gallery.of_job("a") == [saved[0], saved[1], saved[3]]
