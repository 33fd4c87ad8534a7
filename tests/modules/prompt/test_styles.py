"""styles.csv, as A1111 writes it."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modules.errors import NotFound, UserError
from modules.prompt.styles import Style, StyleBook, apply, find

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


CASTLE, FOX = Style("A", "a castle, big", "blurry"), Style("B", "a fox")
AS_PEOPLE_HAVE_IT = {
    "semicolons": b"name;prompt;negative_prompt\r\nA;a castle, big;blurry\r\nB;a fox;\r\n",
    "tabs": b"name\tprompt\tnegative_prompt\nA\ta castle, big\tblurry\nB\ta fox\t\n",
    "bars": b"name|prompt|negative_prompt\nA|a castle, big|blurry\nB|a fox|\n",
    "an empty line first": b'\r\nname,prompt,negative_prompt\r\nA,"a castle, big",blurry\r\nB,a fox,\r\n',
    "an empty row first": b";;\r\nname;prompt;negative_prompt\r\nA;a castle, big;blurry\r\n;;\r\nB;a fox;\r\n",
    "sep=": b'sep=,\r\nname,prompt,negative_prompt\r\nA,"a castle, big",blurry\r\nB,a fox,\r\n',
    "sep= of semicolons": b'\xef\xbb\xbf"SEP=;"\r\nname;prompt;negative_prompt\nA;a castle, big;blurry\nB;a fox;\n',
    "other capitals": b'Name,PROMPT,Negative Prompt\nA,"a castle, big",blurry\nB,a fox,\n',
    "blanks behind commas": b'name, prompt, negative_prompt\nA, "a castle, big", blurry\nB, a fox,\n',
    "blanks before quotes alone": b'name,prompt,negative_prompt\nA, "a castle, big", "blurry"\nB,a fox,\n',
    "other order": b'negative_prompt,name,prompt\nblurry,A,"a castle, big"\n,B,a fox\n',
    "returns alone": b'name,prompt,negative_prompt\rA,"a castle, big",blurry\rB,a fox,\r',
    "UTF-16": "name;prompt;negative_prompt\r\nA;a castle, big;blurry\r\nB;a fox;\r\n".encode("utf-16"),
    "UTF-16 without its mark": "name\tprompt\tnegative_prompt\nA\ta castle, big\tblurry\nB\ta fox\n".encode(
        "utf-16-le"
    ),
    "UTF-32": 'name,prompt,negative_prompt\nA,"a castle, big",blurry\nB,a fox,\n'.encode("utf-32"),
}


@pytest.mark.parametrize("data", AS_PEOPLE_HAVE_IT.values(), ids=AS_PEOPLE_HAVE_IT)
def test_a_file_of_a_spreadsheet_is_read_and_saving_keeps_what_it_holds(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "styles.csv"
    path.write_bytes(data)
    book = StyleBook(path)
    assert book.styles() == (CASTLE, FOX)
    book.save(INK)
    assert book.styles() == (CASTLE, FOX, INK)
    assert path.with_name("styles.csv.bak").read_bytes() == data


@pytest.mark.parametrize(
    "data",
    [
        b"A,a castle,blurry\nB,a fox,\n",
        "\u540d\u79f0;x\nA;y\n".encode(),
        b"\xff\x00",
        b"sep=x\nnamexprompt\n",
        b"caf\xe9,x\n",
    ],
    ids=["no heading", "another heading", "no text", "an odd delimiter", "another code page"],
)
def test_a_file_without_names_is_refused_and_never_written_over(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "styles.csv"
    path.write_bytes(data)
    book = StyleBook(path)
    attempts = [
        lambda: book.save(INK),
        lambda: book.add(INK),
        lambda: book.change("A", INK),
        lambda: book.delete("A"),
        book.styles,
    ]
    for attempt in attempts:
        with pytest.raises(UserError, match=r"the styles in styles.csv cannot be read: .*; (begin|save) the file"):
            attempt()
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == {"styles.csv": data}


@pytest.mark.parametrize("data", [b"", b"\xef\xbb\xbf", b"\r\n \r\n", b",,\r\n", "\u00a0\n".encode()])
def test_a_blank_file_has_no_styles(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "styles.csv"
    path.write_bytes(data)
    book = StyleBook(path)
    assert book.styles() == ()
    book.save(INK)
    assert book.styles() == (INK,)


def test_what_we_do_not_know_stays_in_the_file(tmp_path: Path) -> None:
    path = tmp_path / "styles.csv"
    path.write_text("Category,name,text,icon\nold,A,a castle,x.png\n,,a nameless one,\nnew,B,a fox,y.png,and more\n")
    book = StyleBook(path)
    assert book.styles() == (Style("A", "a castle"), Style("B", "a fox"))
    book.change("B", Style("C", "a red fox", "blurry"))
    book.delete("")
    with path.open(encoding="utf-8-sig", newline="") as file:
        assert list(csv.reader(file)) == [
            ["name", "prompt", "negative_prompt", "Category", "icon"],
            ["A", "a castle", "", "old", "x.png"],
            ["", "a nameless one", "", "", ""],
            ["C", "a red fox", "blurry", "new", "y.png", "and more"],
        ]


@pytest.mark.parametrize(
    ("style", "prompt", "negative"),
    [
        (Style("At", "at"), "cat", ""),
        (Style("Bad", "", "bad"), "cat", "very bad"),
        (Style("Frame", "a, {prompt}, b"), "a, b", ""),
        (Style("Photo", "photo of {prompt} photo"), "photo of photo", ""),
        (Style("Dot", "sharp focus"), "a fox.sharp focus", ""),
        (Style("Twice", "{prompt} and {prompt}"), "a cat and a dog", ""),
        (Style("Said", "ink"), "a cat # Tom, ink", ""),
    ],
)
def test_a_style_whose_text_stands_there_by_chance_is_not_recognised(style: Style, prompt: str, negative: str) -> None:
    assert find([style], prompt, negative) == ([], prompt, negative)


PIECES = st.sampled_from(["a", "b", ", ", ",", " ", "#", "\n", "{prompt}"])
WORDS = st.lists(PIECES, max_size=8).map("".join)


@given(st.lists(st.builds(Style, st.just("x"), WORDS, WORDS), max_size=3), WORDS, WORDS, st.booleans())
def test_styles_that_were_recognised_give_the_prompt_again(
    given: list[Style], prompt: str, negative: str, merged: bool
) -> None:
    styles = [style._replace(name=str(number)) for number, style in enumerate(given)]
    if merged:
        prompt, negative = apply(styles, prompt, negative)
    names, bare, bare_negative = find(styles, prompt, negative)
    again = apply([styles[int(name)] for name in names], bare, bare_negative)
    assert [text.strip() for text in again] == [text.strip() for text in (prompt, negative)]


def test_a_comment_swallows_no_style() -> None:
    note = Style("note", "ink # my pen", "{prompt}, photo # no photo\n")
    assert apply([note, DAWN], "a fox # Tom", "dull # grey") == (
        "a fox, ink, at dawn, golden light",
        "dull, photo",
    )
    assert apply([Style("none")], "a fox # Tom", "") == ("a fox # Tom", "")
    assert find([note, DAWN], *apply([note, DAWN], "a fox # Tom", ""))[0] == ["note", "at dawn"]
