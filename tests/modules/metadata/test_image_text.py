"""Texts in picture files, broken and hostile ones too. What A1111 and Forge wrote: tests/conformance/test_files.py."""

from __future__ import annotations

import gzip
import io
import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from modules.builtin import register
from modules.errors import ImageError, UserError
from modules.extension.host import Host
from modules.metadata import infotext, recipe
from modules.metadata.image_text import PNG, Encoding, encode, is_lossy, read_metadata, settings_in
from modules.metadata.infotext import MAX_LENGTH
from modules.params.generation import GenerationParams
from tests.modules.metadata.test_recipe import RECIPE, requests

GREY = Image.new("RGB", (40, 30), (90, 90, 90))


def jpeg(comment: bytes) -> bytes:
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0x9286] = comment
    buffer = io.BytesIO()
    GREY.save(buffer, "JPEG", exif=exif)
    return buffer.getvalue()


def png(image: Image.Image = GREY, **texts: str) -> bytes:
    info = PngInfo()
    for key, text in texts.items():
        info.add_text(key, text)
    buffer = io.BytesIO()
    image.save(buffer, "PNG", pnginfo=info)
    return buffer.getvalue()


def hidden(stream: bytes, channels: str, size: tuple[int, int] = (60, 50)) -> Image.Image:
    """``stream`` in the lowest bits, written pixel by pixel as the format's definition has it."""
    image = Image.new("RGBA" if channels == "A" else "RGB", size, (8, 8, 8, 254) if channels == "A" else (8, 8, 8))
    pixels = np.array(image)
    bits = [byte >> (7 - i) & 1 for byte in stream for i in range(8)]
    places = [
        (y, x, c) for x in range(size[0]) for y in range(size[1]) for c in ((3,) if channels == "A" else (0, 1, 2))
    ]
    for (y, x, c), bit in zip(places, bits, strict=False):
        pixels[y, x, c] = pixels[y, x, c] & 0xFE | bit
    return Image.fromarray(pixels)


def stream(signature: bytes, payload: bytes, bits: int | None = None) -> bytes:
    return signature + (8 * len(payload) if bits is None else bits).to_bytes(4, "big") + payload


@pytest.mark.parametrize(
    ("comment", "text"),
    [
        (b"UNICODE\0" + "a 猫".encode("utf-16-be"), "a 猫"),
        (b"UNICODE\0" + "a cat".encode("utf-16-le"), "a cat"),
        (b"ASCII\0\0\0" + b"a cat\0", "a cat"),
        (b"\0" * 8 + "é".encode(), "é"),
        (b"no header here", "no header here"),
        (b"UNICODE\0" + b"\0a\xd8", "a"),
    ],
)
def test_user_comments_are_read_in_every_encoding(comment: bytes, text: str) -> None:
    assert read_metadata(jpeg(comment))["infotext"] == text


def test_recipe_and_other_texts_are_apart() -> None:
    found = read_metadata(png(parameters="p", recipe="{}", extras="e"))
    assert found == {"infotext": "p", "recipe": "{}", "items": {"extras": "e"}, "stealth_infotext": None}


@pytest.mark.parametrize("comment", ["", "{}", "[]", "[" * 50_000, '{"sampler": ["x"]}'])
def test_broken_novelai_data_is_no_text(comment: str) -> None:
    found = read_metadata(png(Software="NovelAI", Description="d", Comment=comment))
    assert found["infotext"] is None


@pytest.mark.parametrize("channels", ["A", "RGB"])
@pytest.mark.parametrize("packed", [False, True])
def test_hidden_text_is_found(channels: str, packed: bool) -> None:
    kind = {"A": b"stealth_png", "RGB": b"stealth_rgb"}[channels] + (b"comp" if packed else b"info")
    payload = "a 猫\nSteps: 20".encode()
    data = png(hidden(stream(kind, gzip.compress(payload, mtime=0) if packed else payload), channels))
    assert read_metadata(data)["stealth_infotext"] == payload.decode()


