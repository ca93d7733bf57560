"""The Learner against plain loops written here: predict, then learn, whatever is late, missing or broken."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import streamgrad as sg

KEY = jax.random.key(0)
IN, UNITS, OUT = 2, 4, 2
NAN = np.nan
mse = sg.losses.mse


def make_model(algorithm, *, before=(), beside=()):
    """A GRU and a readout; with layers before them, and layers that pass the input by."""
    layer = sg.Recurrent(sg.cells.GRU(IN, UNITS, key=KEY), algorithm)
    wide = sg.nn.Parallel([layer, *beside]) if beside else layer
    return sg.nn.Sequential([*before, wide, sg.Readout(UNITS + IN * len(beside), OUT, key=KEY)])


MODELS = {
    "plain": make_model(sg.SnAp(n=1)),
    "bptt": make_model(sg.BPTT()),
    "normalised": make_model(sg.SnAp(n=1), before=[sg.nn.Normalise(IN)]),
    "wide": make_model(sg.SnAp(n=1), beside=[lambda x: x * x]),
}
MODEL = MODELS["plain"]


@functools.cache
def learner(model="plain", optimiser=None, **options):
    """A learner; equal ones are compiled once."""
    return sg.Learner(MODELS[model], optimiser or sgd(), loss=mse, **options)


@functools.cache
def sgd(rate=0.1):
    return optax.sgd(rate)


@functools.cache
def adam():
    return optax.adam(1e-2)


def stream(steps=9, seed=0, lead=()):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(steps, *lead, IN)), rng.normal(size=(steps, *lead, OUT))


def on_device(*arrays):
    return map(jnp.asarray, arrays)


def weights(taught, st):
    return jax.tree.leaves(eqx.filter(taught.model(st), eqx.is_inexact_array))


def held(taught, st):
    """The model with its present weights, copied: the state's next step consumes them."""
    copy = lambda leaf: jnp.array(leaf, copy=True) if eqx.is_array(leaf) else leaf
    return jax.tree.map(copy, taught.model(st))


def fresh(taught):
    return taught.init(key=jax.random.key(1))


def assert_equal(got, want):
    for g, w in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_array_equal(g, w)


def assert_close(got, want):
    for g, w in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(g, w, rtol=1e-9, atol=1e-11)


# Plain loops.


@eqx.filter_jit
def gradient_of(model, carry, x, target):
    def objective(model):
        new, prediction = model(carry, x)
        return mse(prediction, target), (new, prediction)

    return eqx.filter_value_and_grad(objective, has_aux=True)(model)


def by_hand(model, optimiser, xs, targets, every=1, resets=()):
    """The model's weights and predictions from a plain loop of Equinox and Optax."""
    trained = lambda model: eqx.filter(model, eqx.is_inexact_array)
    xs, targets = on_device(xs, targets)
    carry, memory, total, predictions = model.init(key=KEY), optimiser.init(trained(model)), None, []
    for t, (x, target) in enumerate(zip(xs, targets, strict=True)):
        if t in resets:
            carry = model.init(key=KEY)
        (_, (carry, prediction)), gradient = gradient_of(model, carry, x, target)
        predictions.append(prediction)
        total = gradient if total is None else jax.tree.map(jnp.add, total, gradient)
        if (t + 1) % every == 0:
            mean = jax.tree.map(lambda g: g / every, total)
            with jax.numpy_dtype_promotion("standard"):
                updates, memory = optimiser.update(mean, memory, trained(model))
            model, total = eqx.apply_updates(model, updates), None
    return model, np.stack(predictions)


OPTIMISERS = {
    "sgd": sgd(),
    "adam": adam(),
    "clipped": optax.chain(optax.clip_by_global_norm(0.05), optax.sgd(0.5)),
    "groups": optax.multi_transform(
        {"slow": optax.sgd(1e-3), "fast": optax.adam(1e-1)},
        lambda tree: jax.tree_util.tree_map_with_path(
            lambda path, _: "fast" if "layers[1]" in jax.tree_util.keystr(path) else "slow", tree
        ),
    ),
}


