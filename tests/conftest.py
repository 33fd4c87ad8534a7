"""Options of the whole suite."""

from __future__ import annotations

from pathlib import Path

import pytest

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