@pytest.mark.parametrize(
    "broken",
    [
        stream(b"stealth_rgbcomp", b"no gzip"),
        stream(b"stealth_rgbcomp", gzip.compress(b"x" * 99, mtime=0)[:-12], 2**32 - 1),
        stream(b"stealth_pnginfo", b"alpha's signature in the colours"),
        b"stealth_rgbinfo",
    ],
)
def test_broken_hidden_text_breaks_nothing(broken: bytes) -> None:
    read_metadata(png(hidden(broken, "RGB")))


def test_a_hidden_bomb_is_cut_off() -> None:
    bomb = gzip.compress(bytes(10_000_000))
    data = png(hidden(stream(b"stealth_rgbcomp", bomb), "RGB", (200, 150)))
    text = read_metadata(data)["stealth_infotext"]
    assert text is not None
    assert len(text) <= 4 * MAX_LENGTH


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (19, 8)])
def test_tiny_pictures_hide_nothing(size: tuple[int, int]) -> None:
    for mode in ("RGB", "RGBA"):
        assert read_metadata(png(Image.new(mode, size)))["stealth_infotext"] is None


def test_what_is_no_picture_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(b"text")
    with pytest.raises(ImageError):
        read_metadata(path)


# ---------------------------------------------------------------------------------------------------------- writing

FORMATS = [PNG, Encoding("jpg"), Encoding("webp"), Encoding("webp", lossless=True)]
GOLDEN = Path(__file__).parents[2] / "golden"
HOST = Host()
register(HOST)


def exif_entries(image: Image.Image) -> dict[int, tuple[int, bytes]]:
    """Tag -> (type, value) of both directories, by the letter of the TIFF specification."""
    data = image.info["exif"].removeprefix(b"Exif\0\0")
    order = {b"MM": ">", b"II": "<"}[data[:2]]
    entries: dict[int, tuple[int, bytes]] = {}
    waiting = list(struct.unpack_from(f"{order}I", data, 4))
    while waiting:
        start = waiting.pop()
        (count,) = struct.unpack_from(f"{order}H", data, start)
        for i in range(count):
            tag, kind, number = struct.unpack_from(f"{order}HHI", data, start + 2 + 12 * i)
            size = number * {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 7: 1}[kind]
            place = start + 2 + 12 * i + 8
            if size > 4:
                (place,) = struct.unpack_from(f"{order}I", data, place)
            entries[tag] = kind, data[place : place + size]
            if tag == 0x8769:
                waiting.append(struct.unpack(f"{order}I", entries[tag][1])[0])
    return entries


@pytest.mark.parametrize("name", ["jpeg_exif.jpg", "webp_exif.webp"])
def test_the_generation_text_stands_where_and_how_the_reference_writes_it(name: str) -> None:
    text = json.loads((GOLDEN / "files.json").read_text(encoding="utf-8"))[name]["infotext"]
    data, lost = encode(GREY, text, "{}", Encoding(name[-4:].strip(".")))
    ours = exif_entries(Image.open(io.BytesIO(data)))
    theirs = exif_entries(Image.open(GOLDEN / "files" / name))
    assert lost == ""
    assert ours[0x9286] == theirs[0x9286]  # type UNDEFINED and every byte
    assert ours[0x010E] == (2, b"recipe:{}\0")


@pytest.mark.parametrize("encoding", FORMATS)
def test_both_texts_come_back_from_every_format(encoding: Encoding) -> None:
    data, lost = encode(GREY, "a 猫\nSteps: 1", '{"a":1}', encoding)
    assert lost == ""
    assert read_metadata(data) == {
        "infotext": "a 猫\nSteps: 1",
        "recipe": '{"a":1}',
        "items": {},
        "stealth_infotext": None,
    }
    assert Image.open(io.BytesIO(data)).format == {"png": "PNG", "jpg": "JPEG", "webp": "WEBP"}[encoding.format]
    assert is_lossy(data) == (encoding.format != "png" and not encoding.lossless)


@pytest.mark.parametrize("encoding", FORMATS)
def test_a_picture_without_texts_has_none(encoding: Encoding) -> None:
    found = read_metadata(encode(GREY, "", "", encoding)[0])
    assert (found["infotext"], found["recipe"]) == (None, None)


