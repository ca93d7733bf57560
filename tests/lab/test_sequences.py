"""Tasks of whole sequences: what the files and the grammar say is what comes out, in parts that share nothing."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import numpy as np
import pytest

from streamgrad.data.errors import SourceError
from streamgrad.lab.tasks.sequences import Sequences, Splits, digits, imdb, listops, mnist1d, scifar
from streamgrad.lab.tasks.sequences._sequences import split
from streamgrad.lab.tasks.sequences.listops import _expression, _uniform, evaluate

WORDS = [*"0123456789", "[MIN", "[MAX", "[MED", "[SM", "]"]


def _same(a: Splits, b: Splits) -> bool:
    return all(np.array_equal(p.xs, q.xs) and np.array_equal(p.labels, q.labels) for p, q in zip(a, b))


def _rows(sequences: Sequences) -> list[bytes]:
    return [x.tobytes() for x in sequences.xs]


def _check_parts(splits: Splits, sizes: tuple[int, int, int], classes: int) -> None:
    """Sizes, dtypes, every label in proportion, no example in two parts."""
    assert tuple(map(len, splits)) == sizes
    rows = [row for part in splits for row in _rows(part)]
    assert len(set(rows)) == len(rows)
    labels = np.concatenate([part.labels for part in splits])
    share = np.bincount(labels, minlength=classes) / len(labels)
    for part in splits:
        assert part.classes == classes
        assert (part.labels.dtype, part.lengths.dtype) == (np.int32, np.int32)
        counts = np.bincount(part.labels, minlength=classes)
        assert np.all(np.abs(counts - share * len(part)) <= 2)
        if len(part) > 500:  # in random order: neighbours have the same label no more often than by chance
            assert np.mean(part.labels[1:] != part.labels[:-1]) == pytest.approx(1 - np.sum(share**2), abs=0.05)


def _check_scaled_by_training(splits: Splits) -> None:
    """Mean 0 and deviation 1 in the training part, and in no larger part."""
    both = np.concatenate([splits.train.xs, splits.valid.xs, splits.test.xs])
    for i in range(splits.train.in_size):
        train = splits.train.xs[..., i].astype(float)
        assert abs(train.mean()) < 1e-6
        assert train.std() == pytest.approx(1, abs=1e-6)
        assert abs(both[..., i].astype(float).mean()) > 1e-5


# Sequences


def _tokens(**changes) -> Sequences:
    whole = {"xs": np.array([[0, 1, 2], [2, 0, 3]], np.uint8), "labels": np.array([1, 0], np.int32)}
    whole |= {"lengths": np.array([3, 2], np.int32), "in_size": 4, "classes": 2, "name": "made", "padding": 3}
    return Sequences(**(whole | changes))


def test_tokens_become_one_hot_and_padding_zeros():
    sequences = _tokens()
    assert (len(sequences), sequences.time) == (2, 3)
    out = sequences.encode(sequences.xs)
    expected = np.array([[[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0]], [[0, 0, 1, 0], [1, 0, 0, 0], [0, 0, 0, 0]]])
    assert out.dtype == np.float32
    np.testing.assert_array_equal(out, expected)
    np.testing.assert_array_equal(_tokens(padding=None).encode(sequences.xs)[1, 2], [0, 0, 0, 1])


def test_values_are_encoded_as_they_are():
    xs = np.arange(12, dtype=np.float32).reshape(2, 3, 2)
    sequences = _tokens(xs=xs, in_size=2, padding=None)
    np.testing.assert_array_equal(sequences.encode(sequences.xs[1:]), xs[1:])


@pytest.mark.parametrize("index", [np.array([1, 0, 1]), np.array([True, False]), slice(1, None)])
def test_take(index):
    sequences = _tokens()
    part = sequences.take(index)
    for name in ("xs", "labels", "lengths"):
        np.testing.assert_array_equal(getattr(part, name), getattr(sequences, name)[index])
    assert (part.in_size, part.classes, part.name, part.padding) == (4, 2, "made", 3)


MISFITS = {
    "values of another size": ({"xs": np.zeros((2, 3, 5), np.float32)}, r"shape \(2, 3, 5\)"),
    "a token too large": ({"in_size": 3, "padding": None}, "token 3"),
    "a label too large": ({"classes": 1}, "labels .*from 0 to 0"),
    "a length of 0": ({"lengths": np.array([3, 0], np.int32)}, "lengths .*from 1 to 3"),
    "a length beyond the end": ({"lengths": np.array([4, 2], np.int32)}, "lengths .*from 1 to 3"),
}


@pytest.mark.parametrize("name", MISFITS)
def test_sequences_that_do_not_fit_together(name):
    changes, message = MISFITS[name]
    with pytest.raises(ValueError, match=message):
        _tokens(**changes)


def _numbered(n: int, classes: int = 3) -> Sequences:
    """The number of each sequence is its only value."""
    labels = (np.arange(n) * n // 7 % classes).astype(np.int32)
    xs = np.arange(n, dtype=np.float32).reshape(n, 1, 1)
    return Sequences(xs, labels, np.ones(n, np.int32), 1, classes, "numbered")


def test_split():
    whole = _numbered(100)
    parts = split(whole, (50, 20, 10), 0)
    places = [part.xs[:, 0, 0].astype(int) for part in parts]
    assert list(map(len, places)) == [50, 20, 10]
    assert len(set(np.concatenate(places))) == 80
    assert all(min(place) < 40 and max(place) >= 60 for place in places)
    for part, place in zip(parts, places):
        np.testing.assert_array_equal(part.labels, whole.labels[place])
        share = np.bincount(whole.labels) / 100
        assert np.all(np.abs(np.bincount(part.labels, minlength=3) - share * len(part)) <= 2)
    again, other = split(whole, (50, 20, 10), 0), split(whole, (50, 20, 10), 1)
    assert [_rows(part) for part in again] == [_rows(part) for part in parts]
    assert set(_rows(other[2])) != set(_rows(parts[2]))


@pytest.mark.parametrize("sizes", [(90, 11), (101, -1)])
def test_split_into_parts_that_cannot_be(sizes):
    with pytest.raises(ValueError, match="numbered: 100 sequences cannot be divided"):
        split(_numbered(100), sizes, 0)


# digits


def test_digits():
    datasets = pytest.importorskip("sklearn.datasets")
    splits = digits()
    _check_parts(splits, (1197, 200, 400), 10)
    _check_scaled_by_training(splits)
    assert all((part.time, part.in_size, part.xs.dtype) == (64, 1, np.float32) for part in splits)

    # Undo the scaling: all are images of the collection, row by row, with their labels.
    images, labels = datasets.load_digits(return_X_y=True)
    known = {tuple(image.astype(int)): label for image, label in zip(images, labels)}
    xs = np.concatenate([part.xs for part in splits])[..., 0].astype(float)
    raw = np.rint((xs - xs.min()) * 16 / (xs.max() - xs.min())).astype(int)
    assert [known[tuple(x)] for x in raw] == [*np.concatenate([part.labels for part in splits])]

    assert _same(splits, digits(seed=0))
    assert set(_rows(splits.test)) != set(_rows(digits(seed=1).test))


def test_digits_of_other_sizes_or_without_scikit_learn(monkeypatch):
    pytest.importorskip("sklearn.datasets")
    assert tuple(map(len, digits(valid=0, test=97))) == (1700, 0, 97)
    with pytest.raises(ValueError, match="training part is empty"):
        digits(valid=797, test=1000)
    with pytest.raises(ValueError, match="cannot be divided"):
        digits(valid=1000, test=1000)
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(SourceError, match=r"pip install 'streamgrad\[data\]'"):
        digits()


# mnist1d


def test_mnist1d():
    splits = mnist1d(train=600, valid=100, test=200)
    _check_parts(splits, (600, 100, 200), 10)
    _check_scaled_by_training(splits)
    assert all((part.time, part.in_size, part.xs.dtype) == (40, 1, np.float32) for part in splits)
    assert np.all(np.bincount(splits.test.labels) == 20)
    assert _same(splits, mnist1d(train=600, valid=100, test=200, seed=0))
    assert not set(_rows(splits.train)) & set(_rows(mnist1d(train=600, valid=100, test=200, seed=1).train))


def test_mnist1d_can_be_learned_but_not_from_means():
    train, _, test = mnist1d(valid=0, test=500)
    a, b = train.xs[..., 0], test.xs[..., 0]
    distance = lambda centres: np.sum(centres**2, axis=1) - 2 * b @ centres.T
    neighbour = np.mean(train.labels[np.argmin(distance(a), axis=1)] == test.labels)
    means = np.stack([a[train.labels == label].mean(axis=0) for label in range(10)])
    nearest_mean = np.mean(np.argmin(distance(means), axis=1) == test.labels)
    assert 0.6 < neighbour < 0.9
    assert 0.15 < nearest_mean < 0.45


def test_mnist1d_refuses_negative_sizes():
    with pytest.raises(ValueError, match=r"mnist1d: .*cannot be divided"):
        mnist1d(train=100, valid=-1, test=10)


# ListOps


def _value(words: Iterator[str]) -> int | None:
    """The value of the next expression by its text; None at `]`."""
    word = next(words)
    if word == "]":
        return None
    if word.isdigit():
        return int(word)
    arguments = sorted(iter(lambda: _value(words), None))
    middle = len(arguments) // 2
    if word == "[MED":
        return arguments[middle] if len(arguments) % 2 else (arguments[middle - 1] + arguments[middle]) // 2
    return {"[MIN": arguments[0], "[MAX": arguments[-1], "[SM": sum(arguments) % 10}[word]


CASES = {
    "7": 7,
    "[MIN 4 2 9 ]": 2,
    "[MAX 4 2 9 3 ]": 9,
    "[SM 9 9 4 ]": 2,
    "[SM 5 5 ]": 0,
    "[MED 9 1 4 ]": 4,
    "[MED 1 2 9 4 ]": 3,
    "[MED 8 1 2 9 ]": 5,
    "[MED 3 4 ]": 3,
    "[MAX 2 9 [MIN 4 7 ] 0 ]": 9,
    "[MIN 6 [SM 8 [MAX 1 3 ] 4 ] [MED 7 7 9 ] ]": 5,
}


@pytest.mark.parametrize("text", CASES)
def test_the_value_of_an_expression(text):
    assert evaluate([WORDS.index(word) for word in text.split()]) == CASES[text]
    assert _value(iter(text.split())) == CASES[text]


@pytest.mark.parametrize("text", ["", "[MIN 1", "1 ]", "[MIN ]", "[MIN 1 2 ] 3", "[MIN 1 2 ] ]", "1 [MIN 2"])
def test_what_is_not_one_expression_has_no_value(text):
    with pytest.raises(ValueError, match="expression"):
        evaluate([WORDS.index(word) for word in text.split()])


def test_padding_has_no_value():
    with pytest.raises(ValueError, match=r"token 15 \(padding\) is out of place"):
        evaluate(np.array([10, 1, 2, 14, 15], np.uint8))


def test_listops():
    few = {"train": 800, "valid": 100, "test": 100}
    splits = listops(**few)
    _check_parts(splits, (800, 100, 100), 10)
    lengths = np.concatenate([part.lengths for part in splits])
    assert lengths.min() == 10
    assert 45 <= lengths.max() <= 50
    for part in splits:
        assert (part.time, part.in_size, part.xs.dtype) == (64, 20, np.uint8)
        for xs, length, label in zip(part.xs, part.lengths, part.labels):
            words = iter([WORDS[token] for token in xs[:length]])
            assert _value(words) == label
            assert next(words, None) is None
            assert np.all(xs[length:] == part.padding)
    assert np.all(np.bincount(np.concatenate([part.labels for part in splits])) == 100)
    inputs = splits.test.encode(splits.test.xs[:5])
    np.testing.assert_array_equal(inputs.sum(axis=(1, 2)), splits.test.lengths[:5])
    assert _same(splits, listops(**few, seed=0))
    assert not set(_rows(splits.test)) & set(_rows(listops(**few, seed=1).test))


def test_listops_as_the_grammar_gives_them():
    train = listops(train=1000, valid=0, test=0, balanced=False, min_length=5, max_length=17, time=20).train
    assert train.time == 20
    assert (train.lengths.min(), train.lengths.max()) == (5, 17)
    counts = np.bincount(train.labels)
    assert min(counts[0], counts[9]) > 1.3 * counts[2:8].mean()


def test_no_expression_comes_twice():
    train = listops(train=200, valid=0, test=0, max_args=2, max_depth=2, min_length=4).train  # of the 400 there are
    assert len(set(_rows(train))) == 200
    assert np.all(np.bincount(train.labels) == 20)


def test_the_grammar():
    """Operators and numbers of arguments are equally likely; a quarter of inner arguments are lists."""
    uniform = _uniform(0)
    operators, arguments, lists, deepest = [], [], [], 0
    for _ in range(600):
        open_lists: list[list[int]] = []
        for token in _expression(uniform, 10_000, 4, 5):
            if token < 14 and open_lists:
                open_lists[-1].append(token)
                if len(open_lists) < 3:  # not at the last level, where all are digits
                    lists.append(token >= 10)
            if 10 <= token < 14:
                operators.append(token)
                open_lists.append([])
                deepest = max(deepest, len(open_lists) + 1)
            elif token == 14:
                arguments.append(len(open_lists.pop()))
        assert not open_lists
    assert deepest == 4
    np.testing.assert_allclose(np.bincount(operators)[10:] / len(operators), 0.25, atol=0.04)
    np.testing.assert_allclose(np.bincount(arguments)[2:] / len(arguments), [0.25] * 4, atol=0.04)
    assert np.mean(lists) == pytest.approx(0.25, abs=0.03)


IMPOSSIBLE = {
    "depth": ({"max_depth": 1}, "max_depth=1"),
    "arguments": ({"max_args": 1}, "max_args=1"),
    "order": ({"min_length": 20, "max_length": 19}, "min_length=20, max_length=19"),
    "too short": ({"min_length": 1, "max_length": 3}, "from 4 to"),
    "too long": ({"min_length": 13, "max_length": 20, "max_depth": 2}, "from 4 to 12 tokens"),
    "time": ({"max_length": 50, "time": 49}, "time=49"),
    "too few": ({"max_args": 2, "max_depth": 2, "min_length": 4, "balanced": False}, "after 400 no more are found"),
}


def test_listops_refuses_negative_sizes():
    with pytest.raises(ValueError, match=r"listops: .*cannot be divided"):
        listops(train=-10, valid=1, test=1)


@pytest.mark.parametrize("name", IMPOSSIBLE)
def test_listops_that_cannot_be(name, monkeypatch):
    monkeypatch.setattr(sys.modules["streamgrad.lab.tasks.sequences.listops"], "PATIENCE", 5000)
    settings, message = IMPOSSIBLE[name]
    with pytest.raises(ValueError, match=message):
        listops(train=500, **settings)


# CIFAR-10

FILES = ["data_batch_1.bin", "data_batch_2.bin", "data_batch_3.bin", "data_batch_4.bin", "data_batch_5.bin"]
FILES += ["test_batch.bin"]
EACH = 20  # images in a file


def _cifar(folder):
    """Six files of small random images, brighter in the test file: images (6, n, 3, 32, 32) and labels (6, n)."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 100, (6, EACH, 3, 32, 32)) * np.array([1, 2, 1.5])[:, None, None]
    images[5] += 50
    labels = np.stack([rng.permutation(EACH) % 10 for _ in range(6)])
    folder.mkdir(exist_ok=True)
    for name, some, theirs in zip(FILES, images.astype(np.uint8), labels):
        content = b"".join(bytes([label]) + image.tobytes() for image, label in zip(some, theirs))
        (folder / name).write_bytes(content)
    return images.astype(np.uint8), labels


