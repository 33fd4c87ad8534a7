"""Tag completion: a route that finds tags, and a script that offers them below the word at the cursor.

Lists are CSV files of ``tag,count`` lines, the usual form of booru lists: tags.csv here and whatever the owner puts
into ``DATA/extensions/tag_completion/``.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from modules import Host, RouteSpec

MOST = 12


def register(host: Host) -> None:
    own = host.data_dir

    def search(values: Mapping[str, Any], owner: str) -> list[dict[str, Any]]:
        wanted = str(values.get("q", "")).strip().lower().replace(" ", "_")
        files = [Path(__file__).with_name("tags.csv"), *sorted(own.glob("*.csv"))]
        tags = read_tags(tuple((str(path), path.stat().st_mtime_ns) for path in files))
        found = [(tag, count) for tag, count in tags.items() if wanted and wanted in tag]
        found.sort(key=lambda item: (not item[0].startswith(wanted), -item[1], item[0]))
        return [{"tag": tag, "count": count} for tag, count in found[:MOST]]

    host.add_route(RouteSpec("search", search))
    host.add_asset("completion.js")
    host.add_asset("completion.css")


@lru_cache(maxsize=1)
def read_tags(files: tuple[tuple[str, int], ...]) -> dict[str, int]:
    """Tags with their counts. The times of change are part of the cache's key."""
    tags: dict[str, int] = {}
    for path, _ in files:
        with Path(path).open(encoding="utf-8", newline="") as lines:
            for tag, *rest in (row for row in csv.reader(lines) if row and row[0]):
                count = int(rest[-1]) if rest and rest[-1].isdecimal() else 0
                tags[tag.lower()] = max(tags.get(tag.lower(), 0), count)
    return tags
