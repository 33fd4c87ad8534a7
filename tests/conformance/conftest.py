"""Conformance: every case of every reference file is a test of its own.

A test says which cases it wants and gets one at a time as ``case``::

    @pytest.mark.golden("prompts.json", "cases")                          # d["cases"]: a list, or a dict of cases
    def test_attention(case): ...

    @pytest.mark.golden("prompts.json", "cases", having="extra_networks")   # only cases with that key
    def test_extra_networks(case): ...

    @pytest.mark.golden("samplers.json", "cases")
    def test_sampler(case, golden_file, golden_dir): ...                  # the whole file, and where it lies

A case's id is its ``id`` where it has one, else its key or its number. For ``d["a"]["b"]`` the section is "a/b". The
data comes from ``tests/golden``, or from ``pytest tests/conformance --golden DIR``; a file absent there has no cases.

Cases that differ from the reference on purpose are told apart by a rule, never by their id: the test calls
``differs("what we do instead")``, checks that instead, and the summary counts it.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest


@cache
def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def cases_of(path: Path, section: str = "", having: str = "") -> dict[str, Any]:
    """Test id -> case, of one section of a file."""
    if not path.is_file():
        return {}
    data = read(path)
    for key in section.split("/") if section else ():
        data = data.get(key, [])
    named = data.items() if isinstance(data, dict) else ((_name(case, i), case) for i, case in enumerate(data))
    return {str(name): case for name, case in named if not having or having in case}


def _name(case: Any, index: int) -> str:
    return str(case["id"]) if isinstance(case, dict) and "id" in case else f"{index:03}"


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    mark = metafunc.definition.get_closest_marker("golden")
    if mark:
        file, *section = mark.args
        cases = cases_of(metafunc.config.getoption("golden") / file, *section, **mark.kwargs)
        if cases:
            metafunc.parametrize("case", list(cases.values()), ids=list(cases))
        else:
            metafunc.parametrize("case", [None], ids=["absent"])


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    absent = [item for item in items if item.get_closest_marker("golden") and item.name.endswith("[absent]")]
    for item in absent:
        items.remove(item)
    if absent:
        config.hook.pytest_deselected(items=absent)
    for item in items:
        if mark := item.get_closest_marker("golden"):
            item.user_properties.append(("golden", mark.args[0]))


@pytest.fixture
def golden_dir(request: pytest.FixtureRequest) -> Path:
    """Where the reference data lies."""
    directory: Path = request.config.getoption("golden")
    return directory


@pytest.fixture
def golden_file(request: pytest.FixtureRequest, golden_dir: Path) -> Any:
    """The whole file that the case is from."""
    mark = request.node.get_closest_marker("golden")
    return read(golden_dir / mark.args[0])


@pytest.fixture
def differs(record_property: Callable[[str, object], None]) -> Callable[[str], None]:
    """Call it with the rule by which this case differs on purpose from the reference."""
    return lambda rule: record_property("differs", rule)


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    rules: Counter[tuple[str, str]] = Counter()
    for outcome in ("passed", "failed", "error"):
        for report in terminalreporter.stats.get(outcome, ()):
            properties = dict(report.user_properties)
            if file := properties.get("golden"):
                counts[file][outcome] += 1
                if rule := properties.get("differs"):
                    counts[file]["differ"] += 1
                    rules[file, rule] += 1
    if not counts:
        return
    directory: Path = config.getoption("golden")
    terminalreporter.section(f"conformance with {directory}")
    terminalreporter.line(f"{'file':24}{'cases':>8}{'passed':>8}{'failed':>8}{'errors':>8}{'by rule':>9}")
    for file, count in sorted(counts.items()):
        passed, failed, errors = count["passed"], count["failed"], count["error"]
        terminalreporter.line(f"{file:24}{passed + failed + errors:8}{passed:8}{failed:8}{errors:8}{count['differ']:9}")
    for (file, rule), n in sorted(rules.items()):
        terminalreporter.line(f"  {file}, {n} on purpose: {rule}")
    unread = sorted(path.name for path in directory.glob("*.json") if path.name not in counts)
    if unread:
        terminalreporter.line(f"not run: {', '.join(unread)}")
