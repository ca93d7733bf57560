"""Fleets beside a dictionary of plain learners, one a key, driven row by row; and bits that depend on nothing else."""

import sqlite3

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import streamgrad as sg
from streamgrad.fleet import FleetError, Kernel, apply, naive


def lru(key):
    a, b = jax.random.split(key)
    layer = sg.Recurrent(sg.cells.LRU(2, 4, key=a), sg.SnAp(1))
    return sg.nn.Sequential([layer, sg.Readout(2, 1, key=b)])


def gru(key):
    a, b = jax.random.split(key)
    return sg.nn.Sequential([sg.Recurrent(sg.cells.GRU(2, 3, key=a), sg.RTRL()), sg.Readout(3, 1, key=b)])


def fitted(key):
    layer = sg.Recurrent(sg.cells.LSTM(2, 3, key=key), sg.SnAp(1))
    return sg.nn.Sequential([sg.nn.Normalise(2), layer, sg.RLS(3, 1)])


LEARNERS = {
    "adam": (lru, optax.adam(1e-2), {}),
    "delayed": (lru, optax.adam(1e-2), {"delay": 2}),
    "clipped, averaged": (gru, optax.chain(optax.clip_by_global_norm(0.1), optax.sgd(0.1)), {"update_every": 3}),
    "kalman": (gru, sg.Kalman("layer"), {"delay": 1}),
    "fitted": (fitted, optax.sgd(1e-2), {}),
}
KEYS = ["a", b"a", 1, "1", -7, "ключ", "", b"\0", 2**62, "z", "y", "x"]


def rows(count, *, seed=0, keys=KEYS):
    """Rows of keys of which some are busy, with missing targets, resets, and inputs that are not finite."""
    rng = np.random.default_rng(seed)
    chance = 1 / np.arange(1, len(keys) + 1)
    chosen = [keys[k] for k in rng.choice(len(keys), count, p=chance / chance.sum())]
    xs = rng.normal(size=(count, 2))
    targets = xs.sum(1, keepdims=True) + 0.1 * rng.normal(size=(count, 1))
    targets[rng.random(count) < 0.1] = np.nan
    xs[rng.random(count) < 0.02] = np.inf
    return chosen, xs, targets, rng.random(count) < 0.05


def taken(rows, some):
    """Some of the rows."""
    keys, *arrays = rows
    places = np.arange(len(keys))[some]
    return [keys[k] for k in places], *(array[places] for array in arrays)


def dictionary(make, update, options, rows):
    """One learner a key, one row at a time."""
    learner = sg.Learner(make(jax.random.key(9)), update, loss=sg.losses.mse, **options)
    states, outs = naive.learn(learner, make, zip(*rows, strict=True))
    return jax.tree.map(lambda *leaves: np.stack(leaves), *outs), {k: learner.model(st) for k, st in states.items()}


def same(a, b):
    """The same to the bit."""
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(np.asarray(a), np.asarray(b)), a, b)
    return True


KERNELS = {}


def kernel(name="adam"):
    if name not in KERNELS:
        make, update, options = LEARNERS[name]
        KERNELS[name] = Kernel(make, update, loss=sg.losses.mse, **options)
    return KERNELS[name]


def fleet(name="adam", **options):
    return sg.Fleet.of(kernel(name), **options)


QUICK = {"adam"}  # a fleet keeps the state of any update as arrays: one stands for all
EACH = [name if name in QUICK else pytest.param(name, marks=pytest.mark.full) for name in LEARNERS]


