"""styles.csv, as A1111 writes it."""

from __future__ import annotations

from pathlib import Path

import pytest

from modules.errors import NotFound, UserError
from modules.styles import Style, StyleBook, apply, find

INK = Style("ink", "{prompt}, ink drawing", "photo")
DAWN = Style("at dawn", "at dawn, golden light")


def test_styles_are_saved_and_read_again(tmp_path: Path) -> None:
    book = StyleBook(tmp_path / "new" / "styles.csv")
    assert book.styles() == ()
    hostile = Style('a "quoted", <b>name</b>', "two\nlines, {prompt}", "ünïcode ☃")
    for style in (INK, DAWN, hostile):
        book.save(style)
    assert book.styles() == (INK, DAWN, hostile)
    assert book.path.read_bytes().startswith(b"\xef\xbb\xbfname,prompt,negative_prompt\r\n")


def test_saving_again_replaces_and_deleting_removes(tmp_path: Path) -> None:
    book = StyleBook(tmp_path / "styles.csv")
    book.save(INK)
    book.save(DAWN)
    book.save(Style(" ink ", "pen"))
    assert book.styles() == (Style("ink", "pen"), DAWN)
    book.delete("ink")
    assert book.styles() == (DAWN,)


def test_files_of_others_are_read_and_their_separators_kept(tmp_path: Path) -> None:
    path = tmp_path / "styles.csv"
    path.write_text("name,text\n# mine,\nold,an old column\n,nameless\nshort\n", encoding="utf-8")
    book = StyleBook(path)
    assert book.styles() == (Style("old", "an old column"), Style("short"))
    book.save(INK)
    assert "# mine" in path.read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["", "  ", "# x", "x" * 101])
def test_a_style_needs_a_name(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError):
        StyleBook(tmp_path / "styles.csv").save(Style(name, "x"))


def test_a_file_that_is_no_text_is_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "styles.csv"
    path.write_bytes(b"\xff\xfe\x00name")
    with pytest.raises(UserError, match="cannot be read"):
        StyleBook(path).styles()


def test_lone_surrogates_do_not_break_the_file(tmp_path: Path) -> None:
    book = StyleBook(tmp_path / "styles.csv")
    book.save(Style("odd", "a \ud800 b"))
    assert book.styles() == (Style("odd", "a ? b"),)


def test_names_that_are_not_there_mean_nothing(tmp_path: Path) -> None:
    book = StyleBook(tmp_path / "styles.csv")
    book.save(INK)
    assert book.chosen(["gone", "ink"]) == [INK]


def test_what_was_applied_is_found_again() -> None:
    merged = apply([INK, DAWN], "a fox", "blurry")
    assert merged == ("a fox, ink drawing, at dawn, golden light", "blurry, photo")
    assert find([DAWN, INK], *merged) == (["ink", "at dawn"], "a fox", "blurry")


def test_a_style_is_renamed_in_its_place_and_never_over_another(tmp_path: Path) -> None:
    book = StyleBook(tmp_path / "styles.csv")
    for style in (INK, DAWN):
        assert book.add(style) == style
    assert book.change("ink", Style("  pen  and ink ", "pen")) == Style("pen and ink", "pen")
    assert book.styles() == (Style("pen and ink", "pen"), DAWN)
    before = book.path.read_bytes()
    with pytest.raises(UserError, match="there is a style at dawn already"):
        book.change("pen and ink", Style(DAWN.name, "x"))
    with pytest.raises(UserError, match="there is a style at dawn already"):
        book.add(DAWN)
    with pytest.raises(UserError, match="needs a name"):
        book.change(DAWN.name, Style("#x"))
    with pytest.raises(NotFound, match="there is no style ink any more"):
        book.change("ink", INK)
    assert book.path.read_bytes() == before
    assert book.change(DAWN.name, DAWN._replace(prompt="new")).prompt == "new"
