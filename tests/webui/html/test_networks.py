"""HTML of the panel of networks: no markup but its own, folders as a tree, every text in Chinese too."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from modules.checkpoints.networks.cards import CHECKPOINT, EMBEDDING, Card, insertion
from modules.checkpoints.networks.library import Details
from modules.checkpoints.networks.listing import Described, NetworkFile
from modules.checkpoints.networks.metadata import Fact
from modules.checkpoints.networks.shelf import HYPERNETWORK, LORA
from modules.checkpoints.networks.side_files import Downloaded, UserMetadata
from tests.webui.html.test_status import HOSTILE, Tags
from tests.webui.test_i18n import Texts, english
from webui.html.networks import EMPTY, cards_html, details_html, folders_html, opener_html, panel_html

OURS = {
    *("section", "header", "h2", "h3", "h4", "div", "button", "input", "label", "select", "option", "nav", "ul", "li"),
    *("footer", "span", "b", "i", "small", "img", "p", "dl", "dt", "dd", "details", "summary", "form", "textarea"),
}


def card(name: str, role: str = LORA, *, folder: str = "Lora", family: str = "SD1", problem: str = "") -> Card:
    """A card all of whose texts are its name."""
    user = UserMetadata(name, name, "", name, name, 0.7, name)
    downloaded = Downloaded(name, name, name, (name,), name, (name, name), name)
    described = Described(name, family, family, name, (name,), (name,), True, (name,), problem)
    file = NetworkFile(Path("/models/Lora/x.safetensors"), Path("/models/Lora"), 10, 1, described)
    return Card(
        file, role, name, folder, family, user, downloaded, name, None, 0, insertion(name, user, role=role), name, 0.7
    )


@pytest.mark.parametrize("role", [LORA, HYPERNETWORK, EMBEDDING, CHECKPOINT])
@pytest.mark.parametrize("text", HOSTILE)
def test_what_files_say_never_becomes_markup(text: str, role: str) -> None:
    flat = text.replace("/", "")
    one = card(text, role, folder=f"Lora/{flat}", family=text, problem=text)
    details = Details((Fact(text, text, text),), ((text, 5),), {f"modelspec.{text}": text})
    for html in (
        cards_html([one], "SD1"),
        folders_html([one, one], f"Lora/{flat}"),
        details_html(one, details, may_edit=True, vaes=(text,)),
        details_html(one, details, may_edit=False),
    ):
        found = Tags()
        found.feed(html)
        assert {name for name, _ in found.found} <= OURS
        assert not any(key.startswith("on") for _, attributes in found.found for key in attributes)
        assert text in found.text or flat in found.text


def test_a_card_says_whether_it_fits_and_whether_it_can_be_read() -> None:
    html = cards_html([card("a"), card("b", family="SDXL"), card("c", problem="cut off")], "SD1")
    first, second, third = html.split("<li ")[1:]
    assert "does-not-fit" not in first and "SD1" in first
    assert "does-not-fit" in second and "does not fit" in second
    assert "cannot be read" in third
    assert "does-not-fit" not in cards_html([card("d", CHECKPOINT, family="SDXL")], "SD1")


def test_folders_are_a_tree_that_opens_where_one_is_chosen() -> None:
    cards = [card("x", folder=folder) for folder in ("Lora", "Lora/a", "Lora/a/deep", "Lora/b", "LyCORIS")]
    cards.append(card("x", folder="Lora/.hidden"))

    def shown(chosen: str) -> list[str]:
        return [part.split('"')[0] for part in folders_html(cards, chosen).split('data-folder="')[1:]]

    assert shown("") == ["", "Lora", "Lora/a", "Lora/b", "LyCORIS"]
    assert shown("Lora/a") == ["", "Lora", "Lora/a", "Lora/a/deep", "Lora/b", "LyCORIS"]
    assert 'data-folder="Lora" style="--depth:1"><span translate="no">Lora</span> <small>4</small>' in folders_html(
        cards, ""
    )
    assert "<span>All</span> <small>5</small>" in folders_html(cards, "")  # what a click on it shows
    assert folders_html(cards[:1], "") == ""
    fitting = folders_html([*cards, card("x", family="SDXL", folder="Lora/b")], "", "SD1")
    assert "Lora</span> <small>4</small>" in fitting and "<span>All</span> <small>5</small>" in fitting


def test_every_text_of_the_panel_has_its_entry() -> None:
    details = Details((Fact("Output name:", "x"), Fact("Dataset size:", 5)), (("cat", 2),) * 30, {"modelspec.a": "b"})
    pieces = [panel_html(), opener_html("txt2img"), *EMPTY.values()]
    for role in (LORA, HYPERNETWORK, EMBEDDING, CHECKPOINT):
        one = card("ink", role, family="SDXL", problem="cut off")
        good = replace(one, file=replace(one.file, described=Described()))
        pieces += [cards_html([one, good], "SD1"), folders_html([one, replace(one, folder="Lora/a")], "")]
        pieces += [details_html(one, details, may_edit=may, vaes=("fine.safetensors",)) for may in (True, False)]
    for html in pieces:
        assert english(Texts(html).found) - {"ink", "fine.safetensors"} == set(), html
