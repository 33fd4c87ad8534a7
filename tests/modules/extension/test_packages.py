"""Packages that extensions need: installed behind the program's own, and refused where they do not fit."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from modules.errors import NotFound, RepriseError, UserError
from modules.extension.host import Host
from modules.extension.installer import Installer, unpack
from modules.extension.loader import Extension, Loader
from modules.extension.manifest import Refused
from modules.extension.packages import Missing, check_requirements, site_packages
from tests.modules.extension.test_loader import ROOT, write
from tests.modules.test_bootstrap import write_wheel

USES = (
    "import {0}\nfrom modules import SamplerSpec\ndef register(host): host.add_sampler(SamplerSpec({0}.version, len))\n"
)


@pytest.mark.parametrize(
    ("wanted", "refused"),
    [
        ("numpy", False),
        ("Num_Py>=2,<3", True),
        ("num-py>=1.9.1", False),
        ("num.py>=1.10", True),
        ("num-py>1.9.2", True),
        ("num-py==1.9.*", False),
        ("num-py==1.9", True),
        ("num-py!=1.9.2", True),
        ("num-py~=1.9.1", False),
        ("num-py~=1.8.0", True),
        ("num-py<=1.9.2.0", False),
        ("other<2", False),
        ("other<1", True),
        ("absent", True),
        ("absent; python_version < '3'", False),
        ("absent>=1; sys_platform == 'no such system'", False),
        ("num-py @ https://example.org/x.whl", True),
        ("what is this", True),
    ],
)
def test_requirements_are_compared_with_the_pins(wanted: str, refused: bool) -> None:
    pinned, have = {"num-py": "1.9.2", "numpy": "1"}, {"other": "1.5+cpu", "num-py": "3"}
    if refused:
        with pytest.raises(Refused):
            check_requirements([wanted], pinned, have)
    else:
        check_requirements([wanted], pinned, have)


def test_all_that_is_missing_is_told_at_once_with_a_command() -> None:
    with pytest.raises(Missing) as caught:
        check_requirements(["one>=1", "two", "three[extra]", "here"], {"here": "1"}, {}, extension="mine")
    assert str(caught.value) == (
        "it needs one>=1, two and three[extra], which are not installed; "
        "install them with: python3 app.py install-extension mine"
    )
    assert caught.value.requirements == ("one>=1", "two", "three[extra]")


def test_what_an_extra_needs_is_asked_for_too(tmp_path: Path) -> None:
    info = tmp_path / "large-1.0.dist-info"
    info.mkdir()
    info.joinpath("METADATA").write_text(
        "Metadata-Version: 2.1\nName: large\nVersion: 1.0\nRequires-Dist: always\n"
        'Requires-Dist: small>=2; extra == "more"\nProvides-Extra: more\n'
    )
    check_requirements(["large"], {}, {"large": "1.0"}, folders=[str(tmp_path)])
    with pytest.raises(Missing) as caught:
        check_requirements(["large[more]"], {}, {"large": "1.0"}, folders=[str(tmp_path)])
    assert caught.value.requirements == ("large[more]",)
    check_requirements(["large[more]"], {}, {"large": "1.0", "small": "2.1"}, folders=[str(tmp_path)])


# ------------------------------------------------------------------------------------------------------- installing


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of wheels in the place of a registry."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    for name, value in (("CONFIG_FILE", os.devnull), ("NO_INDEX", "1"), ("FIND_LINKS", str(folder))):
        monkeypatch.setenv(f"PIP_{name}", value)
    monkeypatch.setattr(sys, "path", list(sys.path))
    return folder


def wheel(folder: Path, name: str, version: str, requires: Sequence[str] = ()) -> None:
    write_wheel(folder, name, version)
    if requires:
        path, info = folder / f"{name}-{version}-py3-none-any.whl", f"{name}-{version}.dist-info/METADATA"
        with zipfile.ZipFile(path) as old:
            files = {entry: old.read(entry) for entry in old.namelist()}
        files[info] += "".join(f"Requires-Dist: {text}\n" for text in requires).encode()
        with zipfile.ZipFile(path, "w") as new:
            for entry, data in files.items():
                new.writestr(entry, data)


def extension(folder: Path, name: str, requirements: Sequence[str], package: str, more: str = "") -> Path:
    place = write(folder, name, USES.format(package), '"sampler"')
    manifest = (place / "extension.toml").read_text()
    (place / "extension.toml").write_text(f"{manifest}requirements = {json.dumps(list(requirements))}\n{more}")
    return place


def loaded(folder: Path, data: Path) -> dict[str, Extension]:
    made = Loader(folder, data, ROOT, process="command")
    made.load_all(Host())
    return made.extensions


def test_packages_are_installed_beside_the_extension_and_imported_from_there(tmp_path: Path, registry: Path) -> None:
    wheel(registry, "rp_first", "1.0", ["rp_second>=1", "numpy"])
    wheel(registry, "rp_second", "1.4")
    wheel(registry, "rp_extra", "2.0")
    more = 'optional = ["rp_extra", "rp_extra_that_is_for_another_system; sys_platform == \'none\'", "numpy<1"]\n'
    extension(tmp_path / "ext", "mine", ["rp_first>=1"], "rp_first", more)
    before = loaded(tmp_path / "ext", tmp_path / "data")["mine"]
    assert (before.state, before.missing) == ("refused", ("rp_first>=1",))
    said: list[str] = []
    done = Installer([tmp_path / "ext"], tmp_path / "data", ROOT).install("mine", on_step=said.append)
    assert dict(done.packages) == {"rp-first": "1.0", "rp-second": "1.4", "rp-extra": "2.0"}
    assert not done.copied
    assert said == ["resolving rp_first>=1, rp_extra", "installing rp-first, rp-second, rp-extra"] or len(said) == 2
    place = site_packages(tmp_path / "data", "mine")
    assert not list(place.glob("numpy*"))  # the program's own
    assert [path.name for path in place.parent.iterdir()] == ["site-packages"]
    code = (
        "import sys; from pathlib import Path; from modules.extension.host import Host\n"
        "from modules.extension.loader import Loader\n"
        f"folder, data = Path({str(tmp_path / 'ext')!r}), Path({str(tmp_path / 'data')!r})\n"
        "made = Loader(folder, data, Path('.'), process='server')\n"
        "made.load_all(Host()); print(made.host.samplers.names(), sys.path[-1])"
    )
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert run.stdout.strip() == f"('1.0',) {place}", run.stderr


def test_what_conflicts_with_the_program_is_refused_with_the_reason(tmp_path: Path, registry: Path) -> None:
    wheel(registry, "rp_deep", "1.0", ["numpy<1"])
    extension(tmp_path / "ext", "plain", ["numpy<1"], "numpy")
    extension(tmp_path / "ext", "deep", ["rp_deep"], "rp_deep")
    extension(tmp_path / "ext", "absent", ["rp_absent"], "rp_absent")
    installer = Installer([tmp_path / "ext"], tmp_path / "data", ROOT)
    with pytest.raises(Refused, match=r"it needs numpy<1 and the program is pinned to numpy 2"):
        installer.install("plain")
    with pytest.raises(RepriseError, match=r"its packages do not fit .*rp-deep 1\.0 depends on numpy<1.*numpy==2"):
        installer.install("deep")
    with pytest.raises(RepriseError, match=r"the package registry has no rp_absent .* in its manifest"):
        installer.install("absent")
    assert list((tmp_path / "data").rglob("*.whl")) == []
    assert not site_packages(tmp_path / "data", "deep").exists()


def test_the_second_of_two_that_want_two_versions_is_refused(tmp_path: Path, registry: Path) -> None:
    for version in ("1.0", "2.0"):
        wheel(registry, "rp_shared", version)
    extension(tmp_path / "ext", "first", ["rp_shared<2"], "rp_shared")
    extension(tmp_path / "ext", "second", ["rp-shared>=2"], "rp_shared")
    extension(tmp_path / "ext", "third", ["RP_shared"], "rp_shared")
    installer = Installer([tmp_path / "ext"], tmp_path / "data", ROOT)
    installer.install("first")
    with pytest.raises(Refused, match=r"second needs rp-shared>=2, and extension first has brought rp-shared 1\.0"):
        installer.install("second")
    assert dict(installer.install("third").packages) == {"rp-shared": "1.0"}  # not 2.0, which first could not use
    (tmp_path / "data" / "extensions" / "first").rename(tmp_path / "aside")
    installer.install("third")  # alone, it gets the newest
    (tmp_path / "aside").rename(tmp_path / "data" / "extensions" / "first")
    found = loaded(tmp_path / "ext", tmp_path / "data")
    assert found["first"].state == "loaded"
    assert found["third"].reason.startswith("it brings rp-shared 2.0, and extension first has brought rp-shared 1.0")


def packed(path: Path, files: dict[str, str], **facts: Any) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in files.items():
            info = zipfile.ZipInfo(name)
            for fact, value in facts.items():
                setattr(info, fact, value)
            archive.writestr(info, text)
    return path


TOML = 'name = "mine"\nversion = "{}"\napi = 2\n'


def test_another_version_than_was_imported_before_waits_for_the_next_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    for name, version in (("older", "1.0"), ("newer", "2.0")):
        place = site_packages(tmp_path / "data", name)
        (place / f"rp_stays-{version}.dist-info").mkdir(parents=True)
        facts = f"Metadata-Version: 2.1\nName: rp_stays\nVersion: {version}\n"
        (place / f"rp_stays-{version}.dist-info" / "METADATA").write_text(facts)
        (place / "rp_stays.py").write_text(f"version = {version!r}\n")
        extension(tmp_path / "ext", name, ["rp_stays"], "rp_stays")
    made = Loader(tmp_path / "ext", tmp_path / "data", ROOT, process="command")
    made.load_all(Host())
    assert (made.extensions["newer"].state, made.extensions["older"].state) == ("loaded", "refused")
    made.enable("newer", False)
    assert made.reload("older").reason == (
        "it brings rp-stays 1.0, and another version of that is at work already; start the program again"
    )
    monkeypatch.delitem(sys.modules, "rp_stays")
    assert made.reload("older").added == ("sampler 1.0",)
    assert made.enable("newer", True).reason.startswith("it brings rp-stays 2.0, and extension older has brought")
    monkeypatch.delitem(sys.modules, "rp_stays")


def test_a_folder_or_an_archive_is_put_in_place_and_only_replaced_when_told(tmp_path: Path) -> None:
    files = {"mine-main/extension.toml": TOML.format(1), "mine-main/__init__.py": "def register(host): pass\n"}
    archive = packed(tmp_path / "mine.zip", files)
    installer = Installer([tmp_path / "shipped", tmp_path / "ext"], tmp_path / "data", ROOT)
    done = installer.install(str(archive))
    assert (done.folder, done.version, done.copied) == (tmp_path / "ext" / "mine", "1", True)
    assert loaded(tmp_path / "ext", tmp_path / "data")["mine"].state == "loaded"
    newer = tmp_path / "work" / "any name"
    (newer / ".git").mkdir(parents=True)
    (newer / "extension.toml").write_text(TOML.format(2))
    with pytest.raises(UserError, match="is there already; take its place with --replace"):
        installer.install(str(newer))
    assert installer.install(str(newer), replace=True).version == "2"
    assert sorted(path.name for path in (tmp_path / "ext" / "mine").iterdir()) == ["extension.toml"]
    assert [path.name for path in (tmp_path / "ext").iterdir()] == ["mine"]
    with pytest.raises(NotFound, match="there is no extension, folder or ZIP file 'other'; there are mine"):
        installer.install("other")


@pytest.mark.parametrize("name", ["../out.py", "/tmp/out.py", "a/../../out.py", "C:/out.py", "a\\..\\out.py"])
def test_an_archive_cannot_write_elsewhere(tmp_path: Path, name: str) -> None:
    archive = packed(tmp_path / "bad.zip", {"extension.toml": TOML.format(1), name: "x"})
    with pytest.raises(UserError, match="would write outside of its folder"):
        Installer([tmp_path / "ext"], tmp_path / "data", ROOT).install(str(archive))
    assert list((tmp_path / "ext").iterdir()) == []
    assert not (tmp_path / "out.py").exists()


def test_an_archive_with_links_or_without_end_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    link = packed(tmp_path / "link.zip", {"link": "/etc/passwd"}, external_attr=0o120777 << 16, create_system=3)
    with pytest.raises(UserError, match="holds a link"):
        unpack(link, tmp_path / "out")
    monkeypatch.setattr("modules.extension.installer.MAX_BYTES", 1000)
    with pytest.raises(UserError, match="unpacks to more than an extension is"):
        unpack(packed(tmp_path / "bomb.zip", {"zeros": "0" * 2000}), tmp_path / "out")
    (tmp_path / "torn.zip").write_bytes(link.read_bytes()[:-30])
    with pytest.raises(UserError, match="neither a folder nor a ZIP file"):
        Installer([tmp_path / "ext"], tmp_path / "data", ROOT).install(str(tmp_path / "torn.zip"))
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / "secret").symlink_to("/etc/passwd")
    with pytest.raises(UserError, match="is a link"):
        Installer([tmp_path / "ext"], tmp_path / "data", ROOT).install(str(tmp_path / "linked"))


def test_an_extension_of_the_owner_takes_the_place_of_a_shipped_one(tmp_path: Path) -> None:
    code = "from modules import SamplerSpec\ndef register(host): host.add_sampler(SamplerSpec('{}', len))\n"
    write(tmp_path / "shipped", "both", code.format("shipped"), '"sampler"')
    write(tmp_path / "shipped", "only", "def register(host): pass\n")
    write(tmp_path / "own", "both", code.format("own"), '"sampler"')
    made = Loader([tmp_path / "shipped", tmp_path / "own"], tmp_path, ROOT, process="command")
    made.load_all(Host())
    assert made.host.samplers.names() == ("own",)
    assert sorted(made.extensions) == ["both", "only"]