@pytest.mark.parametrize(
    ("infotext", "recipe", "kept", "lost"),
    [
        (20_000, 25_000, "both", ""),
        (30_000, 30_000, "infotext", "the recipe does not fit"),
        (40_000, 30_000, "recipe", "the generation text does not fit"),
        (40_000, 70_000, "none", "the generation text and the recipe do not fit"),
    ],
)
def test_what_does_not_fit_into_a_jpeg_is_said_and_the_picture_stays(
    infotext: int, recipe: int, kept: str, lost: str
) -> None:
    data, sentence = encode(GREY, "a" * infotext, "b" * recipe, Encoding("jpg"))
    found = read_metadata(data)
    assert (found["infotext"] == "a" * infotext) == (kept in ("both", "infotext"))
    assert (found["recipe"] == "b" * recipe) == (kept in ("both", "recipe"))
    assert sentence.startswith(lost)
    assert bool(sentence) == bool(lost)
    assert Image.open(io.BytesIO(data)).size == GREY.size


def test_a_text_by_any_name_is_written() -> None:
    data, lost = encode(GREY, "a fox", "", PNG, {"\u732b" * 100: "a", "caf\xe9": "b"})
    assert lost == ""
    assert read_metadata(data)["items"] == {"?" * 79: "a", "caf\xe9": "b"}


def test_a_webp_and_a_png_hold_texts_of_any_length() -> None:
    for encoding in (PNG, Encoding("webp")):
        data, lost = encode(GREY, "a" * 60_000, "b" * 300_000, encoding)
        assert lost == ""
        assert len(read_metadata(data)["recipe"] or "") == 300_000


def test_the_longest_jpeg_segment_is_written_and_one_byte_more_is_not() -> None:
    room = 65_533 - len(encode_exif("")) + 1  # an odd length is padded to an even one
    assert encode(GREY, "", "b" * (room - 1), Encoding("jpg"))[1] == ""
    assert encode(GREY, "", "b" * (room + 2), Encoding("jpg"))[1] != ""


def encode_exif(recipe: str) -> bytes:
    data = encode(GREY, "", recipe or "b", Encoding("jpg"))[0]
    exif = Image.open(io.BytesIO(data)).info["exif"]
    assert isinstance(exif, bytes)
    return exif


def test_another_programs_caption_is_no_recipe() -> None:
    exif = Image.Exif()
    exif[0x010E] = '{"a": "cat on the beach"}'
    buffer = io.BytesIO()
    GREY.save(buffer, "JPEG", exif=exif)
    assert read_metadata(buffer.getvalue())["recipe"] is None


def settings_of(data: bytes, **more: Any) -> infotext.Paste:
    return settings_in(read_metadata(data), HOST.samplers, HOST.schedulers, **more)


HARD = GenerationParams(
    prompt='  a cat\n\nNegative prompt: x\nSteps: 20, Sampler: "Euler", Seed: 1  \n# a comment\n\\"quoted\\": (a:b)\n ',
    negative_prompt="Negative prompt: y\n  \nthe end, ",
    seed=5,
)


@settings(max_examples=60, deadline=None)
@given(requests)
@example(HARD)
def test_a_file_of_any_format_gives_back_the_request_it_was_written_for(params: GenerationParams) -> None:
    """What A1111's text cannot carry (blanks at the ends of lines, comments, lines like its own), the recipe does."""
    sampler = HOST.samplers.get("Euler a")
    seed, subseed = 17, 4
    text = infotext.write(params.changed(sampler="Euler a"), seed=seed, subseed=subseed, sampler=sampler, scheduler="")
    recorded = str(recipe.Recipe(**{**vars(RECIPE), "request": params, "seed": seed, "subseed": subseed}))
    for encoding in (PNG, Encoding("jpg"), Encoding("webp")):
        changes = settings_of(encode(GREY, text, recorded, encoding)[0]).changes
        other = params.changed(prompt="", negative_prompt="", steps=1)
        back = GenerationParams.from_json({**other.to_json(), **changes})
        assert back == params.changed(seed=seed, subseed=subseed if params.subseed_strength else -1)