@pytest.mark.parametrize("around", [False, True])
def test_scifar(tmp_path, around):
    images, labels = _cifar(tmp_path / "cifar-10-batches-bin")
    folder = tmp_path if around else tmp_path / "cifar-10-batches-bin"
    splits = scifar(str(folder), valid=20, images=EACH)
    _check_parts(splits, (80, 20, 20), 10)
    _check_scaled_by_training(splits)
    assert all((part.time, part.in_size, part.xs.dtype) == (1024, 3, np.float32) for part in splits)

    # The test part is in the file's order: it tells the scaling of each colour, which undoes that of the others.
    pixels = images.transpose(0, 1, 3, 4, 2).reshape(6, EACH, 1024, 3).astype(float)
    np.testing.assert_array_equal(splits.test.labels, labels[5])
    slopes, offsets = np.transpose(
        [np.polyfit(splits.test.xs[..., i].ravel(), pixels[5, ..., i].ravel(), 1) for i in range(3)]
    )
    np.testing.assert_allclose(splits.test.xs * slopes + offsets, pixels[5], atol=1e-3)
    as_bytes = lambda x: x.astype(np.uint8).tobytes()
    known = {as_bytes(x): label for x, label in zip(pixels[:5].reshape(-1, 1024, 3), labels[:5].ravel())}
    for part in (splits.train, splits.valid):
        raw = np.rint(part.xs * slopes + offsets)
        assert [known.pop(as_bytes(x)) for x in raw] == [*part.labels]
    assert not known

    assert _same(splits, scifar(folder, valid=20, images=EACH))
    assert not _same(splits, scifar(folder, valid=20, images=EACH, seed=1))