@pytest.mark.parametrize("optimiser", OPTIMISERS.values(), ids=OPTIMISERS)
def test_a_learner_is_the_plain_loop(optimiser):
    """Predictions come before the update; clipping and groups are Optax's own."""
    xs, targets = stream()
    taught = learner(optimiser=optimiser)
    st, out = taught.run(fresh(taught), xs, targets)
    model, predictions = by_hand(MODEL, optimiser, xs, targets)
    assert_close(out.prediction, predictions)
    assert_close(out.loss, np.mean((predictions - targets) ** 2, axis=1))
    assert_close(weights(taught, st), jax.tree.leaves(eqx.filter(model, eqx.is_inexact_array)))
    assert out.learned.all() and st.steps == len(xs) and st.skipped == 0


def test_run_is_step_after_step():
    xs, targets = stream()
    taught = learner()
    st, outs = taught.run(fresh(taught), xs, targets)
    other, steps = fresh(taught), []
    for x, target in zip(xs, targets, strict=True):
        other, out = taught.step(other, x, target)
        steps.append(out)
    assert_close(outs, jax.tree.map(lambda *leaves: np.stack(leaves), *steps))
    assert_close(weights(taught, st), weights(taught, other))


def test_a_run_may_be_cut_anywhere():
    xs, targets = stream()
    taught = learner()
    whole, _ = taught.run(fresh(taught), xs, targets)
    st, _ = taught.run(fresh(taught), xs[:4], targets[:4])
    st, _ = taught.run(st, xs[4:], targets[4:])
    assert_close(weights(taught, st), weights(taught, whole))


def test_update_every_averages():
    xs, targets = stream()
    taught = learner(update_every=3)
    st, out = taught.run(fresh(taught), xs, targets)
    model, predictions = by_hand(MODEL, sgd(), xs, targets, every=3)
    assert_close(out.prediction, predictions)
    assert_close(weights(taught, st), jax.tree.leaves(eqx.filter(model, eqx.is_inexact_array)))


def test_update_every_averages_the_targets_that_came():
    """Of three steps one has no target: the mean is over two, of a learner that sees the gap as well."""
    xs, targets = stream(3)
    targets[1] = NAN
    taught = learner(update_every=3)
    st, _ = taught.run(fresh(taught), xs, targets)
    carry, gradients = MODEL.init(key=KEY), []
    for x, target in zip(*on_device(xs, np.nan_to_num(targets)), strict=True):
        (_, (carry, _)), gradient = gradient_of(MODEL, carry, x, target)
        gradients.append(gradient)
    model = eqx.apply_updates(MODEL, jax.tree.map(lambda a, b: -0.1 * (a + b) / 2, gradients[0], gradients[2]))
    assert_close(weights(taught, st), jax.tree.leaves(eqx.filter(model, eqx.is_inexact_array)))


# Backpropagation through time, by window.


def test_bptt_learns_from_the_gradient_of_its_window():
    xs, targets = stream(6)
    taught = learner("bptt", update_every=3)
    st, out = taught.run(fresh(taught), xs, targets)
    model, (xs, targets) = MODELS["bptt"], on_device(xs, targets)
    carry = model.init(key=KEY)
    for start in (0, 3):

        def objective(model, carry=carry, start=start):
            losses = []
            for t in range(start, start + 3):
                carry, prediction = model(carry, xs[t])
                losses.append(mse(prediction, targets[t]))
            return sum(losses) / 3, (carry, losses)

        gradient, (carry, losses) = eqx.filter_grad(objective, has_aux=True)(model)
        assert_close([*out.loss[start : start + 3]], losses)
        model = eqx.apply_updates(model, jax.tree.map(lambda g: -0.1 * g, gradient))
    assert_close(weights(taught, st), jax.tree.leaves(eqx.filter(model, eqx.is_inexact_array)))


def test_bptt_refuses_windows_of_one():
    with pytest.raises(ValueError, match=r"update_every=1 .* one-step truncation.*TBPTT"):
        sg.Learner(MODELS["bptt"], sgd(), loss=mse)


def test_bptt_windows_cut_at_resets():
    """Two episodes in one window: the second one knows nothing of the first."""
    xs, targets = stream(4)
    taught = learner("bptt", update_every=4)
    st, _ = taught.run(fresh(taught), xs, targets, resets=np.array([True, False, True, False]))
    other = learner("bptt", update_every=2, optimiser=sgd(1e-12))
    _, apart = other.run(fresh(other), xs, targets, resets=np.array([True, False, True, False]))
    st2, out = taught.run(fresh(taught), xs, targets, resets=np.array([False, False, True, False]))
    assert_close(out.loss, apart.loss)
    assert_close(weights(taught, st), weights(taught, st2))


