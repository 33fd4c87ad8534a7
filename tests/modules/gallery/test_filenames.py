"""Names of saved pictures from patterns."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from modules.gallery.filenames import BYTES, KNOWN, Names, facts_of, fill
from modules.gallery.outputs import Gallery
from tests.modules.metadata.test_recipe import RECIPE

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
        ("[unknown] [Seed] [SEED]", f"[unknown] {RECIPE.seed} {RECIPE.seed}"),
        ("[unknown<1><2>]", "[unknown]"),
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


REQUEST = {
    "prompt": "a red Fox, in snow",
    "negative_prompt": "bad",
    "seed": 2**64 - 2,
    "steps": 20,
    "sampler": "DPM++ 2M",
    "scheduler": "Automatic",
    "clip_skip": 2,
    "batch_size": 2,
    "batch_count": 3,
    "init": {"denoising_strength": 0.4},
}
VAE = {"role": "vae", "name": "vae-ft-mse.v2.safetensors", "sha256": "c" * 64}
SECOND = {"request": REQUEST, "index": 3, "files": [VAE], "pixels": "d" * 64}
ALONE = {"request": {**REQUEST, "batch_size": 1, "batch_count": 1, "init": None}, "index": 0}
USED = "a red fox\nSteps: 20, Sampler: DPM++ 2M, Schedule type: SGM Uniform, Seed: 1"


def digest(text: str) -> str:
    return sha256(text.encode()).hexdigest()


@pytest.mark.parametrize(
    ("pattern", "of_several", "alone"),
    [
        # What A1111 1.10's FilenameGenerator gives.
        ("[seed]-[batch_number]", "7-2", "7"),
        ("[seed]-[generation_number]-x", "7-4-x", "7-x"),
        ("[seed]-[denoising]", "7-0.4", "7"),
        ("[seed_first] to [seed_last]", "18446744073709551614 to 3", "7"),
        ("[batch_size]", "2", "1"),
        ("[clip_skip]", "2", "2"),
        ("[scheduler]", "Sgm uniform", "Sgm uniform"),
        ("[sampler_scheduler]", "DPM++ 2M Sgm uniform", "DPM++ 2M Sgm uniform"),
        ("[vae_filename]", "vae-ft-mse", "NoneType"),
        ("[styles]", "None", "None"),
        ("[none]", "", ""),
        ("[prompt_no_styles]", "a red Fox, in snow", "a red Fox, in snow"),
        ("[prompt_hash]", digest("a red Fox, in snow")[:8], digest("a red Fox, in snow")[:8]),
        ("[prompt_hash<12>]", digest("a red Fox, in snow")[:12], digest("a red Fox, in snow")[:12]),
        ("[negative_prompt_hash<>]", digest("bad")[:8], digest("bad")[:8]),
        ("[full_prompt_hash<5>]", digest("a red Fox, in snow bad")[:5], digest("a red Fox, in snow bad")[:5]),
        ("[image_hash<6>]", "dddddd", ""),
        ("[image_hash]", "d" * 64, ""),
        ("[hasprompt<FOX|cat>]", "fox", "fox"),
        ("[hasprompt<dog|cat><red><cow><in snow|x>]", "catredin_snow", "catredin_snow"),
        ("[hasprompt]", "", ""),
    ],
)
def test_words_are_those_of_a1111(pattern: str, of_several: str, alone: str) -> None:
    for told, name in ((SECOND, of_several), (ALONE, alone)):
        assert Names(pattern).file_for(facts_of(json.dumps(told), 7, (8, 8), USED)) == name


@pytest.mark.parametrize("form", ["%Y-%m-%d", "%d.%m. %H"])
def test_a_time_has_a_format_and_a_zone(form: str) -> None:
    assert Names(f"[datetime<{form}><UTC>]").file_for({}) == datetime.now(UTC).strftime(form)
    assert Names(f"[DateTime<{form}>]").file_for({}) == datetime.now().strftime(form)


@pytest.mark.parametrize("zone", ["Nowhere/At_All", "../../etc/passwd", "Europe", "/", "\0", "\ud83e", ""])
def test_a_zone_that_nobody_knows_is_the_systems(zone: str) -> None:
    assert Names(f"[datetime<%Y-%m-%d><{zone}>]").file_for({}) == f"{datetime.now():%Y-%m-%d}"


def test_a_zone_may_stand_in_a_folder() -> None:
    day = datetime.now(UTC).strftime("%Y-%m-%d")
    assert Names(folder="a/[datetime<%Y-%m-%d><Etc/UTC>]/b").folder_for({}) == Path("a", day, "b")


def test_a_prompt_without_words_is_called_empty() -> None:
    facts = facts_of(json.dumps({"request": {"prompt": ", (...)"}}), 1, (8, 8))
    assert Names("[prompt_words]").file_for(facts) == "empty"


texts = st.text(st.characters(), max_size=40) | st.sampled_from([f"[{word}<" for word in KNOWN] + [">]", "<", "]"])


@settings(max_examples=150, deadline=None)
@given(st.lists(texts, max_size=6).map("".join), st.lists(texts, max_size=6).map("".join), st.text(st.characters()))
@example("[seed]\ud83e", "a\udc00/[date]", "a fox \ud83e")
@example("[datetime<%\ud83e><\ud83e>]", "[datetime<%></>]", "")
@example("[prompt_hash<99999999999999999999>]", "[image_hash<-1>]", "\0")
def test_every_pattern_gives_a_name_that_can_be_written(file: str, folder: str, prompt: str) -> None:
    facts = facts_of(json.dumps({"request": {**REQUEST, "prompt": prompt}, "index": 0}), 1, (8, 8))
    names = Names(file, folder)
    label, place = names.file_for(facts), names.folder_for(facts)
    assert len(label.encode()) <= BYTES
    assert "/" not in label
    assert not place.is_absolute()
    assert ".." not in place.parts
    assert all(0 < len(part.encode()) <= BYTES for part in place.parts)


@pytest.mark.parametrize("hook", ["facts_of", "Names.file_for", "Names.folder_for"])
@pytest.mark.parametrize("error", [ValueError, KeyError, RecursionError, ZeroDivisionError, OSError, UnicodeError])
def test_a_finished_picture_is_not_lost_over_its_name(
    hook: str, error: type[Exception], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> Any:
        raise error("no name for you")

    monkeypatch.setattr(f"modules.gallery.{'outputs' if hook == 'facts_of' else 'filenames'}.{hook}", fail)
    saved = Gallery(tmp_path).save(Image.new("RGB", (8, 8)), seed=7, infotext="", job="a")
    assert saved.path == tmp_path / "txt2img-images" / f"{datetime.now():%Y-%m-%d}" / "00001-7.png"
    assert Gallery(tmp_path).of_job("a") == [saved.path]


@pytest.mark.parametrize(
    "recipe",
    [
        "{",
        "[" * 100_000,
        "3",
        '{"request": 3, "files": 3, "index": "x", "pixels": 3}',
        '{"request": {"batch_size": "x", "seed": null, "prompt": 3, "init": 3}, "files": [3, {"role": "checkpoint"}]}',
        '{"request": {"batch_size": 0, "batch_count": -1}, "index": 1.5}',
        json.dumps({"request": {"prompt": "a fox \ud83e"}}),
    ],
)
def test_whatever_the_recipe_says_the_picture_is_saved(recipe: str, tmp_path: Path) -> None:
    pattern = " ".join(f"[{word}]" for word in KNOWN)
    saved = Gallery(tmp_path, names=Names(pattern, pattern)).save(
        Image.new("RGB", (8, 8)), seed=1, infotext="a fox \ud83e", recipe=recipe, stem="\u732b" * 300
    )
    assert saved.path.is_file()


def test_a_name_that_the_disk_refuses_gives_way_to_the_plain_one(tmp_path: Path) -> None:
    (tmp_path / "txt2img-images").mkdir()
    (tmp_path / "txt2img-images" / "taken").write_text("a file where a folder should be")
    saved = Gallery(tmp_path, names=Names(folder="taken")).save(Image.new("RGB", (8, 8)), seed=7, infotext="")
    assert saved.path.relative_to(tmp_path / "txt2img-images").parts == (f"{datetime.now():%Y-%m-%d}", "00001-7.png")
