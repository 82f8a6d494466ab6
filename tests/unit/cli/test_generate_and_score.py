"""`couplet generate` and `couplet score` on models and images made here."""

from __future__ import annotations

import json
import lzma
import os
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import linalg

from couplet.metrics.extractor.base import load_extractor
from couplet.metrics.precision_recall import precision_recall

GOLDEN = Path(__file__).parents[2] / "golden/published"


def images(folder: Path, count: int, size: tuple[int, int] = (8, 8), mode: str = "L", seed: int = 0) -> Path:
    """A folder of PNG files of noise."""
    folder.mkdir(parents=True, exist_ok=True)
    channels = {"L": (), "LA": (2,), "RGB": (3,), "RGBA": (4,)}[mode]
    for i in range(count):
        pixels = np.random.default_rng([seed, i]).integers(0, 256, (*size, *channels), np.uint8)
        Image.fromarray(pixels, mode).save(folder / f"{i}.png")
    return folder


@pytest.fixture(scope="module")
def conditional(tmp_path_factory):
    """A file of `couplet import`, of a checkpoint by ECT's own code: ImageNet branch, five classes, 8×8×3."""
    from couplet.interop.convert import import_model

    folder = tmp_path_factory.mktemp("imported")
    (folder / "ect.pkl").write_bytes(lzma.decompress((GOLDEN / "ect_imgnet.pkl.xz").read_bytes()))
    import_model(str(folder / "ect.pkl"), folder / "model.safetensors")
    return folder / "model.safetensors"


def arrays(path) -> dict[str, np.ndarray]:
    with np.load(path) as content:
        return dict(content)


