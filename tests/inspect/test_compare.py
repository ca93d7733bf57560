"""`sg.compare`: what its figures are, on a cell where they are known."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import streamgrad as sg
from streamgrad.cli.compare import main
from streamgrad.inspect._compare._compare import _check

KEY = jax.random.key(0)
XS = jnp.sin(0.3 * jnp.arange(161.0))[:, None]


def of(cell=None, algorithms=None, xs=XS, **options):
    cell = cell or (lambda key: sg.cells.LSTM(1, 3, wiring=sg.wiring.Columns(), key=key))
    algorithms = {"SnAp-1": sg.SnAp(1), "UORO": sg.UORO()} if algorithms is None else algorithms
    return sg.compare(cell, algorithms, xs, key=KEY, rates=(1e-2, 3e-2), seeds=2, steps=16, **options)


@pytest.fixture(scope="module")
def found():
    """Of algorithms that fit, of one that does not, and of one that learns on the way."""
    return of(algorithms={"SnAp-1": sg.SnAp(1), "UORO": sg.UORO(), "KeRNL": sg.KeRNL(), "DNI": sg.DNI()})


def by_name(found):
    return {row.name: row for row in found.rows}


def test_exact_gradients_have_cosine_and_ratio_one(found):
    rows = by_name(found)
    for name in ("SnAp-1", "BPTT"):  # columns: SnAp-1 is exact
        assert rows[name].bias == "exact"
        np.testing.assert_allclose(rows[name].gradient.cosines, 1, rtol=1e-9)
        np.testing.assert_allclose(rows[name].gradient.ratios, 1, rtol=1e-9)
    assert rows["UORO"].bias == "unbiased"
    assert max(rows["UORO"].gradient.cosines) < 0.999
    assert rows["Frozen"].gradient.ratios == (0.0, 0.0)


def test_cosine_and_ratio_are_those_of_the_two_gradients(found):
    """Of Spatial, from check_gradients' own two gradients: written out here for one seed."""
    key = jax.random.split(KEY, 2)[0]
    key_cell, key_out = jax.random.split(key)
    cell = sg.cells.LSTM(1, 3, wiring=sg.wiring.Columns(), key=key_cell)
    readout = sg.Readout(3, 1, key=key_out)

    def losses(cell, stop):
        state, total = cell.init_state(), 0.0
        for t in range(16):
            x, target = XS[t], XS[t + 1]
            h = jax.lax.stop_gradient(state) if stop else state
            state = cell(h, x)
            total += jnp.mean((readout(cell.output(state, x)) - target) ** 2)
        return total

    flat = lambda tree: np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])
    tree = jax.grad(lambda p: losses(p, False))(cell)
    one = jax.grad(lambda p: losses(p, True))(cell)
    one = jax.tree_util.tree_map_with_path(lambda path, g: 0 * g if "weight_h" in str(path) else g, one)
    want, got = flat(tree), flat(one)
    row = by_name(found)["Spatial"]
    np.testing.assert_allclose(row.gradient.cosines[0], got @ want / np.linalg.norm(got) / np.linalg.norm(want))
    np.testing.assert_allclose(row.gradient.ratios[0], np.linalg.norm(got) / np.linalg.norm(want))


def test_late_loss_is_a_learners_own(found):
    row = by_name(found)["SnAp-1"]
    key = jax.random.split(KEY, 2)[1]
    key_cell, key_out = jax.random.split(key)
    cell = sg.cells.LSTM(1, 3, wiring=sg.wiring.Columns(), key=key_cell)
    model = sg.nn.Sequential([sg.Recurrent(cell, sg.SnAp(1)), sg.Readout(3, 1, key=key_out)])
    learner = sg.Learner(model, optax.adam(row.rate), loss=sg.losses.mse)
    losses = learner.run(learner.init(key=jax.random.fold_in(key, 2)), XS[:-1], XS[1:])[1].loss
    np.testing.assert_allclose(row.losses[1], losses[80:].mean(), rtol=1e-9)


def test_floors_are_there(found):
    rows = by_name(found)
    np.testing.assert_allclose(rows["last target"].losses, np.mean((XS[80:160] - XS[81:161]) ** 2))
    assert rows["RLS on the input"].losses[0] < rows["last target"].losses[0]
    assert {"Spatial", "Frozen", "BPTT", "LMS on the input"} <= set(rows)