def test_scifar_in_grey(tmp_path):
    images, _ = _cifar(tmp_path)
    splits = scifar(tmp_path, grey=True, valid=20, images=EACH)
    _check_parts(splits, (80, 20, 20), 10)
    _check_scaled_by_training(splits)
    red, green, blue = images[5].reshape(EACH, 3, 1024).transpose(1, 0, 2).astype(float)
    grey = 0.299 * red + 0.587 * green + 0.114 * blue
    xs = splits.test.xs[..., 0]
    np.testing.assert_allclose((xs - xs.mean()) / xs.std(), (grey - grey.mean()) / grey.std(), atol=1e-4)


def test_scifar_refuses_what_it_cannot_read(tmp_path):
    read = lambda folder=tmp_path: scifar(folder, valid=20, images=EACH)
    with pytest.raises(SourceError, match=r"there is no folder .*nowhere"):
        read(tmp_path / "nowhere")
    archive = tmp_path / "cifar-10-binary.tar.gz"
    archive.write_bytes(b"packed")
    with pytest.raises(SourceError, match=r"binary\.tar\.gz is a file, and the folder .*unpack it"):
        read(archive)
    with pytest.raises(SourceError, match=r"there is no file .*data_batch_1\.bin"):
        read()
    (tmp_path / "data_batch_1").write_bytes(b"\x80\x02}q\x01")
    with pytest.raises(SourceError, match=r"Python version .*pickled.*cifar-10-binary\.tar\.gz"):
        read()
    _cifar(tmp_path)
    read()
    with pytest.raises(ValueError, match="training part is empty"):
        scifar(tmp_path, valid=100, images=EACH)
    with pytest.raises(SourceError, match=r"has 61,460 bytes, and 30,730,000 were expected .*it is cut"):
        scifar(tmp_path, valid=20)

    file = tmp_path / "data_batch_3.bin"
    content = file.read_bytes()
    file.write_bytes(content[:-1])
    with pytest.raises(SourceError, match=r"data_batch_3\.bin has 61,459 bytes, and 61,460 .*it is cut"):
        read()
    file.write_bytes(content + content[:3073])
    with pytest.raises(SourceError, match=r"data_batch_3\.bin has 64,533 bytes.*it is another file"):
        read()
    file.write_bytes(content[: 4 * 3073] + b"\x0b" + content[4 * 3073 + 1 :])
    with pytest.raises(SourceError, match=r"data_batch_3\.bin, image 5: the label is 11"):
        read()
    file.unlink()
    with pytest.raises(SourceError, match=r"there is no file .*data_batch_3\.bin"):
        read()
    file.mkdir()
    with pytest.raises(SourceError, match=r"data_batch_3\.bin cannot be read"):
        read()


