"""Tables of named things."""

from __future__ import annotations

import pytest

from modules.errors import UnknownName
from modules.registry import Registry


def samplers() -> Registry[int]:
    table: Registry[int] = Registry("sampler")
    table.add("Euler a", 1, aliases=("k_euler_a",))
    table.add("Euler", 2)
    return table


def test_lookup_forgives_case_and_knows_aliases() -> None:
    table = samplers()
    assert table.get("euler A") == 1
    assert table.canonical("K_EULER_A") == "Euler a"
    assert table.names() == ("Euler a", "Euler")
    assert "euler" in table
    assert 3 not in table


def test_unknown_name_suggests_the_nearest() -> None:
    with pytest.raises(UnknownName, match=r"no sampler named 'Eulre a'; did you mean 'Euler a'\?") as error:
        samplers().get("Eulre a")
    assert error.value.field == "sampler"


def test_unknown_name_far_from_all_lists_what_there_is() -> None:
    with pytest.raises(UnknownName, match="there are 'Euler a', 'Euler'"):
        samplers().get("quantum")


def test_name_is_taken_once() -> None:
    table = samplers()
    with pytest.raises(ValueError, match="already a sampler"):
        table.add("Euler", 3)
