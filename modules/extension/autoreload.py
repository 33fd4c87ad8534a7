"""Loads extensions anew when their files change, for those who write one (``--reload-extensions``)."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping

from modules.errors import RepriseError
from modules.extension.loader import Loader
from modules.extension.manifest import folders_in

log = logging.getLogger(__name__)

EVERY_S = 1.0
"""How often files are looked at."""
State = Mapping[str, tuple[int, int]]
"""Time of change and size of each file, by its path."""


class AutoReload:
    """Watches the folders of ``loader``; ``on_reload`` is called after an extension was loaded anew, so that the worker
    takes it up too. Tabs and controls are built when the program starts, and change then.
    """

    def __init__(self, loader: Loader, on_reload: Callable[[], None]):
        self._loader = loader
        self._on_reload = on_reload
        self._seen = self._look()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="autoreload", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join()

    def look(self) -> list[str]:
        """Load anew what has changed since the last look; gives the names."""
        before, self._seen = self._seen, self._look()
        changed = [name for name, files in self._seen.items() if files != before.get(name)]
        for name in changed:
            try:
                found = self._loader.reload(name)
                log.info("extension %s was loaded anew: %s", name, found.reason or found.state)
            except RepriseError as error:  # its folder went away meanwhile
                log.warning("extension %s cannot be loaded anew: %s", name, error)
        if changed:
            self._on_reload()
        return changed

    def _watch(self) -> None:
        while not self._ended.wait(EVERY_S):
            try:
                self.look()
            except OSError as error:  # a file that is being written
                log.warning("the folders of extensions cannot be read now: %s", error)

    def _look(self) -> dict[str, State]:
        found: dict[str, State] = {}
        for place in folders_in(*self._loader.folders):
            files = (path for path in place.rglob("*") if "__pycache__" not in path.parts and path.is_file())
            found[place.name] = {str(path): ((stat := path.stat()).st_mtime_ns, stat.st_size) for path in files}
        return found