# IMDb

REVIEWS = 12  # in a folder


def _reviews(folder) -> dict[str, list[bytes]]:
    """Twelve made reviews in each of the four folders, by folder."""
    rng = np.random.default_rng(0)
    texts = {}
    for part in ("train/neg", "train/pos", "test/neg", "test/pos"):
        (folder / part).mkdir(parents=True)
        some = [f"{part} {i} " + "so " * rng.integers(1, 6) for i in range(REVIEWS - 2)]
        some += [f"Café ~<br />\t{part}\n", f"{part}: " + "x" * 100]
        texts[part] = [text.encode() for text in some]
        for i, text in enumerate(texts[part]):
            (folder / part / f"{i}_{rng.integers(1, 11)}.txt").write_bytes(text)
    (folder / "train" / "unsup").mkdir()
    (folder / "train" / "urls_pos.txt").write_text("http://nowhere\n")
    return texts


def _text(tokens: np.ndarray) -> bytes:
    """Tokens as text, with `#` for whatever is not printable ASCII."""
    return b"".join(b"#" if token == 95 else bytes([token + 32]) for token in tokens)


@pytest.mark.parametrize("around", [False, True])
def test_imdb(tmp_path, around):
    texts = _reviews(tmp_path / "aclImdb")
    folder = tmp_path if around else tmp_path / "aclImdb"
    splits = imdb(str(folder), time=60, valid=4, reviews=REVIEWS)
    _check_parts(splits, (20, 4, 24), 2)
    assert set(splits.test.labels[:12]) == {0, 1}  # not one kind after the other
    clear = lambda text: bytes(byte if 32 <= byte <= 126 else ord("#") for byte in text)[:60]
    for parts, where in (((splits.train, splits.valid), "train"), ((splits.test,), "test")):
        expected = {clear(text): label for label in (0, 1) for text in texts[f"{where}/{['neg', 'pos'][label]}"]}
        assert b"Caf## ~<br />#" + where.encode() + b"/pos#" in expected
        for part in parts:
            assert (part.time, part.in_size, part.xs.dtype) == (60, 97, np.uint8)
            for xs, length, label in zip(part.xs, part.lengths, part.labels):
                assert expected.pop(_text(xs[:length])) == label
                assert np.all(xs[length:] == part.padding)
            inputs = part.encode(part.xs)
            np.testing.assert_array_equal(inputs.sum(axis=(1, 2)), part.lengths)
        assert not expected
    assert _same(splits, imdb(folder, time=60, valid=4, reviews=REVIEWS))
    assert not _same(splits, imdb(folder, time=60, valid=4, reviews=REVIEWS, seed=1))