class TestGenerate:
    def test_any_batch_gives_the_same_bytes(self, couplet, conditional, tmp_path):
        for batch in (1, 3, 7, 500):
            out = tmp_path / f"{batch}.npz"
            options = ["--count", 150, "--nfe", 2, "--labels", "uniform", "--batch", batch, "--out", out]
            assert couplet("generate", conditional, *options)[0] == 0
        assert len({(tmp_path / f"{batch}.npz").read_bytes() for batch in (1, 3, 7, 500)}) == 1

    def test_first_images_of_a_longer_series_are_the_same(self, couplet, conditional, tmp_path):
        for count in (3, 129):  # more than one network call
            couplet("generate", conditional, "--count", count, "--out", tmp_path / f"{count}.npz")
        few, many = (arrays(tmp_path / f"{count}.npz") for count in (3, 129))
        # Network calls of other sizes round differently.
        np.testing.assert_allclose(many["arr_0"][:3].astype(int), few["arr_0"], atol=1)
        assert np.array_equal(many["arr_1"][:3], few["arr_1"])

    def test_folder_npz_and_grid_hold_the_same_images(self, couplet, conditional, tmp_path):
        for name in ("folder", "images.npz", "grid.png"):
            code, out, _ = couplet("generate", conditional, "--count", 9, "--out", tmp_path / name)
            assert code == 0
            assert out == f"{tmp_path / name}: 9 images, NFE 1 at noise level 80, classes balanced\n"
        content = arrays(tmp_path / "images.npz")
        assert content["arr_0"].shape == (9, 8, 8, 3)
        assert content["arr_0"].dtype == np.uint8
        assert content["arr_1"].tolist() == [0, 1, 2, 3, 4, 0, 1, 2, 3]
        files = sorted((tmp_path / "folder").glob("*.png"))
        assert [file.name for file in files] == [f"{i:06d}.png" for i in range(9)]
        assert np.array_equal(np.stack([np.asarray(Image.open(file)) for file in files]), content["arr_0"])
        labels = json.loads((tmp_path / "folder/dataset.json").read_text())["labels"]
        assert labels == [[f"{i:06d}.png", i % 5] for i in range(9)]
        grid = np.asarray(Image.open(tmp_path / "grid.png"))
        # Eight times enlarged, with four pixels between them.
        assert np.array_equal(grid[:64:8, :64:8], content["arr_0"][0])
        assert np.array_equal(grid[136:200:8, 68:132:8], content["arr_0"][7])

    @pytest.mark.parametrize(
        ("labels", "expected"), [("3", {3}), ("1,4", {1, 4}), ("uniform", {0, 1, 2, 3, 4})]
    )
    def test_labels(self, couplet, conditional, tmp_path, labels, expected):
        out = tmp_path / "x.npz"
        couplet("generate", conditional, "--labels", labels, "--count", 60, "--out", out)
        classes = arrays(out)["arr_1"]
        assert {*classes.tolist()} == expected
        if labels == "uniform":
            assert not np.array_equal(classes, np.arange(60) % 5)
        else:
            assert np.array_equal(classes, np.resize([int(label) for label in labels.split(",")], 60))

    def test_class_reaches_the_network(self, couplet, conditional, tmp_path):
        for label in (1, 2):
            options = ["--labels", label, "--count", 2, "--out", tmp_path / f"{label}.npz"]
            couplet("generate", conditional, *options)
        first, second = (arrays(tmp_path / f"{label}.npz")["arr_0"] for label in (1, 2))
        assert not np.array_equal(first, second)

    def test_seed_and_levels_change_images(self, couplet, conditional, tmp_path):
        options = {"plain": [], "seed": ["--seed", 1], "levels": ["--mid-sigmas", "3"], "one": ["--nfe", 1]}
        found = set()
        for name, changed in options.items():
            out = tmp_path / f"{name}.npz"
            couplet("generate", conditional, "--count", 2, "--nfe", 2, *changed, "--out", out)
            found.add(arrays(out)["arr_0"].tobytes())
        assert len(found) == 4

    def test_run_stands_for_its_selected_snapshot(self, couplet, grid):
        run = grid.train.parent
        selection = json.loads(grid.selection.read_text())["selected"]["checkpoint"]
        checkpoints = sorted((grid.train / "checkpoints").iterdir())
        assert len(checkpoints) == 2
        made = {}
        for path in (run, grid.train, *checkpoints):
            couplet("generate", path, "--count", 3, "--out", "x.npz")
            made[path] = arrays("x.npz")["arr_0"].tobytes()
        assert made[run] == made[grid.train] == made[grid.train / "checkpoints" / selection]
        assert made[checkpoints[0]] != made[checkpoints[1]]
        grid.selection.unlink()
        couplet("generate", run, "--count", 3, "--out", "x.npz")
        assert arrays("x.npz")["arr_0"].tobytes() == made[checkpoints[1]]

    def test_selections_that_differ_are_refused(self, couplet, grid):
        run = grid.train.parent
        other = run / "select-other/selection.json"
        other.parent.mkdir()
        content = json.loads(grid.selection.read_text())
        last = content["selected"]["step"] == 2
        content["selected"] = {"step": 1 + (not last), "checkpoint": f"step-{1 + (not last):08d}.safetensors"}
        other.write_text(json.dumps(content))
        code, _, err = couplet("generate", run, "--out", "x")
        assert code == 2
        assert f"{run}: its selections differ" in err

    def test_earlier_output_is_replaced_and_other_files_are_not(self, couplet, conditional, tmp_path):
        out = tmp_path / "x"
        for count in (5, 3):
            assert couplet("generate", conditional, "--count", count, "--out", out)[0] == 0
        assert sorted(file.name for file in out.iterdir()) == [
            "000000.png",
            "000001.png",
            "000002.png",
            "dataset.json",
        ]
        (out / "mine.txt").touch()
        code, _, err = couplet("generate", conditional, "--count", 5, "--out", out)
        assert (code, err) == (
            2,
            f"couplet: {out}: has other files, such as mine.txt; choose another folder\n",
        )
        assert len([*out.iterdir()]) == 5

    @pytest.mark.parametrize(
        ("options", "line"),
        [
            (["--nfe", "3"], "--nfe 3: {model} has 2 for sampling, noise level 80, 1.526; give a smaller"),
            (["--mid-sigmas", "1,3"], "--mid-sigmas 1, 3: must fall from below 80"),
            (["--mid-sigmas", "x"], "--mid-sigmas x: must be numbers"),
            (["--mid-sigmas", "nan"], "--mid-sigmas: levels.1 = NaN: "),
            (["--labels", "5"], "--labels 5: {model} has classes 0 to 4"),
            (["--labels", "1,x"], "--labels 1,x: must be balanced, uniform, class numbers"),
            (["--labels", "-1"], "--labels -1: must be balanced"),
            (["--count", "0"], "'--count'"),
            (["--out", "x.jpg"], "--out x.jpg: must be a folder, or end in .npz or .png"),
        ],
    )
    def test_wrong_options_are_a_line(self, couplet, conditional, tmp_path, monkeypatch, options, line):
        monkeypatch.chdir(tmp_path)
        code, _, err = couplet("generate", conditional, "--out", "x", *options)
        assert code == 2
        assert line.format(model=conditional) in err
        assert err.count("\n") == 1
        assert [*tmp_path.iterdir()] == []

    @pytest.mark.parametrize("kind", ["missing", "pickle", "header", "folder", "diffusion"])
    def test_no_model_is_a_line(self, couplet, tmp_path, kind):
        path = tmp_path / "model"
        if kind == "pickle":
            path.write_bytes(b"\x80\x04.")
        elif kind == "header":
            path.write_bytes(b'\x10\0\0\0\0\0\0\0{"a": 1}')
        elif kind == "folder":
            images(path, 2)
        elif kind == "diffusion":
            couplet("import", GOLDEN.parent / "data/edm_tiny.pkl", "--out", path)
        code, _, err = couplet("generate", path, "--out", tmp_path / "x.npz")
        assert (code, err.count("\n")) == (2, 1)
        assert err.startswith(f"couplet: {path}: ")
        assert not (tmp_path / "x.npz").exists()

    def test_labels_for_a_model_without_classes_are_refused(self, couplet, grid):
        code, _, err = couplet("generate", grid.train, "--labels", "uniform", "--out", "x")
        assert code == 2
        assert "--labels uniform: " in err
        assert "is given no classes" in err

    def test_classes_of_a_data_set(self, couplet, conditional, tmp_path, make_counts):
        data = make_counts([1, 0, 0, 0, 3])
        out = tmp_path / "x.npz"
        couplet("generate", conditional, "--labels", data, "--count", 400, "--out", out)
        counts = np.bincount(arrays(out)["arr_1"], minlength=5)
        assert counts[[1, 2, 3]].tolist() == [0, 0, 0]
        assert 0.65 < counts[4] / 400 < 0.85
        code, _, err = couplet(
            "generate", conditional, "--labels", make_counts([2, 2]), "--out", tmp_path / "y"
        )
        assert code == 2
        assert "has 2 classes" in err

    @pytest.mark.parametrize("name", ["folder", "x.npz"])
    def test_a_signal_leaves_nothing(self, conditional, tmp_path, name):
        out = tmp_path / name
        command = [
            sys.executable,
            "-m",
            "couplet",
            "generate",
            conditional,
            "--count",
            "1000000",
            "--out",
            out,
        ]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
            deadline = time.monotonic() + 60
            while not [*tmp_path.iterdir()] and time.monotonic() < deadline:
                time.sleep(0.05)
            process.send_signal(signal.SIGTERM)
            _, err = process.communicate(timeout=60)
        assert process.returncode == os.EX_TEMPFAIL
        assert "stopped by SIGTERM; nothing is written" in err
        assert [*tmp_path.iterdir()] == []


