"""What tags say: strengths that change, and what cannot be read or says nothing."""

from __future__ import annotations

import pytest

from modules.checkpoints.networks.arguments import BadTag, Edited, Line, read_tag


@pytest.mark.parametrize("changing", ["[0:1:0.25]", "[0@0, 1@0.25]"])
def test_te_adds_the_texts_to_a_strength_that_changes(changing: str) -> None:
    for arguments in (f"ink:{changing}:te=0.5", f"ink:te=0.5:{changing}", f"ink:0.5:{changing}"):
        use = read_tag("lora", arguments)
        assert use.te == 0.5
        assert isinstance(use.unet, Edited | Line)
    alone = read_tag("lora", f"ink:{changing}")
    assert alone.te == 0 and isinstance(alone.unet, Edited | Line)


@pytest.mark.parametrize("arguments", ["ink:[0:1:0.25]:0.5", "ink:[0@0,1@1]:unet=0.5", "ink:te=[0:1:0.5]:unet=1"])
def test_a_strength_for_texts_that_changes_is_refused(arguments: str) -> None:
    with pytest.raises(BadTag, match="texts cannot change over the steps"):
        read_tag("lora", arguments)


@pytest.mark.parametrize("arguments", ["ink:1:dyn=x", "ink:1:lbw=1,x", "ink:1:lbw=" + ",".join(["nan"] * 17)])
def test_what_is_no_number_is_named(arguments: str) -> None:
    with pytest.raises(BadTag, match=r"'x' is not a (whole )?number|nan is not a strength"):
        read_tag("lora", arguments)


def test_arguments_that_say_nothing_are_named() -> None:
    assert read_tag("lora", "ink:1:te=1:unet=1:dyn=2:lbw=ALL").passed_over == ""
    sentence = "ink: stop= does nothing here; of such arguments there are te=, unet=, dyn=, lbw="
    assert read_tag("lora", "ink:1:stop=10").passed_over == sentence
    assert "none" in read_tag("hypernet", "ink:1:te=1").passed_over
    assert read_tag("lora", "ink:1:dyn=0").passed_over == "ink: dyn=0 leaves it no rank, so it changes nothing"
