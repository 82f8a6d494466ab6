"""`couplet prepare` as a user types it: what it writes, what it says, and with which exit code it ends."""

import subprocess
import sys

import numpy as np
import pytest
import yaml
from PIL import Image

from couplet import cli
from couplet.data.archive import Archive


@pytest.fixture
def couplet(monkeypatch, tmp_path, capsys):
    """Runs the command line in an empty folder; gives exit code, stdout and lines of stderr."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["couplet", *arguments])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        said = capsys.readouterr()
        return ended.value.code or 0, said.out.strip(), said.err.strip().splitlines()

    return run


def refused(done):
    """The one line of a command that was refused."""
    code, out, lines = done
    assert (code, out, len(lines)) == (2, "", 1)
    return lines[0].removeprefix("couplet: ")


@pytest.fixture
def pictures(tmp_path):
    """Folder `pictures`: three RGB images of 8×8 in each of two classes; image i of a class is of value i."""
    for name in ("cat", "dog"):
        (tmp_path / "pictures" / name).mkdir(parents=True)
        for i in range(3):
            Image.new("RGB", (8, 8), (i, 100, 200)).save(tmp_path / f"pictures/{name}/{i}.png")
    return tmp_path / "pictures"


def test_folder_of_images_becomes_an_archive(couplet, pictures, tmp_path):
    code, out, _ = couplet("prepare", "pets", "--from", "pictures", "--resolution", "8")
    assert code == 0
    assert out == "data/pets: pets, 8×8×3, 6 train images, 2 classes; read from pictures; see preview.png"
    archive = Archive(tmp_path / "data/pets")
    assert archive.card.dataset == "pets"
    assert archive.card.classes == ("cat", "dog")
    assert archive.train.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert archive.train.images[:, 3, 4].tolist() == [[i, 100, 200] for i in (0, 1, 2, 0, 1, 2)]
    with Image.open(tmp_path / "data/pets/preview.png") as preview:
        assert preview.format == "PNG"


def test_preparing_imports_neither_torch_nor_matplotlib(pictures, tmp_path):
    seen = "print({*sys.modules} & {'torch', 'matplotlib'})"
    code = f"import sys; from couplet import cli\ntry: cli.main()\nfinally: {seen}"
    command = ("prepare", "pets", "--from", pictures, "--resolution", "8", "--out", tmp_path / "pets")
    done = subprocess.run(
        [sys.executable, "-c", code, *command], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.stdout.endswith("set()\n"), done.stderr
    assert Archive(tmp_path / "pets").card.counts == {"train": 6}


def test_options_of_from_reach_the_archive(couplet, pictures, tmp_path):
    command = ("prepare", "pets", "--from", "pictures", "--resolution", "4", "--out")
    code, out, _ = couplet(*command, "o", "--channels", "1", "--test-images", "2", "--workers", "2")
    assert (code, out) == (
        0,
        "o: pets, 4×4×1, 4 train, 2 test images, 2 classes; read from pictures; see preview.png",
    )
    (pictures / "cat/9.png").write_bytes(b"no image")
    code, out, _ = couplet(*command, "p", "--skip-corrupt")
    assert (code, out) == (
        0,
        "p: pets, 4×4×3, 6 train images, 2 classes; left out: 1 unreadable; read from pictures; "
        "see preview.png",
    )
    assert Archive(tmp_path / "p").card.skipped == {"train": ("cat/9.png",)}


def test_name_of_a_kind_with_from_takes_its_size(couplet, pictures, tmp_path):
    code, _, _ = couplet("prepare", "mnist", "--from", "pictures")
    assert code == 0
    assert Archive(tmp_path / "data/mnist").card.shape == (28, 28, 1)


def test_kind_needs_no_parameter_file(couplet, tmp_path):
    code, out, _ = couplet("prepare", "digits")
    assert (code, out) == (
        0,
        "data/digits: digits, 8×8×1, 1497 train, 300 test images, 10 classes; see preview.png",
    )


def test_parameter_file_decides_where_there_is_one(couplet, tmp_path, params_content):
    params_content["datasets"]["digits"]["test_images"] = 200
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params_content))
    assert couplet("prepare", "digits")[1].endswith(
        "1597 train, 200 test images, 10 classes; see preview.png"
    )
    assert couplet("prepare")[1].startswith("data/digits: digits")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["pets", "--from", "nowhere", "--resolution", "8"], "nowhere: cannot be read (No such file"),
        (["pets", "--from", "", "--resolution", "8"], 'path = ""'),
        (["pets", "--from", "/dev/zero", "--resolution", "8"], "/dev/zero: must be a folder or a plain"),
        (["pets", "--from", "pictures"], "data set pets: needs a resolution; only celeba64, "),
        (["pets", "--from", "pictures", "--resolution", "0"], "resolution = 0: value should be greater"),
        (["pets", "--from", "pictures", "--resolution", "99999"], "resolution = 99999: value should be less"),
        (
            ["pets", "--from", "pictures", "--resolution", "8", "--channels", "2"],
            "channels = 2: allowed: 1, 3",
        ),
        (
            ["pets", "--from", "pictures", "--resolution", "8", "--test-images", "6"],
            "test_images = 6: must be",
        ),
        (
            ["../pets", "--from", "pictures", "--resolution", "8"],
            '"../pets": a name consists of at most 50 letters',
        ),
        (
            ["my pets", "--from", "pictures", "--resolution", "8"],
            '"my pets": a name consists of at most 50 letters',
        ),
        (["--from", "pictures"], "--from: needs a name"),
        (["digits", "--resolution", "8"], "--resolution: belongs to --from"),
        (["digits", "--channels", "1"], "--channels: belongs to --from"),
        (["digits", "--test-images", "8"], "--test-images: belongs to --from"),
        (["digits", "--skip-corrupt"], "--skip-corrupt: belongs to --from"),
        (["digits", "--params", "other.yaml"], "other.yaml: cannot be read (No such file"),
        (["digits", "--workers", "0"], "--workers"),
        (["digist"], "dataset = digist: did you mean 'digits'? allowed: celeba64, "),
        (["images"], "--from PATH --resolution N"),
        ([], "params.yaml: cannot be read"),
    ],
)
def test_wrong_arguments_are_one_line_and_write_nothing(couplet, pictures, tmp_path, arguments, message):
    assert message in refused(couplet("prepare", *arguments))
    assert [path.name for path in tmp_path.iterdir()] == ["pictures"]


def test_corrupt_image_is_named_and_the_old_archive_stays(couplet, pictures, tmp_path):
    command = ("prepare", "pets", "--from", "pictures", "--resolution", "8", "--out", "o")
    couplet(*command)
    before = {path.name: path.read_bytes() for path in (tmp_path / "o").iterdir()}
    (pictures / "dog/7.png").write_bytes((pictures / "dog/0.png").read_bytes()[:50])
    code, _, lines = couplet(*command)
    assert code == 2
    assert "1 images cannot be decoded: train: dog/7.png" in lines[-1]
    assert "--skip-corrupt" in lines[-1]
    assert {path.name: path.read_bytes() for path in (tmp_path / "o").iterdir()} == before


@pytest.mark.parametrize("name", ["pictures", "notes"])
def test_folder_that_holds_something_else_is_not_written_to(couplet, pictures, tmp_path, name):
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes/diary.txt").write_text("mine")
    before = sorted(tmp_path.rglob("*"))
    line = refused(couplet("prepare", "pets", "--from", "pictures", "--resolution", "8", "--out", name))
    assert "which is no part of an archive; choose another folder" in line
    assert sorted(tmp_path.rglob("*")) == before


def test_split_that_is_gone_leaves_no_file(couplet, pictures, tmp_path):
    command = ("prepare", "pets", "--from", "pictures", "--resolution", "8", "--out", "o")
    couplet(*command, "--test-images", "2")
    assert (tmp_path / "o/test-images.npy").exists()
    couplet(*command)
    assert set(Archive(tmp_path / "o").card.counts) == {"train"}
    assert not list((tmp_path / "o").glob("test-*"))


def test_last_line_says_what_was_read_and_left_out(couplet, pictures, tmp_path):
    pictures.rename(tmp_path / "Training")
    (tmp_path / "all").mkdir()
    (tmp_path / "Training").rename(tmp_path / "all/Training")
    (tmp_path / "all/Testing/cat").mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(tmp_path / "all/Testing/cat/0.png")
    for i in range(8):
        (tmp_path / f"all/Training/cat/{i}.HEIC").write_bytes(b"x")
    assert couplet("prepare", "pets", "--from", "all", "--resolution", "8")[1] == (
        "data/pets: pets, 8×8×3, 6 train, 1 test images, 2 classes; train is Training; test is Testing; "
        "left out: 8 .heic; read from all; see preview.png"
    )


def test_last_line_names_classes_without_an_image(couplet, tmp_path):
    (tmp_path / "p").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "p/0.png")
    (tmp_path / "p/dataset.json").write_text('{"labels": [["0.png", 7]]}')
    out = couplet("prepare", "pets", "--from", "p", "--resolution", "8")[1]
    assert "8 classes; classes without a training image: 0, 1, 2, 3, 4, …; read from p" in out


def test_large_images_make_a_small_preview(couplet, tmp_path):
    (tmp_path / "large").mkdir()
    Image.fromarray(np.zeros((600, 600), np.uint8)).save(tmp_path / "large/0.png")
    assert couplet("prepare", "large", "--from", "large", "--resolution", "600", "--out", "o")[0] == 0
    with Image.open(tmp_path / "o/preview.png") as preview:
        assert max(preview.size) <= 256 + 8