def test_a_picture_of_another_program_gives_what_its_text_says() -> None:
    data = (GOLDEN / "files" / "jpeg_exif.jpg").read_bytes()
    changes = settings_of(data).changes
    assert (changes["prompt"], changes["steps"], changes["sampler"]) == ("a cat, (blue:1.2) 猫", 20, "Euler a")
    hidden_text = settings_of((GOLDEN / "files" / "stealth_rgb_gzip.png").read_bytes())
    assert hidden_text.changes["prompt"] == changes["prompt"]


def test_the_checkpoint_of_a_recipe_is_asked_for_by_name_and_hash() -> None:
    asked = []

    def find(name: str, sha: str) -> str:
        asked.append((name, sha))
        return "ours"

    data = encode(GREY, "", str(RECIPE))[0]
    assert settings_of(data, find_checkpoint=find).changes["checkpoint"] == "ours"
    assert asked == [("mini", "ab" * 5)]
    assert "checkpoint" not in settings_of(data).changes


def test_a_picture_that_says_nothing_has_no_settings() -> None:
    with pytest.raises(UserError, match="carries no generation text"):
        settings_of(png())


# ----------------------------------------------------------------------------------------------------------- NovelAI

COMMENT = {"prompt": "1girl, fox", "steps": 28, "scale": 5.0, "seed": 4000000000, "sampler": "k_dpmpp_2m", "uc": "low"}
TOLD = {"Description": "1girl, fox", "Software": "NovelAI", "Source": "V3", "Comment": json.dumps(COMMENT)}
NOVELAI = {
    "prompt": "1girl, fox",
    "negative_prompt": "low",
    "steps": 28,
    "cfg_scale": 5.0,
    "seed": 4000000000,
    "sampler": "DPM++ 2M",
    "width": 160,
    "height": 120,
    "clip_skip": 2,
    "ensd": 31337,
}


def novelai(text: str, channels: str, packed: bool, kind: str = "PNG", **options: Any) -> bytes:
    """As NovelAI hides it, where sites strip the chunks."""
    signature = {"A": b"stealth_png", "RGB": b"stealth_rgb"}[channels] + (b"comp" if packed else b"info")
    payload = gzip.compress(text.encode()) if packed else text.encode()
    buffer = io.BytesIO()
    hidden(stream(signature, payload), channels, (160, 120)).save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("channels", ["A", "RGB"])
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("told", [TOLD, TOLD | {"Comment": COMMENT}, COMMENT, {"Comment": json.dumps(COMMENT)}])
def test_novelais_json_is_read_wherever_it_is_hidden(
    told: dict[str, Any], kind: str, packed: bool, channels: str
) -> None:
    options = {"lossless": True, "exact": True} if kind == "WEBP" else {}
    changes = settings_of(novelai(json.dumps(told), channels, packed, kind, **options)).changes
    assert {name: changes[name] for name in NOVELAI} == NOVELAI


@pytest.mark.parametrize("encoding", [PNG, Encoding("jpg"), Encoding("webp")])
def test_novelais_json_is_read_where_a_generation_text_stands(encoding: Encoding) -> None:
    data, _ = encode(GREY.resize((160, 120)), json.dumps(TOLD), "", encoding)
    changes = settings_of(data).changes
    assert {name: changes[name] for name in NOVELAI} == NOVELAI


@pytest.mark.parametrize("text", ["{a|b} fox", '{"a": 1}', "{}", '["x"]', '{"Comment": 3}', "{" * 50_000])
def test_other_text_in_braces_stays_as_it_is(text: str) -> None:
    assert read_metadata(png(parameters=text))["infotext"] == text


def test_text_hidden_in_a_lossy_picture_is_not_looked_for() -> None:
    assert read_metadata(novelai("a fox", "RGB", False, "WEBP", quality=100))["stealth_infotext"] is None


def test_texts_of_a_picture_that_is_cut_off_are_read() -> None:
    data = png(Image.effect_noise((400, 400), 90).convert("RGB"), parameters="a fox")
    assert read_metadata(data[: len(data) // 2])["infotext"] == "a fox"