@pytest.mark.parametrize("name", EACH)
def test_a_fleet_is_a_dictionary_of_learners(name):
    make, update, options = LEARNERS[name]
    stream = rows(120)
    expected, models = dictionary(make, update, options, stream)
    some = fleet(name, slots=5)
    parts = [some.update(*taken(stream, slice(k, k + 40))) for k in range(0, 120, 40)]
    out = jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)
    np.testing.assert_allclose(out.prediction, expected.prediction, rtol=1e-9, atol=1e-10)
    np.testing.assert_allclose(out.loss, expected.loss, rtol=1e-9, atol=1e-10)
    np.testing.assert_array_equal(out.learned, expected.learned)
    assert len(some) == len(models) and set(some) == set(models)
    for key, model in models.items():
        weights = zip(jax.tree.leaves(some[key]), jax.tree.leaves(model), strict=True)
        for mine, its in weights:
            if hasattr(its, "dtype"):
                np.testing.assert_allclose(mine, its, rtol=1e-9, atol=1e-10)

    # Not a bit depends on how rows come together, on slots, on what went to the store, or on other keys.
    stream = rows(60, seed=1)
    whole = fleet(name).update(*stream)
    alone = fleet(name, slots=1)
    one_by_one = [alone.update(*taken(stream, slice(k, k + 1))) for k in range(60)]
    same(jax.tree.map(lambda *leaves: np.concatenate(leaves), *one_by_one), whole)
    mine = np.array([key == "a" for key in stream[0]])
    same(fleet(name).update(*taken(stream, mine)), jax.tree.map(lambda leaf: leaf[mine], whole))


def test_rows_wider_than_a_wave_and_calls_longer_than_one():
    stream = rows(1500, keys=[f"s{k}" for k in range(700)])
    whole = fleet().update(*stream)
    few = fleet(slots=300)
    parts = [few.update(*taken(stream, slice(k, k + 37))) for k in range(0, 1500, 37)]
    same(jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts), whole)
    assert len(few) == len(set(stream[0]))


def test_a_store_keeps_states_and_offset_together(tmp_path):
    stream, file = rows(90), tmp_path / "fleet.db"
    whole = fleet()
    expected = whole.update(*stream)
    with fleet(store=file, slots=3) as first:
        assert first.offset is None
        first.update(*taken(stream, slice(0, 50)))
        first.commit(offset={"row": 50})
        first.update(*taken(stream, slice(50, 70)))  # never committed: never happened
    with fleet(store=file, slots=4) as second:
        assert second.offset == {"row": 50} and len(second) == len(set(stream[0][:50]))
        out = second.update(*taken(stream, slice(50, 90)))
        same(out, jax.tree.map(lambda leaf: leaf[50:], expected))
        second.commit()
        assert second.offset == {"row": 50}
        for key in set(stream[0]):
            assert second.state(key) == whole.state(key)


def test_a_prediction_changes_nothing_and_is_that_of_the_learner():
    stream = rows(60)
    some = fleet(slots=3)
    some.update(*stream)
    before = {key: some.state(key) for key in some}
    asked = [*before, "never seen", "a"]
    xs = np.random.default_rng(2).normal(size=(len(asked), 2))
    ys = some.predict(asked, xs)
    assert "never seen" not in some and len(some) == len(before)
    assert {key: some.state(key) for key in some} == before
    learned = some.update(asked, xs, np.zeros((len(asked), 1)))
    np.testing.assert_allclose(ys[:-1], learned.prediction[:-1], rtol=1e-12, atol=1e-14)


def test_keys_come_and_go(tmp_path):
    stream = rows(60)
    some = fleet(slots=3, store=tmp_path / "fleet.db")
    some.update(*stream)
    some.commit()
    born = naive.newborn(lru, "a")
    assert "a" in some and 1 in some and b"a" in some and "never" not in some and -8 not in some
    with pytest.raises(KeyError):
        some.drop(["a", "never"])
    assert "a" in some
    count = len(some)
    some.drop(["a", 1, b"a"])
    assert len(some) == count - 3 and "a" not in some and "1" in some
    with pytest.raises(KeyError):
        some["a"]
    some.update(["a"], np.ones((1, 2)), np.full((1, 1), np.nan))  # learns nothing: the model as it is born
    same(jax.tree.map(jnp.asarray, jax.tree.leaves(some["a"])), jax.tree.map(jnp.asarray, jax.tree.leaves(born)))