# Missing targets.


def test_a_missing_target_teaches_nothing_but_the_state_advances():
    xs, targets = stream()
    gap = targets.copy()
    gap[4] = NAN
    taught = learner()
    before, _ = taught.run(fresh(taught), xs[:4], targets[:4])
    kept = [np.array(leaf) for leaf in weights(taught, before)]
    st, out = taught.step(before, xs[4], gap[4])
    assert_equal(weights(taught, st), kept)
    assert np.isnan(out.loss) and not out.learned and st.skipped == 0
    assert np.isfinite(out.prediction).all()
    # The state has advanced: the next prediction is that of the same weights after all inputs.
    model, carry = MODEL, MODEL.init(key=KEY)
    for x, target in zip(*on_device(xs[:4], targets[:4]), strict=True):
        (_, (carry, _)), gradient = gradient_of(model, carry, x, target)
        model = eqx.apply_updates(model, jax.tree.map(lambda g: -0.1 * g, gradient))
    for x in jnp.asarray(xs[4:6]):
        carry, want = model(carry, x)
    _, later = taught.step(st, xs[5], targets[5])
    assert_close(later.prediction, want)


@pytest.mark.parametrize("missing", [NAN, np.inf, -np.inf])
def test_a_partly_missing_target_is_scored_on_the_rest(missing):
    xs, targets = stream(1)
    taught = learner()
    st, out = taught.step(fresh(taught), xs[0], np.array([targets[0, 0], missing]))
    prediction = MODEL(MODEL.init(key=KEY), jnp.asarray(xs[0]))[1]
    assert_close(out.loss, (prediction[0] - targets[0, 0]) ** 2)
    readout = taught.model(st).layers[1]
    assert_equal(readout.weight[1], MODEL.layers[1].weight[1])
    assert not np.array_equal(readout.weight[0], MODEL.layers[1].weight[0])


def test_integer_targets_are_missing_where_negative():
    taught = sg.Learner(MODEL, sgd(), loss=sg.losses.cross_entropy)
    st = fresh(taught)
    st, out = taught.step(st, np.ones(IN), np.array(-1))
    assert np.isnan(out.loss) and not out.learned
    assert_equal(weights(taught, st), jax.tree.leaves(eqx.filter(MODEL, eqx.is_inexact_array)))
    st, out = taught.step(st, np.ones(IN), np.array(1))
    assert out.learned and np.isfinite(out.loss)


# Steps that are not finite.


@pytest.mark.parametrize("bad", [NAN, np.inf, 1e200])
def test_a_bad_input_is_skipped_counted_and_kept_out_of_the_carry(bad):
    """1e200: finite, but its loss or its gradient is not (the readout sees it too)."""
    taught = learner("wide")
    xs, targets = stream()
    st, _ = taught.run(fresh(taught), xs[:3], targets[:3])
    now = held(taught, st)
    st, out = taught.step(st, np.array([bad, 0.0]), targets[3])
    assert not out.learned and st.skipped == 1 and st.steps == 4
    assert_equal(weights(taught, st), jax.tree.leaves(eqx.filter(now, eqx.is_inexact_array)))
    # The next step starts anew, as the first step of a learner with these weights.
    st, out = taught.step(st, xs[4], targets[4])
    assert_close(out.prediction, now(now.init(key=KEY), jnp.asarray(xs[4]))[1])
    assert out.learned and st.skipped == 1
    assert all(np.isfinite(leaf).all() for leaf in weights(taught, st))


def test_a_gradient_that_is_not_finite_is_skipped():
    def loss(prediction, target):
        return jnp.sum(jnp.sqrt(jnp.abs(prediction - target)))  # finite, its gradient infinite at zero

    taught = sg.Learner(MODEL, sgd(), loss=loss)
    prediction = taught.predict(fresh(taught), np.ones(IN))
    st, out = taught.step(fresh(taught), np.ones(IN), np.asarray(prediction))
    assert np.isfinite(out.loss) and not out.learned and st.skipped == 1
    assert_equal(weights(taught, st), jax.tree.leaves(eqx.filter(MODEL, eqx.is_inexact_array)))


