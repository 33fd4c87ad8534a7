"""Names and the files they mean: every listed name finds its own file, whatever else is there."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modules.checkpoints.files import PICKLES, find_model, list_models
from modules.checkpoints.matching import Candidate, match, recognise
from modules.checkpoints.vaes import VaeFolders
from modules.errors import UnknownName
from modules.registry import Registry
from modules.restoration.upscale import Networks, UpscalerSpec, file_upscalers

WORDS = ("model", "Model", "MODEL", "foo [pruned]", "foo", "a [0123456789]", "a", " b ", "b", r"c\model", "x.vae2", "é")
ENDINGS = (".safetensors", ".SafeTensors", ".ckpt", ".safetensors.safetensors", ".pt", "")
paths = st.lists(
    st.tuples(
        st.sampled_from(("", "sub", "Sub", "c", "foo [pruned]")), st.sampled_from(WORDS), st.sampled_from(ENDINGS)
    ),
    min_size=1,
    max_size=12,
)
Paths = list[tuple[str, str, str]]


@contextmanager
def folder_of(files: Paths) -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as name:
        for sub, word, ending in files:
            (Path(name) / sub).mkdir(parents=True, exist_ok=True)
            path = Path(name) / sub / (word + (ending or ".safetensors"))
            if not path.exists():
                path.touch()
        yield Path(name)


@given(paths)
def test_every_listed_checkpoint_finds_its_own_file(files: Paths) -> None:
    """So does a refiner and the checkpoint of hires fix: both are looked up here."""
    with folder_of(files) as folder:
        models = list_models(folder)
        assert len({model.name for model in models}) == len(models)
        assert all(find_model(folder, model.name).path == model.path for model in models)


@given(paths)
def test_every_listed_vae_finds_its_own_file(files: Paths) -> None:
    with folder_of(files) as folder:
        for vaes in (VaeFolders(folder, folder / "none"), VaeFolders(folder / "sub", folder)):
            for name, path in vaes.list().items():
                assert vaes.find(name, folder / "any.safetensors") == path
                assert vaes.name_of(path) == name


@given(paths)
def test_every_listed_upscaler_finds_its_own_file(files: Paths) -> None:
    with folder_of([(f"ESRGAN/{sub}".rstrip("/"), word, ending) for sub, word, ending in files]) as folder:
        registry = Registry[UpscalerSpec]("upscaler")
        for spec in file_upscalers(folder, Networks.__new__(Networks)):
            registry.add(spec.name, spec, spec.aliases)
        paths = {spec.path for spec in registry}
        assert paths == {model.path for model in list_models(folder / "ESRGAN", (".safetensors", *PICKLES))}
        assert all(registry.get(name).path == spec.path for name, spec in registry.items())


@pytest.mark.parametrize(
    ("wanted", "path"),
    [
        ("model", "model.safetensors"),
        ("anime/model", "anime/model.safetensors"),
        (r"anime\model", "anime/model.safetensors"),
        (r"ANIME\Model.SafeTensors [0123456789]", "anime/model.safetensors"),
        ("foo [pruned]", "foo [pruned].safetensors"),
        ("foo [pruned].safetensors [0123abcdef]", "foo [pruned].safetensors"),
        ("deep.ckpt", "anime/deep.safetensors"),
        ("DEEP [01234567]", "anime/deep.safetensors"),
    ],
)
def test_a_name_in_another_programs_manner_finds_the_file(wanted: str, path: str, tmp_path: Path) -> None:
    for name in ("model", "anime/model", "zoo/model", "foo [pruned]", "foo", "anime/deep"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / f"{name}.safetensors").touch()
    assert find_model(tmp_path, wanted).path == tmp_path / path


def test_a_name_that_may_mean_two_files_is_told(tmp_path: Path) -> None:
    for name in ("a/model", "b/model"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / f"{name}.safetensors").touch()
    with pytest.raises(UnknownName, match="'model' may mean 'a/model', 'b/model'; choose one of them") as error:
        find_model(tmp_path, "model")
    assert error.value.field == "checkpoint"
    vaes = VaeFolders(tmp_path, tmp_path / "none")
    assert list(vaes.list()) == ["b/model.safetensors", "model.safetensors"]
    assert vaes.find("model.safetensors", tmp_path / "x") == tmp_path / "a" / "model.safetensors"
    with pytest.raises(UnknownName, match="may mean") as vae:
        vaes.find("MODEL", tmp_path / "x")
    assert vae.value.field == "vae"


@given(st.dictionaries(st.text(), st.text(min_size=1)), st.text())
def test_no_text_makes_matching_fail(files: dict[str, str], wanted: str) -> None:
    found = match(wanted, files, str)
    assert found.file is None or found.file in files.values()


FILES = (
    Candidate("model", "model.safetensors", ("a" * 64, "11111111")),
    Candidate("anime/model", "anime/model.safetensors", ("b" * 64, "22222222")),
    Candidate("fox", "fox.safetensors", ("c" * 64,)),
    Candidate("a/twin", "a/twin.safetensors"),
    Candidate("b/Twin", "b/Twin.safetensors", ("e" * 64,)),
    Candidate("unread", "unread.safetensors"),
)


@pytest.mark.parametrize(
    ("name", "digits", "found", "said"),
    [
        ("model", "bbbbbbbbbb", "anime/model", ""),  # both fit one
        ("model", "cccccccccc", "fox", ""),  # the hash before the name
        ("renamed", "bbbbbbbbbb", "anime/model", ""),
        ("renamed [bbbbbbbbbb]", "", "anime/model", ""),
        ("renamed", "22222222", "anime/model", ""),  # of 2022
        ("", "CCCCCCCCCC", "fox", ""),
        ("model", "", "model", ""),
        ("unread", "dddddddddd", "unread", ""),  # its hash is not known yet
        ("fox", "dddddddddd", "fox", "the checkpoint fox has the hash cccccccccc, and the text's was dddddddddd"),
        ("gone", "", None, "there is no checkpoint gone here; it was left as it is"),
        ("gone", "dddddddddd", None, "there is no checkpoint gone with the hash dddddddddd here; it was left as it is"),
        ("gone [dddddddddd]", "", None, "there is no checkpoint gone [dddddddddd] here; it was left as it is"),
        ("", "dddddddddd", None, "there is no checkpoint with the hash dddddddddd here; it was left as it is"),
        ("MODEL", "", "model", ""),
        ("twin", "", None, "the checkpoint twin may be a/twin, b/Twin; it was left as it is"),
        ("twin", "eeeeeeeeee", "b/Twin", ""),
        ("", "", None, ""),
    ],
)
def test_a_text_means_what_has_name_and_hash_then_the_hash_then_the_name(
    name: str, digits: str, found: str | None, said: str
) -> None:
    assert recognise("checkpoint", name, digits, FILES) == (found, said)