def test_keys_of_arrays_and_what_is_no_key():
    xs, targets = np.ones((2, 2)), np.ones((2, 1))
    some = fleet()
    some.update(np.array([1, 2]), xs, targets)
    some.update(np.array(["a", "b"]), xs, targets)
    some.update(np.array([b"a", b"b"], object), xs, targets)
    assert list(some) == [1, 2, "a", "b", b"a", b"b"]
    for wrong in ([1.5, 2.5], [True, False], [None, "a"], [("a",), ("b",)], "ab", 3, np.ones((2, 2), int)):
        with pytest.raises(TypeError, match="key"):
            some.update(wrong, xs, targets)
    for wrong in ([2**63, 1], ["\ud800", "a"]):
        with pytest.raises(ValueError, match="key"):
            some.update(wrong, xs, targets)
    with pytest.raises(ValueError, match="3 keys, 2 inputs"):
        some.update([1, 2, 3], xs, targets)
    with pytest.raises(ValueError, match="one shape and type"):
        some.update([1, 2], np.ones((2, 3)), targets)
    assert len(some) == 6
    assert fleet().update([], np.ones((0, 2)), np.ones((0, 1))).loss.shape == (0,)


def test_warnings_name_the_keys():
    some = fleet(slots=4)
    keys = [f"k{k}" for k in range(20)]
    xs, targets = np.zeros((20, 2)), np.zeros((20, 1))
    some.update(keys, xs, targets)
    assert some.warnings() == {}
    xs[3], xs[11] = np.inf, 1e200
    some.update(keys, xs, targets)
    found = some.warnings()
    assert set(found) == {"k3", "k11"} and "skipped" in found["k3"][0]
    assert some.warnings("k3") == {"k3": found["k3"]} and some.warnings(["k4"]) == {}


def test_rows_out_of_order_are_refused_or_counted(tmp_path):
    xs, targets = np.ones((4, 2)), np.ones((4, 1))
    strict = fleet(slots=1, store=tmp_path / "a.db")
    strict.update(["a", "b", "a", "b"], xs, targets, times=[1, 7, 2, 8])
    before = {key: strict.state(key) for key in strict}
    with pytest.raises(ValueError, match=r"Row 2 of 'a' is out of order: its time 2 is not after 3"):
        strict.update(["a", "b", "a", "b"], xs, targets, times=[3, 9, 2, 10])
    with pytest.raises(TypeError, match="integers or dates"):
        strict.update(["a"] * 4, xs, targets, times=[3.0, 4.0, 5.0, 6.0])
    assert {key: strict.state(key) for key in strict} == before
    strict.commit()
    strict.close()
    late = fleet(slots=1, store=tmp_path / "a.db", late="skip")
    out = late.update(["a", "b", "a", "b"], xs, targets, times=[2, 9, 3, 9])
    assert np.isnan(out.loss).tolist() == [True, False, False, True] and late.late == 2
    plain = fleet()
    plain.update(["a", "b", "a", "b"], xs, targets)
    plain.update(["b", "a"], xs[:2], targets[:2])
    assert all(plain.state(key) == late.state(key) for key in "ab")
    dates = np.array(["2024-01-01", "2024-01-02"], "datetime64[D]")
    late.update(["d", "d"], xs[:2], targets[:2], times=dates)
    assert not late.update(["d"], xs[:1], targets[:1], times=dates[:1]).learned.any()


def test_apply_is_the_fleet_without_a_place():
    stream = rows(60)
    whole = fleet()
    expected = whole.update(*stream)
    states, outs, known = [], [], {}
    for some in (slice(0, 25), slice(25, 26), slice(26, 60)):
        keys, *arrays = taken(stream, some)
        states, out = apply(kernel(), [known.get(key) for key in keys], keys, *arrays)
        known |= zip(keys, states, strict=True)
        outs.append(out)
    same(jax.tree.map(lambda *leaves: np.concatenate(leaves), *outs), expected)
    assert all(isinstance(state, bytes) and state == whole.state(key) for key, state in known.items())
    again, out = apply(kernel(), [None, known["a"]], ["a", "a"], np.ones((2, 2)), np.ones((2, 1)))
    assert again[0] == again[1]
    with pytest.raises(ValueError, match="two states of 'a'"):
        apply(kernel(), [again[0], known["a"]], ["a", "a"], np.ones((2, 2)), np.ones((2, 1)))