def test_a_bad_stream_leaves_the_carry_of_the_others_alone():
    xs, targets = stream(4, lead=(2,))
    bad = xs.copy()
    bad[1, 0] = NAN
    taught = learner(streams=2, optimiser=sgd(1e-12))
    _, clean = taught.run(fresh(taught), xs, targets)
    st, out = taught.run(fresh(taught), bad, targets)
    assert st.skipped == 1
    assert_close(out.prediction[:, 1], clean.prediction[:, 1])
    assert np.isfinite(out.prediction[2:]).all()


def test_one_nan_label_does_not_poison():
    xs, targets = stream(6)
    targets[2] = NAN
    taught = learner(optimiser=adam())
    st, out = taught.run(fresh(taught), xs, targets)
    assert all(np.isfinite(leaf).all() for leaf in weights(taught, st))
    assert np.isfinite(out.prediction).all() and out.learned.tolist() == [True, True, False, True, True, True]


# Predictions ask, they do not teach.


@pytest.mark.parametrize("options", [{}, {"delay": 2}], ids=["now", "late"])
def test_predict_changes_nothing(options):
    xs, targets = stream()
    taught = learner(**options)
    st, _ = taught.run(fresh(taught), xs[:5], targets[:5])
    before = [np.array(a) for a in st.arrays]
    first = taught.predict(st, xs[5])
    assert_equal(taught.predict(st, xs[5]), first)
    assert_equal(st.arrays, before)
    # It is what the next step predicts when that step brings no target.
    _, out = taught.step(st, xs[5], np.full(OUT, NAN))
    assert_close(out.prediction, first)


@pytest.mark.parametrize("delay", [0, 2])
def test_predict_agrees_with_the_next_step_after_a_bad_one(delay):
    xs, targets = stream()
    xs[1, 0] = NAN
    taught = learner(delay=delay)
    st, _ = taught.run(fresh(taught), xs[: 2 + delay], targets[: 2 + delay])
    first = taught.predict(st, xs[5])
    _, out = taught.step(st, xs[5], np.full(OUT, NAN))
    assert np.isfinite(first).all()
    assert_close(out.prediction, first)


# Late targets.


def late_by_hand(xs, targets, delay, resets=()):
    """A learning copy on x_{t-delay} with the target that comes at t, and a serving one on x_t."""
    xs, targets = on_device(xs, targets)
    model, learning, serving = MODEL, MODEL.init(key=KEY), MODEL.init(key=KEY)
    predictions = []
    for t, x in enumerate(xs):
        if (past := t - delay) >= 0:
            if past in resets:
                learning = model.init(key=KEY)
            (_, (learning, _)), gradient = gradient_of(model, learning, xs[past], targets[t])
            if not any(past < r <= t for r in resets):  # of a pair that no boundary parts
                model = eqx.apply_updates(model, jax.tree.map(lambda g: -0.1 * g, gradient))
        if t in resets:
            serving = model.init(key=KEY)
        serving, prediction = model(serving, x)
        predictions.append(prediction)
    return model, np.stack(predictions)


@pytest.mark.parametrize(("delay", "resets"), [(2, ()), (2, (4,)), (2, (3, 5)), (3, (4, 5))])
def test_late_targets_teach_a_copy_that_runs_behind(delay, resets):
    xs, targets = stream()
    taught = learner(delay=delay)
    flags = np.isin(np.arange(len(xs)), resets)
    st, out = taught.run(fresh(taught), xs, targets, resets=flags)
    model, predictions = late_by_hand(xs, targets, delay, resets)
    assert_close(out.prediction, predictions)
    assert_close(weights(taught, st), jax.tree.leaves(eqx.filter(model, eqx.is_inexact_array)))
    # A target is scored against the prediction that was made for it, when it was made.
    apart = [t < delay or any(t - delay < r <= t for r in resets) for t in range(len(xs))]
    np.testing.assert_array_equal(out.learned, ~np.array(apart))
    scores = np.mean((np.roll(predictions, delay, axis=0) - targets) ** 2, axis=1)
    assert_close(out.loss, np.where(apart, NAN, scores))


def test_late_steps_one_by_one_are_the_run():
    xs, targets = stream()
    taught = learner(delay=2)
    _, outs = taught.run(fresh(taught), xs, targets)
    st = fresh(taught)
    for t, (x, target) in enumerate(zip(xs, targets, strict=True)):
        st, out = taught.step(st, x, target)
        assert_close(out.prediction, outs.prediction[t])


