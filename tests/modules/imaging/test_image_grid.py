"""Tables of pictures: every picture is whole and where its words say."""

from __future__ import annotations

from PIL import Image, ImageFont

from modules.imaging.image_grid import PAPER, fitted, table

RED, GREEN, BLUE = (200, 0, 0), (0, 200, 0), (0, 0, 200)


def plain(colour: tuple[int, int, int], width: int = 40, height: int = 30) -> Image.Image:
    return Image.new("RGB", (width, height), colour)


def count(sheet: Image.Image, colour: tuple[int, int, int]) -> int:
    return next((n for n, found in sheet.getcolors(1 << 20) or () if found == colour), 0)


def test_without_words_a_table_is_its_pictures_alone() -> None:
    sheet = table([[plain(RED), plain(GREEN)], [plain(BLUE), None]])
    assert sheet.size == (80, 60)
    assert [sheet.getpixel(at) for at in ((0, 0), (79, 0), (0, 59))] == [RED, GREEN, BLUE]
    assert sheet.getpixel((79, 59)) == (255, 255, 255)


def test_words_stand_outside_of_the_pictures() -> None:
    sheet = table([[plain(RED), plain(GREEN)]], ["first", "second"], ["only"], title="a title", margin=7)
    assert count(sheet, RED) == count(sheet, GREEN) == 40 * 30
    _, top, right, bottom = Image.eval(sheet, lambda v: 255 - v).getbbox() or (0, 0, 0, 0)
    assert right == sheet.width and bottom == sheet.height and top < 60


def test_pictures_of_other_sizes_stand_in_the_middle() -> None:
    sheet = table([[plain(RED, 40, 40), plain(GREEN, 20, 10)]])
    assert sheet.size == (80, 40)
    assert sheet.getpixel((60, 20)) == GREEN and sheet.getpixel((45, 20)) == (255, 255, 255)
    assert count(sheet, GREEN) == 200


def test_a_table_that_is_too_large_is_drawn_smaller() -> None:
    row = [plain(RED, 2000, 10)] * 20
    assert table([row]).width <= 16_384


def test_words_are_made_to_fit() -> None:
    words = fitted("one two three four five six seven eight nine ten " * 10, 120, 60)
    assert words.height <= 60
    assert all(words.font.getlength(line) <= 120 for line in words.lines)
    assert words.lines[-1].endswith("…")
    assert fitted("short", 400, 60).lines == ("short",)
    assert isinstance(fitted("short", 400, 60).font, ImageFont.FreeTypeFont)
    assert PAPER == "#ffffff"


def test_a_word_wider_than_its_place_is_cut() -> None:
    (line,) = fitted("incomprehensibilities" * 4, 100, 40).lines
    assert line.endswith("…")
