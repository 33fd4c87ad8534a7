"""Options of the whole suite."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

# Of this process, of those beside it and of every server that a test starts, read when torch is imported: tests are
# small, and threads that wait for each other on few cores are slower than one.
os.environ.setdefault("OMP_NUM_THREADS", "1")

collect_ignore = ["broken"]
"""Extensions that cannot be imported, for the tests of those that are not let in."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--golden",
        type=Path,
        default=Path(__file__).parent / "golden",
        metavar="DIR",
        help="the directory whose reference data tests/conformance runs (default: tests/golden)",
    )
    parser.addoption(
        "--extension", action="append", default=[], metavar="PATH", help="run tests/kit over this extension"
    )


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", "golden(file, section, having): run the test for every case of a section of a reference file"
    )


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes longest comes first, so that side by side all end together: browsers, then whole servers."""

    def rank(item: pytest.Item) -> int:
        if item.get_closest_marker("browser"):
            return 0
        return 1 if item.path.parent.name == "server" else 2

    items.sort(key=rank)