@pytest.mark.parametrize("delay", [0, 2])
def test_nothing_is_seen_before_it_comes(delay):
    """Changing what comes from step 5 on changes no earlier prediction; the target of step 5 none but later ones."""
    xs, targets = stream()
    other_xs, other_targets = xs.copy(), targets.copy()
    other_xs[6:] += 1
    other_targets[5:] += 1
    taught = learner(delay=delay)
    _, out = taught.run(fresh(taught), xs, targets)
    _, other = taught.run(fresh(taught), other_xs, other_targets)
    first = 5 if delay else 6  # without delay a prediction comes before its own target
    assert_equal(other.prediction[:first], out.prediction[:first])
    assert not np.any(np.isclose(other.prediction[first], out.prediction[first], rtol=1e-9))


# Episodes and streams.


def test_a_reset_begins_anew_and_keeps_running_statistics():
    xs, targets = stream()
    taught = learner("normalised")
    resets = np.arange(len(xs)) == 5
    st, out = taught.run(fresh(taught), xs, targets, resets=resets)
    moments = st.memory.carry[0]
    assert moments.count.tolist() == [len(xs)] * IN
    np.testing.assert_allclose(moments.mean, xs.mean(0), rtol=1e-3)
    # Without normalisation: exactly the loop that starts from zero at the boundary.
    taught = learner()
    _, out = taught.run(fresh(taught), xs, targets, resets=resets)
    assert_close(out.prediction, by_hand(MODEL, sgd(), xs, targets, resets={5})[1])


def test_a_reset_of_one_stream():
    xs, targets = stream(4, lead=(2,))
    taught = learner(streams=2, optimiser=sgd(1e-12))
    resets = np.zeros((4, 2), bool)
    resets[2, 0] = True
    _, plain = taught.run(fresh(taught), xs, targets)
    _, out = taught.run(fresh(taught), xs, targets, resets=resets)
    assert_close(out.prediction[:, 1], plain.prediction[:, 1])
    assert_close(out.prediction[:2], plain.prediction[:2])
    assert not np.allclose(out.prediction[2, 0], plain.prediction[2, 0])


def test_streams_share_weights_and_average_gradients():
    """A batch is streams side by side: carries of their own, one update from the mean gradient."""
    xs, targets = stream(5, lead=(3,))
    targets[2, 1] = NAN  # a stream without a target counts neither way
    taught = learner(streams=3)
    st, out = taught.run(fresh(taught), xs, targets)
    model, carries = MODEL, [MODEL.init(key=KEY)] * 3
    here, known = on_device(xs, np.nan_to_num(targets))
    for t in range(5):
        gradients = []
        for b in range(3):
            (_, (carries[b], prediction)), gradient = gradient_of(model, carries[b], here[t, b], known[t, b])
            assert_close(out.prediction[t, b], prediction)
            if not np.isnan(targets[t, b]).any():
                gradients.append(gradient)
        mean = jax.tree.map(lambda *g: sum(g) / len(g), *gradients)
        model = eqx.apply_updates(model, jax.tree.map(lambda g: -0.1 * g, mean))
    assert_close(weights(taught, st), jax.tree.leaves(eqx.filter(model, eqx.is_inexact_array)))
    np.testing.assert_array_equal(out.learned, ~np.isnan(targets).any(-1))


# The state.


def test_a_state_is_consumed():
    xs, targets = stream()
    taught = learner()
    st = fresh(taught)
    taught.step(st, xs[0], targets[0])
    assert any(array.is_deleted() for array in st.arrays)
    with pytest.raises((RuntimeError, ValueError), match="deleted"):
        taught.step(st, xs[0], targets[0])


def test_the_users_model_survives():
    xs, targets = stream()
    taught = learner()
    before = [np.array(leaf) for leaf in jax.tree.leaves(eqx.filter(MODEL, eqx.is_inexact_array))]
    taught.step(fresh(taught), xs[0], targets[0])
    assert_equal(jax.tree.leaves(eqx.filter(MODEL, eqx.is_inexact_array)), before)