def test_foreign_and_damaged_states_are_refused_by_name():
    row = np.ones((1, 2)), np.ones((1, 1))
    (state,), _ = apply(kernel(), [None], ["a"], *row)

    def refused(data, match, name="adam"):
        with pytest.raises(FleetError, match=match):
            apply(kernel(name), [data], ["a"], *row)

    refused(state, "'a' is of another learner: its settings and arrays differ", "delayed")
    refused(state, "its model and settings and arrays differ", "kalman")
    refused(state[:-1] + bytes([state[-1] ^ 1]), "'a' is damaged")
    refused(state[:-4], "'a' is damaged")
    refused(b"hello world", "no state")
    refused(b"", "no state")
    refused(state[:4] + b"\x09" + state[5:], "schema 9")
    # Schema 1 had no CRC-32.
    marks = len(kernel().codec.marks)
    old = state[:4] + b"\1" + state[5 : 5 + marks] + state[9 + marks :]
    assert apply(kernel(), [old], ["a"], *row)[0] == apply(kernel(), [state], ["a"], *row)[0]


def test_foreign_stores_are_refused_by_name(tmp_path):
    file = tmp_path / "fleet.db"
    with fleet(store=file) as some:
        some.update(*rows(10))
        some.commit(offset=10)

    def refused(match, name="adam", file=file, **options):
        with pytest.raises(FleetError, match=match):
            fleet(name, store=file, **options)

    refused(r"fleet.db is of another fleet: settings delay was 0 and is now 2", "delayed")
    refused(r"model .* was .*LRU.* and is now .*GRU", "kalman")
    with pytest.raises(FleetError, match="seed was 0 and is now 1"):
        sg.Fleet(lru, optax.adam(1e-2), loss=sg.losses.mse, seed=1, store=file)
    with fleet(store=file), pytest.raises(FleetError, match="in use by another process"):
        fleet(store=file)
    (tmp_path / "text").write_text("hello, world" * 100)
    refused("no SQLite file", file=tmp_path / "text")
    with sqlite3.connect(tmp_path / "other.db") as db:
        db.execute("CREATE TABLE mine(a)")
    db.close()
    refused("of another program", file=tmp_path / "other.db")
    db = sqlite3.connect(file, isolation_level=None)
    db.execute("PRAGMA user_version=9")
    refused("schema 9")
    # Schema 1 had no clocks.
    db.execute("ALTER TABLE states DROP COLUMN clock")
    db.execute("PRAGMA user_version=1")
    db.close()
    with fleet(store=file) as old:
        assert old.offset == 10 and len(old) == len(set(rows(10)[0]))
        old.update(["a"], np.ones((1, 2)), np.ones((1, 1)), times=[5])
        old.commit()


def test_an_interrupted_update_is_nothing_to_go_on_from(tmp_path, monkeypatch):
    some = fleet(store=tmp_path / "fleet.db", slots=2)
    some.update(*rows(20))
    some.commit(offset=20)

    def interrupt(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(kernel().programs, "wave", interrupt)
        some.update(*rows(20))
    with pytest.raises(FleetError, match="interrupted"):
        some.commit(offset=40)
    some.close()
    assert fleet(store=tmp_path / "fleet.db").offset == 20


class Tree(eqx.Module):
    """Reads a tree."""

    inner: sg.nn.Sequential

    def init(self, *, key):
        return self.inner.init(key=key)

    def __call__(self, carry, x):
        return self.inner(carry, jnp.concatenate([x["u"], x["v"]]))


def test_inputs_may_be_trees_and_a_store_knows_them(tmp_path):
    trees = Kernel(lambda key: Tree(lru(key)), optax.sgd(1e-2), loss=sg.losses.mse)
    xs = {"u": np.ones((3, 1)), "v": np.zeros((3, 1))}
    with sg.Fleet.of(trees, store=tmp_path / "f.db") as some:
        with pytest.raises(RuntimeError, match="like="):
            some.predict(list("abc"), xs)
        some.update(list("abc"), xs, np.ones((3, 1)))
        some.commit()
        ys = some.predict(list("abc"), xs)
    again = sg.Fleet(trees.make, optax.sgd(1e-2), loss=sg.losses.mse, store=tmp_path / "f.db")
    same(again.predict(list("abc"), xs), ys)
