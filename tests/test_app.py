"""The command line: it reads well, needs nothing installed to say so, and meets each mistake with one sentence."""

from __future__ import annotations

import io
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

import app
from modules import accounts as users
from modules.checkpoints.tiny import write_tiny_checkpoint
from modules.gallery.inputs import InputStore
from modules.jobs.store import JobStore
from modules.metadata.image_text import read_metadata
from modules.metadata.recipe import read
from modules.params.generation import GenerationParams
from modules.params.options import options_of

ROOT = Path(__file__).parents[1]
BARE = (sys.executable, "-S", "-E")
"""An interpreter without installed packages."""


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    write_tiny_checkpoint(folder / "Stable-diffusion" / "tiny.safetensors")
    return folder


def said(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    """Exit status and the last line of stderr."""
    try:
        status = app.main(arguments)
    except SystemExit as stop:  # argparse
        status = int(stop.code or 0)
    lines = capsys.readouterr().err.strip().splitlines()
    return status, lines[-1] if lines else ""


def test_help_needs_no_package_and_names_every_command() -> None:
    done = subprocess.run([*BARE, str(ROOT / "app.py"), "--help"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for word in ("generate", "convert", "make-tiny-checkpoint", "test", "--port", "examples:"):
        assert word in done.stdout
    assert "worker" not in done.stdout
    assert max(len(line) for line in done.stdout.splitlines()) <= 100


def test_generate_has_a_flag_for_every_parameter(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        app.main(["generate", "--help"])
    shown = capsys.readouterr().out
    for name in set(options_of(GenerationParams)) - {"prompt"}:
        assert f"--{name.replace('_', '-')} " in shown
    assert "between 1 and 150, default 20" in " ".join(shown.split())


def test_old_python_is_told_before_anything_is_imported() -> None:
    script = "import sys, runpy; sys.version_info = (3, 9, 18); runpy.run_path('app.py', run_name='__main__')"
    done = subprocess.run([*BARE, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (1, "error: Reprise needs Python 3.11 or newer, and this is 3.9\n")
    compile_for_3_7 = "import ast; ast.parse(open('app.py').read(), feature_version=(3, 7))"
    assert subprocess.run([*BARE, "-c", compile_for_3_7], cwd=ROOT).returncode == 0


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("generate", "x", "--steps", "0"), "error: Steps must be between 1 and 150, not '0'"),
        (("generate", "x", "--steps", "10000"), "error: Steps must be between 1 and 150, not '10000'"),
        (("generate", "x", "--steps", "many"), "error: Steps must be a whole number, not 'many'"),
        (("generate", "x", "--seed", "1e99"), "error: Seed must be between -1 and 18446744073709551615, not '1e99'"),
        (("generate", "x", "--rng", "dice"), "error: RNG must be one of NV, CPU, GPU, not 'dice'"),
        (
            ("generate", "x", "-o", "fox.gif"),
            "error: fox.gif does not end in .png, .jpg, .jpeg, .webp; choose one of these",
        ),
        (("generate",), "the following arguments are required: prompt"),
        (("--port", "0"), "must be between 1 and 65535"),
        (("--port", "no"), "invalid"),
        (("paint",), "error: there is no command 'paint'; there are generate, upscale, explain, replay, convert,"),
        (("generat", "a fox"), "error: there is no command 'generat'; did you mean generate?"),
        (("--prot", "12"), "error: there is no flag --prot; did you mean --port?"),
        (("generate", "x", "--stops=3"), "error: there is no flag --stops=3; did you mean --steps?"),
        (("--theme", "drak"), "error: there is no --theme 'drak'; did you mean dark?"),
        (("convert", "nowhere/absent.ckpt"), "error: there is no file nowhere/absent.ckpt; check the name"),
        (("make-tiny-checkpoint", "x.safetensors", "--family", "sd9"), "error: no family named 'sd9'; there is sd1,"),
    ],
)
def test_mistake_is_met_with_one_sentence_and_status_2(
    capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], sentence: str
) -> None:
    status, line = said(capsys, *arguments)
    assert status == 2
    assert sentence in line


def test_flags_of_a1111_are_taken_over_left_out_with_a_word_or_refused(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "file").touch()  # where it stops before a server is started
    given = ("--xformers", "--no-half", "--gfpgan-dir=/m", "--opt-sdp-attention", "--data-dir", str(tmp_path / "file"))
    assert app.main(given) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert [line.partition(" ")[0] for line in lines] == ["--xformers", "--opt-sdp-attention", "error:"]
    assert lines[0] == "--xformers does nothing here: attention is computed by torch's own kernels"
    assert "outputs cannot be written" in lines[-1]
    for flag in ("--share", "--enable-insecure-extension-access", "--allow-code"):  # they would open the machine
        assert app.main((flag, "--data-dir", str(tmp_path / "file"))) == 2
        first, _, last = capsys.readouterr().err.strip().partition("\n")
        assert first.startswith(f"{flag} is left out: it ")
        assert "outputs cannot be written" in last


def test_unknown_setting_is_told_before_a_server_starts(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    status, line = said(capsys, "--lock-settings", "theme, tint", "--data-dir", str(tmp_path))
    assert (status, line.partition(";")[0]) == (2, "error: there is no setting named 'tint'")


def test_a_server_for_others_does_not_start_without_accounts(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """S04: whatever flag would open it, the sentence gives the one line that makes the first account."""
    for flags in (
        ("--listen",),
        ("--host", "0.0.0.0"),
        ("--host", "::"),
        ("--host", "192.0.2.7"),
        ("--host", "example.org"),
        ("--allowed-host", "pictures.example.org"),
    ):
        status, line = said(capsys, *flags, "--data-dir", str(tmp_path))
        assert status == 2
        assert "would open this server to others, and it has no accounts yet; make the first with: " in line
        assert line.endswith(f"python3 app.py --data-dir {tmp_path} user add NAME")


def test_accounts_are_made_and_changed_on_the_command_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(users, "SCRYPT_LOG_N", 4)
    place = ("--data-dir", str(tmp_path))

    def user(*arguments: str, password: str = "") -> tuple[int, list[str]]:
        monkeypatch.setattr("sys.stdin", io.StringIO(f"{password}\n"))
        status = app.main(["user", *arguments, *place])
        return status, capsys.readouterr().out.splitlines()

    made_before = JobStore(tmp_path / "reprise.db").submit("local", {})
    assert user("add", "alice", password="correct horse") == (
        0,
        [
            "alice can log in now, as admin",
            "the 1 jobs made before there were accounts are alice's now",
        ],
    )
    assert JobStore(tmp_path / "reprise.db").get(made_before.id, "alice").id == made_before.id
    assert user("add", "bob", password="battery staple")[1] == ["bob can log in now, as user"]
    assert user("add", "carol", "--admin", password="battery staple")[1] == ["carol can log in now, as admin"]
    assert user("list")[1] == ["alice\tadmin", "bob\tuser", "carol\tadmin"]
    accounts = users.Accounts(tmp_path / "users.db")
    (token,) = user("token", "bob")[1]
    assert accounts.token(token) == accounts.find("bob")
    user("password", "bob", password="another password")
    assert accounts.token(token) is None
    assert accounts.log_in("bob", "another password", "a").name == "bob"
    user("remove", "bob")
    assert accounts.find("bob") is None
    assert said(capsys, "user", "remove", "bob", *place) == (
        2,
        "error: there is no account bob; list them with: python3 app.py user list",
    )


def test_unknown_sampler_and_checkpoint_are_told_with_a_suggestion(
    capsys: pytest.CaptureFixture[str], models: Path, tmp_path: Path
) -> None:
    places = ("--models-dir", str(models), "--data-dir", str(tmp_path), "--device", "cpu")
    assert said(capsys, *places, "generate", "x", "--sampler", "Eular a") == (
        2,
        "error: no sampler named 'Eular a'; did you mean 'Euler a'?",
    )
    status, line = said(capsys, *places, "generate", "x", "--checkpoint", "fine")
    assert (status, line) == (2, "error: no checkpoint named 'fine'; there is 'tiny'")


def test_folder_that_cannot_be_written_is_told_before_anything_is_computed(
    capsys: pytest.CaptureFixture[str], models: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    status, line = said(capsys, "--data-dir", str(tmp_path / "file"))
    assert (status, line.split(" (")[0]) == (2, f"error: {tmp_path / 'file' / 'outputs'} cannot be written")
    status, line = said(capsys, "generate", "x", "--models-dir", str(models), "-o", str(tmp_path / "file" / "x.png"))
    assert status == 2
    assert line.startswith(f"error: {tmp_path / 'file'} cannot be written")


def test_port_in_use_is_one_sentence(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        status, line = said(capsys, "--port", port, "--data-dir", str(tmp_path))
    assert (status, line) == (2, f"error: port {port} is in use by another program; choose another with --port")


@pytest.mark.parametrize("order", ["before the command", "behind it"])
def test_flags_for_folders_stand_on_either_side_of_a_command(order: str, tmp_path: Path) -> None:
    flags, command = ["--data-dir", str(tmp_path)], ["generate", "x"]
    parsed = app.build_parser().parse_args([*flags, *command] if order.startswith("before") else [*command, *flags])
    assert parsed.data_dir == tmp_path.resolve()
    assert parsed.models_dir == ROOT / "models"
    assert parsed.run is app.generate


def test_generate_makes_the_same_picture_again(
    models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pictures = []
    for name in ("one.png", "two.png"):
        arguments = ("generate", "a red fox", "--steps", "2", "--seed", "5", "-o", str(tmp_path / name))
        places = ("--models-dir", str(models), "--data-dir", str(tmp_path / "data"), "--device", "cpu")
        assert app.main([*arguments, *places]) == 0, capsys.readouterr().err
        with Image.open(tmp_path / name) as image:
            pictures.append((image.tobytes(), image.size, image.info["parameters"]))
    assert pictures[0] == pictures[1]
    _, size, text = pictures[0]
    assert size == (64, 64)
    assert text.startswith("a red fox\nSteps: 2, Sampler: Euler a")
    assert "Seed: 5, Size: 64x64" in text


def test_a_picture_of_the_chosen_format_is_made_again(
    models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    places = ("--models-dir", str(models), "--data-dir", str(tmp_path), "--device", "cpu")
    (tmp_path / "settings.json").write_text('{"image_format": "webp", "webp_lossless": true}')
    assert app.main(["generate", "a red fox", "--steps", "2", *places]) == 0
    (found,) = tmp_path.glob("outputs/txt2img-images/*/*.webp")
    assert app.main(["generate", "a red fox", "--steps", "2", "-o", str(tmp_path / "fox.JPG"), *places]) == 0
    capsys.readouterr()
    for path, verdict in ((found, "identical\n"), (tmp_path / "fox.JPG", "identical (before compression, ")):
        assert app.main(["replay", str(path), *places]) == 0
        assert capsys.readouterr().out.startswith(verdict)


def test_a_picture_without_recipe_is_a_verdict_and_status_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "plain.png")
    assert app.main(["replay", str(tmp_path / "plain.png")]) == 1
    assert capsys.readouterr().out == "cannot, because the picture carries no recipe\n"


def test_generate_starts_from_pictures(models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    places = ("--models-dir", str(models), "--data-dir", str(tmp_path / "data"), "--device", "cpu")
    start, mask = Image.radial_gradient("L").resize((64, 64)).convert("RGB"), Image.new("L", (64, 64))
    mask.paste(255, (0, 0, 32, 64))
    start.save(tmp_path / "start.png")
    mask.save(tmp_path / "mask.png")
    flags = ("--init", str(tmp_path / "start.png"), "--mask", str(tmp_path / "mask.png"), "--mask-blur", "0")
    made = tmp_path / "made.png"
    given = ("generate", "a fox", *flags, "--steps", "2", "--denoising-strength", "0.9", "-o", str(made), *places)
    assert app.main(given) == 0
    right = (32, 0, 64, 64)
    assert Image.open(made).crop(right).tobytes() == start.crop(right).tobytes()
    assert app.main(("replay", str(made), *places)) == 0
    assert said(capsys, "generate", "x", "--mask", str(made), *places)[1].startswith("error: --mask needs a picture")
    assert said(capsys, "generate", "x", "--denoising-strength", "1", *places)[1].startswith("error: there is no start")


def test_a_whole_folder_is_started_from(models: Path, tmp_path: Path) -> None:
    places = ("--models-dir", str(models), "--data-dir", str(tmp_path / "data"), "--device", "cpu")
    for name in ("a.png", "b.png", "b.gif"):
        (tmp_path / "in").mkdir(exist_ok=True)
        Image.new("RGB", (64, 64), "red").save(tmp_path / "in" / name)
    (tmp_path / "in" / "notes.txt").write_text("no picture")
    given = ("generate", "x", "--init", str(tmp_path / "in"), "--steps", "2", *places)
    assert app.main((*given, "-o", str(tmp_path / "out" / "x.png"))) == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["x-a.png", "x-b-gif.png", "x-b-png.png"]


def test_a_picture_grows_over_its_edges(models: Path, tmp_path: Path) -> None:
    places = ("--models-dir", str(models), "--data-dir", str(tmp_path / "data"), "--device", "cpu")
    start = Image.radial_gradient("L").resize((64, 64)).convert("RGB")
    start.save(tmp_path / "start.png")
    flags = ("--init", str(tmp_path / "start.png"), "--outpaint", "64,0,0,0", "--steps", "2", "--mask-blur", "0")
    assert app.main(("generate", "x", *flags, "-o", str(tmp_path / "x.png"), *places)) == 0
    made = Image.open(tmp_path / "x.png")
    assert made.size == (128, 64)
    inner = (64 + 8, 0, 128, 64)  # a seam of 8 pixels is painted too
    assert made.crop(inner).tobytes() == start.crop((8, 0, 64, 64)).tobytes()


def test_loopback_goes_on_from_each_picture(models: Path, tmp_path: Path) -> None:
    places = ("--models-dir", str(models), "--data-dir", str(tmp_path / "data"), "--device", "cpu")
    Image.new("RGB", (64, 64), "red").save(tmp_path / "start.png")
    flags = ("--init", str(tmp_path / "start.png"), "--loopback", "3", "--loopback-decay", "0.5", "--steps", "2")
    given = ("generate", "x", *flags, "--denoising-strength", "0.8", "--seed", "5", "-o", str(tmp_path / "x.png"))
    assert app.main((*given, *places)) == 0
    paths = [tmp_path / name for name in ("x.png", "x-turn2.png", "x-turn3.png")]
    recipes = [read(read_metadata(path)["recipe"] or "") for path in paths]
    starts = [recipe.request.init for recipe in recipes]
    assert [start.denoising_strength for start in starts if start] == pytest.approx([0.8, 0.4, 0.2])
    assert [recipe.seed for recipe in recipes] == [5, 6, 7]
    stored = InputStore(tmp_path / "data" / "inputs")
    for before, start in zip(paths, starts[1:], strict=False):
        assert start
        assert stored.open(start.image).tobytes() == Image.open(before).tobytes()


def test_convert_finds_a_file_of_the_models_folder_by_its_name(models: Path) -> None:
    pickle = models / "Stable-diffusion" / "old.ckpt"
    pickle.touch()
    assert app._in_models(Path("old.ckpt"), [models]) == pickle
    assert app._in_models(Path("other.ckpt"), [models]) == Path("other.ckpt")


def test_convert_finds_a_file_of_a_further_folder_by_its_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "far.ckpt").write_text("no pickle")
    args = ["convert", "far.ckpt", "--models-dir", str(tmp_path / "none"), "--ckpt-dir", str(tmp_path)]
    assert app.main(args) != 0
    assert "far.ckpt was not converted" in capsys.readouterr().err


def test_test_command_hands_its_arguments_to_pytest_and_its_status_back() -> None:
    command = [sys.executable, str(ROOT / "app.py"), "test", "tests/no_such_folder"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env={**os.environ, "PYTEST_ADDOPTS": ""})
    assert done.returncode == 4, done.stdout
    assert "no_such_folder" in done.stdout + done.stderr


def test_a_list_of_routes_is_no_start_that_did_not_come_to_an_end(tmp_path: Path) -> None:
    """Two of those would keep every extension out of the next."""
    command = [sys.executable, "app.py", "--list-routes", "--data-dir", str(tmp_path)]
    subprocess.run(command, cwd=app.ROOT, check=True, capture_output=True, timeout=300)
    assert json.loads((tmp_path / "extensions" / "server.json").read_text())["starts"] == 0