def test_imdb_refuses_what_it_cannot_read(tmp_path):
    folder = tmp_path / "reviews"
    read = lambda folder=folder, **options: imdb(folder, **({"valid": 4, "reviews": REVIEWS} | options))
    with pytest.raises(SourceError, match=r"there is no folder .*reviews"):
        read()
    archive = tmp_path / "aclImdb_v1.tar.gz"
    archive.write_bytes(b"packed")
    with pytest.raises(SourceError, match=r"v1\.tar\.gz is a file, and the folder .*unpack it"):
        read(archive)
    _reviews(folder)
    assert read().train.time == 4096
    with pytest.raises(ValueError, match="cannot be divided"):
        read(valid=25)
    with pytest.raises(ValueError, match="time=0"):
        read(time=0)
    with pytest.raises(SourceError, match="has 12 texts, and a folder of 12,500 reviews"):
        imdb(folder)
    review = next((folder / "test" / "pos").glob("3_*.txt"))
    review.write_bytes(b"")
    with pytest.raises(SourceError, match=r"3_\d+\.txt is empty"):
        read()
    review.unlink()
    with pytest.raises(SourceError, match="pos has 11 texts, and a folder of 12 reviews"):
        read()
    (folder / "train" / "neg").rename(folder / "train" / "negative")
    with pytest.raises(SourceError, match="neg is not there"):
        read()