def test_table_and_dictionary(found, tmp_path):
    text = str(found)
    assert "µs a step" in text and "cosine" in text and "UORO" in text
    assert max(len(line) for line in text.splitlines() if "left out" not in line) < 140
    assert json.loads(json.dumps(found.as_dict()))["rows"][0]["name"] == "SnAp-1"
    pytest.importorskip("matplotlib")
    assert found.figure(tmp_path / "found.png").stat().st_size > 10_000


def test_what_does_not_fit_is_listed_with_the_reason(found):
    assert "one real state entry" in by_name(found)["KeRNL"].refused
    assert "left out: KeRNL" in str(found)


def test_missing_targets_are_left_out_of_losses_and_gradients(found):
    targets = XS[1:].at[3].set(jnp.nan).at[120].set(jnp.nan)
    rows = by_name(of(xs=XS[:-1], targets=targets, algorithms={"SnAp-1": sg.SnAp(1)}))
    np.testing.assert_allclose(rows["SnAp-1"].gradient.cosines, 1, rtol=1e-9)
    assert np.isfinite(rows["BPTT"].losses).all() and np.isfinite(rows["last target"].losses).all()
    assert rows["SnAp-1"].losses != by_name(found)["SnAp-1"].losses


def test_what_learns_on_the_way_has_no_gradient_to_begin_with(found):
    row = by_name(found)["DNI"]
    assert row.gradient is None and row.losses is not None


def test_classes_have_their_own_loss():
    labels = (jnp.arange(161) % 3).astype(jnp.int32).at[5].set(-1)  # one is missing
    loss = lambda y, label: -jax.nn.log_softmax(y)[label]
    found = of(algorithms={}, targets=labels, loss=loss)
    assert "last target" not in by_name(found)
    assert np.isfinite(by_name(found)["BPTT"].losses).all()
    assert np.isfinite(by_name(found)["BPTT"].gradient.cosines).all()


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: of(xs=jnp.ones((160, 2))), ValueError, r"\(time, 1\)"),
        (lambda: of(xs=XS[:20]), ValueError, "at least 32 steps"),
        (lambda: of(targets=jnp.ones(161)), ValueError, "integers"),
        (lambda: of(targets=jnp.ones((5, 1))), ValueError, "161 inputs"),
        (lambda: of(cell=lambda key: 3), TypeError, "a function of a key"),
        (lambda: of(cell=sg.cells.GRU), TypeError, "units"),
        (lambda: of(xs=XS.at[7].set(jnp.nan)), ValueError, "at step 7"),
        (lambda: _check([sg.UORO()], optax.adam, (1e-3,), window=4), TypeError, "by name"),
        (lambda: of(algorithms={"U": sg.UORO}), TypeError, "'U'"),
        (lambda: of(algorithms={"BPTT": sg.SnAp(1)}), ValueError, "taken"),
        (lambda: of(algorithms={"last target": sg.SnAp(1)}), ValueError, "taken"),
        (lambda: _check(None, optax.adam(1e-3), (1e-3,), window=4), TypeError, "function of the rate"),
        (lambda: sg.compare(sg.cells.GRU(1, 2, key=KEY), None, XS, key=KEY, rates=()), ValueError, "rates"),
        (lambda: sg.compare(sg.cells.GRU(1, 2, key=KEY), None, XS, key=KEY, rates=(0.1, -1.0)), ValueError, "positive"),
        (lambda: sg.compare(sg.cells.GRU(1, 2, key=KEY), None, XS, key=KEY, seeds=0), ValueError, "seeds"),
        (lambda: sg.compare(sg.cells.GRU(1, 2, key=KEY), None, XS, key=KEY, steps=-3), ValueError, "steps"),
        (lambda: sg.compare(sg.cells.GRU(1, 2, key=KEY), None, XS, key=KEY, window=1), ValueError, "window"),
    ],
)
def test_bad_input_is_refused_early(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_the_command_writes_table_and_picture(tmp_path, capsys):
    source = tmp_path / "a.csv"
    source.write_text("t,v\n" + "\n".join(f"{k},{np.sin(k / 3):.4f}" for k in range(120)))
    command = [str(source), "--columns", "v", "--algorithms", "uoro", "--units", "2"]
    small = ["--seeds", "1", "--steps", "8", "--rates", "0.01", "--out", str(tmp_path / "out")]
    status = main([*command, *small])
    assert status == 0, capsys.readouterr().err
    assert "uoro" in capsys.readouterr().out
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"algorithms.json", "algorithms.png"}
    assert main([str(source), "--columns", "w"]) == 2
    assert "'w'" in capsys.readouterr().err
    assert main([str(source), "--columns", "v", "--algorithms", "magic"]) == 2
    assert "there is no algorithm 'magic'" in capsys.readouterr().err