FOUR = 4
BAD = {
    "input": (lambda t, st: t.step(st, np.ones(FOUR), np.ones(OUT)), r"shape \(2,\), got \(4,\)"),
    "target": (lambda t, st: t.step(st, np.ones(IN), np.ones(FOUR)), r"predicts shape \(2,\), .* shape \(4,\)"),
    "scalar target": (lambda t, st: t.step(st, np.ones(IN), np.ones(())), r"shape \(\): make them equal"),
    "lengths": (lambda t, st: t.run(st, np.ones((5, IN)), np.ones((4, OUT))), "5 xs, 4 targets"),
    "resets": (lambda t, st: t.run(st, *stream(5), resets=np.zeros(3, bool)), "5 targets, 3 resets"),
    "nothing": (lambda t, st: t.run(st, np.ones((0, IN)), np.ones((0, OUT))), "at least one step"),
}


@pytest.mark.parametrize(("call", "said"), BAD.values(), ids=BAD)
def test_bad_shapes_are_refused_before_anything_is_consumed(call, said):
    taught = learner()
    xs, targets = stream()
    st, _ = taught.run(fresh(taught), xs, targets)
    with pytest.raises(ValueError, match=said):
        call(taught, st)
    assert not any(array.is_deleted() for array in st.arrays)
    taught.step(st, xs[0], targets[0])


@pytest.mark.parametrize("options", [{}, {"delay": 2}], ids=["now", "late"])
def test_a_state_made_for_its_shapes_never_changes_its_structure(options):
    xs, targets = stream()
    taught = learner(**options)
    st = taught.init(key=jax.random.key(1), like=(xs[0], targets[0]))
    structure = jax.tree.structure(st)
    st, out = taught.step(st, xs[0], targets[0])
    assert jax.tree.structure(st) == structure
    _, want = taught.step(fresh(taught), xs[0], targets[0])
    assert_equal(out, want)


def test_streams_need_their_axis():
    taught = learner(streams=3)
    with pytest.raises(ValueError, match=r"3 streams expects .* leading axis of that length, got shapes \(2,\)"):
        taught.step(fresh(taught), np.ones(IN), np.ones((3, OUT)))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (dict(update_every=0), "update_every must be an integer >= 1, got 0"),
        (dict(delay=-1), "delay must be an integer >= 0, got -1"),
        (dict(streams=0), "streams must be None or an integer >= 1, got 0"),
    ],
)
def test_bad_options_are_refused(options, said):
    with pytest.raises(ValueError, match=said):
        sg.Learner(MODEL, sgd(), loss=mse, **options)


RESUMED = {
    "plain": dict(optimiser=adam()),
    "late": dict(delay=2),
    "averaged": dict(update_every=3),
    "window": dict(model="bptt", update_every=3),
    "streams": dict(streams=2, delay=1),
}


@pytest.mark.parametrize("options", RESUMED.values(), ids=RESUMED)
def test_a_restored_state_goes_on_bit_by_bit(options):
    lead = (options["streams"],) if "streams" in options else ()
    xs, targets = stream(lead=lead)
    taught = learner(**options)
    st, _ = taught.run(fresh(taught), xs[:4], targets[:4])
    leaves, treedef = jax.tree.flatten(st)
    saved = [np.array(leaf) for leaf in leaves]
    straight = taught.run(st, xs[4:], targets[4:])
    restored = jax.tree.unflatten(treedef, [jnp.asarray(leaf) for leaf in saved])
    assert_equal(taught.run(restored, xs[4:], targets[4:]), straight)


def test_a_restored_state_goes_on_in_another_learner():
    xs, targets = stream()
    taught = learner(delay=2)
    st, _ = taught.run(fresh(taught), xs, targets)
    leaves, treedef = jax.tree.flatten(st)
    restored = jax.tree.unflatten(treedef, [jnp.array(leaf, copy=True) for leaf in leaves])
    again = sg.Learner(MODEL, sgd(), loss=mse, delay=2)
    assert_equal(again.run(restored, xs, targets), taught.run(st, xs, targets))


@pytest.mark.parametrize("options", [{}, {"delay": 2}], ids=["now", "late"])
def test_a_learner_works_under_the_users_own_jit(options):
    xs, targets = stream()
    taught = learner(**options)
    _, want = taught.run(fresh(taught), xs, targets)
    st, _ = taught.step(fresh(taught), xs[0], targets[0])
    _, got = jax.jit(taught.run)(st, xs[1:], targets[1:])
    assert_close(got.prediction, want.prediction[1:])
