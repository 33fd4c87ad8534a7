"""What changes in a folder is loaded anew, and nothing else."""

from __future__ import annotations

from pathlib import Path

from modules.extension.autoreload import AutoReload
from modules.extension.host import Host
from modules.extension.loader import Loader
from tests.modules.extension.test_loader import ROOT, write

CODE = "from modules import SamplerSpec\ndef register(host): host.add_sampler(SamplerSpec('{}', len))\n"


def test_an_extension_whose_file_changes_is_loaded_anew(tmp_path: Path) -> None:
    for name in ("first", "second"):
        write(tmp_path / "ext", name, CODE.format(name), '"sampler"')
    loader = Loader(tmp_path / "ext", tmp_path / "data", ROOT, process="command")
    loader.load_all(Host())
    told: list[int] = []
    watch = AutoReload(loader, lambda: told.append(1))
    assert (watch.look(), told) == ([], [])
    place = write(tmp_path / "ext", "second", CODE.format("second, and longer"), '"sampler"')
    assert (watch.look(), told) == (["second"], [1])
    assert loader.host.samplers.names() == ("first", "second, and longer")
    (place / "__init__.py").write_text("def register(host:")
    assert watch.look() == ["second"]
    assert (loader.extensions["second"].state, loader.host.samplers.names()) == ("broken", ("first",))
    write(tmp_path / "ext", "third", CODE.format("third"), '"sampler"')
    assert watch.look() == ["third"]
    assert "third" in loader.host.samplers
    assert (watch.look(), told) == ([], [1, 1, 1])


def test_the_watch_begins_and_ends(tmp_path: Path) -> None:
    watch = AutoReload(Loader(tmp_path, tmp_path, ROOT, process="command"), lambda: None)
    watch.start()
    watch.close()
    assert not watch._thread.is_alive()