@pytest.fixture
def make_counts(tmp_path):
    """Writes a data set with these numbers of images by class and gives its folder."""
    from couplet.data.archive import Source, Split, write

    def make(counts):
        folder = tmp_path / f"data{len(counts)}"
        labels = np.repeat(np.arange(len(counts)), counts)
        pixels = np.zeros((len(labels), 8, 8, 3), np.uint8)
        write(
            folder, "d", Source("none", tuple(map(str, range(len(counts)))), {"train": Split(pixels, labels)})
        )
        return folder

    return make


def numbers(path="score.json") -> dict[str, float]:
    content = json.loads(Path(path).read_text())
    return {number["metric"]: number["value"] for number in content["numbers"]}


class TestScore:
    @pytest.fixture
    def score(self, couplet, grid, tmp_path):
        """Runs `couplet score` in the features of the grid's classifier, against its data set unless told."""

        def run(samples, *options, reference=grid.data, extractor=grid.features):
            chosen = ["--reference", reference, "--extractor", extractor, *options]
            return couplet("score", samples, *chosen)

        return run

    def test_training_images_against_themselves(self, score, grid):
        assert score(grid.data)[0] == 0
        found = numbers()
        assert abs(found["fd"]) < 1e-3
        # Subsets of one set share images, which moves the mean below 0.
        assert -0.5 < found["kid"] <= 0
        assert (found["precision"], found["recall"]) == (1.0, 1.0)

    def test_test_split_against_train_by_hand(self, score, grid):
        assert score(grid.data / "test-images.npy")[0] == 0
        extractor = load_extractor(grid.features, torch.device("cpu"))
        real, fake = (
            extractor(np.load(grid.data / f"{split}-images.npy")).values.astype(float)
            for split in ("train", "test")
        )
        means = real.mean(0) - fake.mean(0)
        first, second = np.cov(real, rowvar=False), np.cov(fake, rowvar=False)
        root = linalg.sqrtm(first @ second).real
        by_hand = means @ means + np.trace(first + second - 2 * root)
        found = numbers()
        assert found["fd"] == pytest.approx(by_hand, rel=1e-5)
        assert found["fd"] > 1e-3
        precision, recall = precision_recall(real, fake, k=3)
        assert (found["precision"], found["recall"]) == (precision, recall)

    def test_equals_the_stage_evaluate(self, score, grid):
        evaluated = json.loads(grid.evaluation.read_text())
        wanted = {
            n["metric"]: n["value"] for n in evaluated["numbers"] if n["nfe"] == 2 and n["metric"] == "fd"
        }
        assert score(grid.samples / "nfe2.npy")[0] == 0
        assert numbers()["fd"] == wanted["fd"]
        assert score(grid.samples / "nfe2.npy", reference=grid.reference)[0] == 0
        assert numbers()["fd"] == wanted["fd"]

    def test_same_images_in_any_container(self, score, tmp_path):
        folder = images(tmp_path / "folder", 6)
        pixels = np.stack([np.asarray(Image.open(folder / f"{i}.png")) for i in range(6)])[..., None]
        np.save("a.npy", pixels)
        np.savez("a.npz", pixels)
        np.savez_compressed("named.npz", images=pixels)
        with zipfile.ZipFile("a.zip", "w") as packed:
            for file in sorted(folder.iterdir()):
                packed.write(file, file.name)
        found = []
        for path in (folder, "a.npy", "a.npz", "named.npz", "a.zip"):
            assert score(path)[0] == 0
            found.append(numbers())
            assert score("a.npy", reference=path)[0] == 0
            assert abs(numbers()["fd"]) < 1e-6
        assert all(each == found[0] for each in found)

    def test_model_on_the_fly_and_kept(self, score, grid, couplet):
        run = grid.train.parent
        assert score(run, "--count", 20, "--nfe", 2)[0] == 0
        on_the_fly, content = numbers(), json.loads(Path("score.json").read_text())
        assert (content["samples"]["path"], content["samples"]["nfe"]) == (str(run), 2)
        assert content["samples"]["shape"] == [20, 8, 8, 1]
        couplet("generate", run, "--count", 20, "--nfe", 2, "--out", "x.npz")
        assert score(run, "--count", 20, "--nfe", 2, "--keep", "kept")[0] == 0
        assert numbers() == on_the_fly
        assert len([*Path("kept").glob("*.png")]) == 20
        for out in ("score.json", "x.npz"):
            printed = couplet("why", out)[1]
            assert "step-0000000" in printed
            assert "digits" in printed
        assert couplet("verify", ".")[0] == 0

    def test_a_record_like_any_other(self, score, couplet, tmp_path):
        folder = images(tmp_path / "folder", 6)
        score(folder)
        printed = couplet("why", "score.json")[1]
        assert all(word in printed for word in ("score", "features", "prepare", "classifier"))
        images(folder, 1, seed=1)
        code, out, _ = couplet("verify", tmp_path)
        assert code == 1
        assert "0.png: SHA-256 recorded by score" in out

    def test_protocol_is_beside_each_number(self, score, grid, tmp_path):
        code, out, _ = score(images(tmp_path / "folder", 6))
        assert code == 0
        protocols = {
            n["metric"]: n["protocol"] for n in json.loads(Path("score.json").read_text())["numbers"]
        }
        train = len(np.load(grid.data / "train-images.npy"))
        shared = {"extractor": load_extractor(grid.features, torch.device("cpu")).name, "resize": "none"}
        counts = {"samples": 6, "reference_images": train}
        assert protocols["fd"] == {**shared, **counts, "ddof": 1}
        assert protocols["kid"] == {**shared, **counts, "subsets": 100, "subset_size": 6}
        assert protocols["precision"] == protocols["recall"] == {**shared, **counts, "k": 3}
        assert f"samples 6, reference images {train}, ddof 1" in out

    def test_statistics_file_allows_the_frechet_distance_alone(self, score, grid, tmp_path):
        folder = images(tmp_path / "folder", 6)
        features = load_extractor(grid.features, torch.device("cpu"))(
            np.load(grid.data / "train-images.npy")
        ).values
        values = features.astype(float)
        np.savez("statistics.npz", mu=values.mean(0), sigma=np.cov(values, rowvar=False))
        score(folder)
        wanted = numbers()["fd"]
        code, out, _ = score(folder, reference="statistics.npz")
        assert code == 0
        assert numbers() == {"fd": pytest.approx(wanted, rel=1e-6)}
        assert "reference images not stated" in out
        code, _, err = score(folder, "--extractor", "values", reference="statistics.npz")
        assert (code, err.count("\n")) == (2, 1)
        assert "statistics.npz: holds moments of one extractor" in err

    @pytest.mark.parametrize(
        ("kind", "line"),
        [
            ("missing", "cannot be read"),
            ("empty", "contains no image files"),
            ("one", "holds 1 image, needed are 2 or more"),
            ("sizes", "9.png: 9×8 pixels, must be 8×8"),
            ("channels", "9.png: 3 channels, the first image has 1"),
            ("deep", "9.png: more than 8 bits per channel"),
            ("text", "9.png: cannot be decoded (not an image)"),
            ("splits", "has splits train and test; give the folder of one"),
            ("float.npy", "holds float64[4, 8, 8, 1], must be images"),
            ("channels first.npy", "holds uint8[4, 3, 8, 8], must be images"),
            ("four.npy", "holds uint8[4, 8, 8, 4], must be images"),
            ("objects.npz", "arr_0 cannot be read as an array"),
            ("names.npz", "has no array 'arr_0', only a, b"),
            ("cut.npz", "cannot be read as a zip of arrays"),
            ("cut.npy", "cannot be read as an array"),
            ("larger", "was trained on images of 8×8×1, these have 16×16×1"),
            ("colour", "was trained on images of 8×8×1, these have 8×8×3"),
        ],
    )
    def test_images_that_cannot_be_measured_are_a_line(self, score, tmp_path, grid, kind, line):
        path = tmp_path / "pictures" / kind
        path.parent.mkdir()
        pixels = np.zeros((4, 8, 8, 1), np.uint8)
        if kind in ("empty", "one", "sizes", "channels", "deep", "text"):
            images(path, {"empty": 0, "one": 1}.get(kind, 3))
        odd = {
            "sizes": lambda: images(tmp_path / "odd", 1, (8, 9)) / "0.png",
            "channels": lambda: images(tmp_path / "odd", 1, mode="RGB") / "0.png",
        }
        if kind in odd:
            (path / "9.png").write_bytes(odd[kind]().read_bytes())
        writers = {
            "deep": lambda: Image.fromarray(np.zeros((8, 8), np.uint16)).save(path / "9.png"),
            "text": lambda: (path / "9.png").write_text("no image"),
            "splits": lambda: [images(path / split, 2) for split in ("train", "test")],
            "float.npy": lambda: np.save(path, pixels / 255),
            "channels first.npy": lambda: np.save(path, np.zeros((4, 3, 8, 8), np.uint8)),
            "four.npy": lambda: np.save(path, np.zeros((4, 8, 8, 4), np.uint8)),
            "objects.npz": lambda: np.savez(path, arr_0=np.array([{}], object)),
            "names.npz": lambda: np.savez(path, a=pixels, b=pixels),
            "cut.npz": lambda: path.write_bytes(b"PK\3\4 cut"),
            "cut.npy": lambda: path.write_bytes(b"\x93NUMPY\1\0cut"),
            "larger": lambda: images(path, 3, (16, 16)),
            "colour": lambda: images(path, 3, mode="RGB"),
        }
        writers.get(kind, lambda: None)()
        for samples, reference in ((path, grid.data), (grid.data, path)):
            code, _, err = score(samples, reference=reference)
            assert (code, err.count("\n")) == (2, 1), err
            assert err.startswith(f"couplet: {path}")
            assert line in err
        assert not Path("score.json").exists()

    def test_a_pickle_is_a_model_and_no_images(self, score, tmp_path, grid):
        path = tmp_path / "pickle"
        path.write_bytes(b"\x80\x04.")
        for samples, reference, line in (
            (path, grid.data, "expected a checkpoint of "),
            (grid.data, path, "must be a folder, zip"),
        ):
            code, _, err = score(samples, reference=reference)
            assert (code, err.count("\n")) == (2, 1), err
            assert err.startswith(f"couplet: {path}: ")
            assert line in err

    def test_transparency_is_dropped_and_rectangles_are_measured(self, couplet, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        for name, mode in (("with", "LA"), ("without", "L")):
            images(tmp_path / name, 5, (4, 6), "LA")
            for file in (tmp_path / name).iterdir() if mode == "L" else ():
                Image.open(file).convert("L").save(file)
        assert couplet("score", "with", "--reference", "without", "--extractor", "values")[0] == 0
        assert abs(numbers()["fd"]) < 1e-6

    @pytest.mark.parametrize(
        ("options", "line"),
        [
            (["--split", "val"], "--split val: allowed: test, train"),
            (["--out", "x.txt"], "--out x.txt: must end in .json"),
            (["--scale", "smoke"], "--scale smoke: belongs to --params FILE"),
            (["--extractor", "clasifier"], "--extractor clasifier: did you mean 'classifier'?"),
            (["--extractor", "classifier"], "--extractor classifier: is trained on a data set"),
            (["--extractor", "values", "--extractor", "values"], "--extractor values: given twice"),
            (["--labels", "3"], "--labels: belongs to a model"),
            (["--keep", "x"], "--keep: belongs to a model"),
        ],
    )
    def test_wrong_options_are_a_line(self, score, grid, options, line):
        code, _, err = score(grid.data, *options)
        assert (code, err.count("\n")) == (2, 1)
        assert line in err
        assert not Path("score.json").exists()

    def test_another_stages_output_is_not_overwritten(self, score, grid):
        before = grid.evaluation.read_bytes()
        code, _, err = score(grid.data, "--out", grid.evaluation)
        assert code == 2
        assert "is an output of `couplet evaluate`; choose another name" in err
        assert grid.evaluation.read_bytes() == before

    def test_values_of_other_sizes_are_refused(self, couplet, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        small, large = images(tmp_path / "small", 4), images(tmp_path / "large", 4, (16, 16))
        code, _, err = couplet("score", small, "--reference", large, "--extractor", "values")
        assert (code, err.count("\n")) == (2, 1)
        assert f"{large}: has 256 features" in err
