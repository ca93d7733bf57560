"""Fashion-MNIST from IDX files that are made here."""

import dataclasses
import gzip
import struct

import numpy as np
import pytest

from streamgrad.cli import main
from streamgrad.data import SourceError
from streamgrad.lab.experiments import EXPERIMENTS
from streamgrad.lab.tasks.sequences import fashion


def idx(array):
    return bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def made(folder, compressed=True):
    """60 images for training and 20 for testing, of all labels."""
    rng, parts = np.random.default_rng(0), {}
    folder.mkdir()
    for part, n in (("train", 60), ("t10k", 20)):
        images = rng.integers(256, size=(n, 28, 28), dtype=np.uint8)
        labels = np.arange(n, dtype=np.uint8) % 10
        parts[part] = images, labels
        for name, array in ((f"{part}-images-idx3-ubyte", images), (f"{part}-labels-idx1-ubyte", labels)):
            if compressed:
                (folder / f"{name}.gz").write_bytes(gzip.compress(idx(array)))
            else:
                (folder / name).write_bytes(idx(array))
    return parts


@pytest.mark.parametrize("compressed", [True, False], ids=["gz", "plain"])
def test_images_by_pixel_and_by_row(tmp_path, compressed):
    parts = made(tmp_path / "data", compressed)
    pixel, row = (fashion(tmp_path / "data", by=by, valid=10) for by in ("pixel", "row"))
    assert [len(part) for part in row] == [len(part) for part in pixel] == [50, 10, 20]
    assert (row.train.time, row.train.in_size, pixel.train.time, pixel.train.in_size) == (28, 28, 784, 1)
    assert (row.test.lengths == 28).all() and sorted(row.valid.labels) == list(range(10))
    np.testing.assert_array_equal(row.test.labels, parts["t10k"][1])
    for a, b in zip(row, pixel, strict=True):
        np.testing.assert_array_equal(a.xs.ravel(), b.xs.ravel())
    np.testing.assert_allclose((row.train.xs.mean(), row.train.xs.std()), (0, 1), atol=1e-5)
    images = parts["t10k"][0].astype(float)
    slope, shift = np.polyfit(images.ravel(), row.test.xs.ravel(), 1)
    np.testing.assert_allclose(row.test.xs, slope * images + shift, atol=1e-5)


def spoil(name, content):
    return lambda folder: (folder / name).write_bytes(content)


@pytest.mark.parametrize(
    ("spoiled", "words"),
    [
        (lambda folder: (folder / "t10k-labels-idx1-ubyte").unlink(), "there is no file .*t10k-labels-idx1-ubyte"),
        (spoil("train-images-idx3-ubyte", b"<html>"), "begins with 3c 68 74 6d, and 00 00 08 03 was expected"),
        (spoil("train-images-idx3-ubyte", b""), "begins with nothing"),
        (spoil("train-labels-idx1-ubyte", idx(np.zeros(60, np.uint8))[:-1]), "67 bytes, and 68 were expected"),
        (spoil("train-labels-idx1-ubyte", idx(np.zeros(59, np.uint8))), "60 images and 59 labels"),
        (spoil("train-labels-idx1-ubyte", idx(np.full(60, 11, np.uint8))), "a label of train is 11"),
        (spoil("t10k-images-idx3-ubyte", idx(np.zeros((20, 8, 8), np.uint8))), "8 × 8 pixels, and 28 × 28"),
    ],
)
def test_what_is_no_such_file_is_refused(tmp_path, spoiled, words):
    made(tmp_path / "data", compressed=False)
    spoiled(tmp_path / "data")
    with pytest.raises(SourceError, match=words):
        fashion(tmp_path / "data", valid=10)


def test_a_cut_archive_and_too_many_for_validation_are_refused(tmp_path):
    made(tmp_path / "data")
    with pytest.raises(ValueError, match="valid=60 leaves none of 60"):
        fashion(tmp_path / "data", valid=60)
    path = tmp_path / "data" / "train-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(SourceError, match=r"train-images-idx3-ubyte\.gz cannot be read"):
        fashion(tmp_path / "data", valid=10)


def test_the_experiment_reads_the_folder_that_the_user_names(tmp_path, capsys):
    made(tmp_path / "data")
    experiment = EXPERIMENTS["fashion"]
    settings = dataclasses.replace(experiment.quick, data=tmp_path / "data", by="pixel")
    assert [trial.name for trial in experiment.trials(settings, [])] == [
        "mode bptt, rate 0.004",
        "mode frozen, rate 0.004",
    ]
    assert main(["experiment", "fashion", "--data", str(tmp_path / "none"), "--out", str(tmp_path / "run")]) == 1
    assert "there is no folder" in capsys.readouterr().err
