"""TD(λ) against what it should be: columns in plain NumPy, the forward view, and plain loops over the model."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from columnar_reference import Reference, Settings

import streamgrad as sg
from streamgrad import checkpoint
from streamgrad._cpu.order import ordered
from streamgrad._cpu.ordered_loop import Compiled

KEY = jax.random.key(0)
NAN = np.nan


def assert_equal(got, want):
    for g, w in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        if jnp.issubdtype(g.dtype, jax.dtypes.prng_key):
            g, w = jax.random.key_data(g), jax.random.key_data(w)
        np.testing.assert_array_equal(g, w)


def assert_close(got, want, tolerance=1e-10):
    for g, w in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(g, w, rtol=tolerance, atol=tolerance)


def arrays(st):
    return eqx.filter(st, eqx.is_array)


def copied(tree):
    return jax.tree.map(lambda leaf: jnp.array(leaf, copy=True) if eqx.is_array(leaf) else leaf, tree)


def weights(model):
    return eqx.filter(model, eqx.is_inexact_array)


def assert_finite(tree):
    for leaf in jax.tree.leaves(eqx.filter(tree, eqx.is_inexact_array)):
        assert np.isfinite(leaf).all()


# Columns, against NumPy.

INPUTS, SEGMENT = 3, 30


def normalise(size, settings):
    return sg.nn.Normalise(size, decay=settings.decay, prior=settings.prior, floor=settings.floor, clip=np.inf)


@functools.cache
def stage_of(settings):
    def stage(in_size, units, *, key):
        cell = sg.cells.LSTM(in_size, units, wiring=sg.wiring.Columns(), key=key)
        return sg.nn.Sequential([normalise(in_size, settings), sg.Recurrent(cell, sg.SnAp(1))])

    return stage


# Columnar: all units at once, statistics without a prior. The others grow before step 30, the last before 60 as well.
CASES = {
    "columnar": (dict(units=2, per_stage=2), Settings(prior=0.0)),
    "constructive": (dict(units=2, per_stage=1), Settings(start=0.5, gamma=0.8, alpha=0.1)),
    "columnar-constructive": (dict(units=5, per_stage=2, every=SEGMENT), Settings(start=0.1, alpha=5e-2)),
}


@functools.cache
def columns(case):
    """A learner of columns; the columnar-constructive one grows by itself."""
    sizes, s = CASES[case]
    first = sizes["per_stage"]
    net = sg.nn.Constructive(stage_of(s), INPUTS, **sizes, key=jax.random.key(3))
    model = sg.nn.Sequential([net, normalise(first, s), sg.Readout(first, 1, scale=0.0, key=KEY)])
    optimiser = sg.optimisers.rmsprop(s.alpha, decay=s.moment, initial=s.start, eps=s.eps)
    return sg.td.TDLambda(model, optimiser, gamma=s.gamma, lam=s.lam)


@functools.cache
def bits(steps=3 * SEGMENT):
    """Inputs of different scales, and a cumulant that they foretell."""
    rng = np.random.default_rng(0)
    xs = rng.normal(size=(steps, INPUTS)) * [1, 5, 0.2] + [0, 2, 0]
    xs[:, 0] = rng.random(steps) < 0.2
    cumulants = np.roll(xs[:, :1], 2, axis=0) + 0.1 * rng.normal(size=(steps, 1))
    return xs, cumulants


def segment(k):
    xs, cumulants = bits()
    return xs[k * SEGMENT : (k + 1) * SEGMENT], cumulants[k * SEGMENT : (k + 1) * SEGMENT]


def by_column(cell):
    """Parameters of a bank of columns, or what is kept for each: (columns, 4, inputs + 2)."""
    x, h, b = map(np.asarray, (cell.weight_x, cell.weight_h, cell.bias))
    return np.concatenate([x.transpose(2, 1, 0), h.transpose(2, 1, 0), b.T[..., None]], axis=2)


def newest(tree):
    return by_column(tree.layers[0].stages[-1].layers[1].cell)


def assert_as_the_reference(st, reference):
    kept = {"value": st.model, "eligibility": st.trace, "moment": st.optimiser[0].nu}
    for name, tree in kept.items():
        of = lambda part: getattr(part, name)  # noqa: B023
        assert_close(newest(tree), np.stack([of(column.weights) for column in reference.newest]))
        assert_close(tree.layers[2].weight[0], of(reference.readout))
        assert_close(tree.layers[2].bias[0], of(reference.bias))
    for k, stage in enumerate(st.model.layers[0].stages[:-1]):
        assert jax.tree.leaves([tree.layers[0].stages[k] for tree in (st.trace, st.optimiser[0].nu)]) == []
        fixed = np.stack([column.weights.value for column in reference.stages[k]])
        assert_close(by_column(stage.layer.layers[1].cell), fixed)
    for k, (own, statistics) in enumerate(zip(st.carry[0].stages, reference.statistics, strict=True)):
        assert_close([own[0].mean, own[0].variance], [statistics.mean, statistics.variance])
        state = [[column.c for column in reference.stages[k]], [column.h for column in reference.stages[k]]]
        assert_close(own[1].state, np.array(state))
    assert_close([st.carry[1].mean, st.carry[1].variance], [reference.features.mean, reference.features.variance])


@pytest.mark.parametrize("case", CASES)
def test_columns_are_those_of_the_written_equations(case):
    learner, reference = columns(case), Reference(INPUTS, CASES[case][1])
    st = learner.init(key=KEY)
    for k in range(3):
        if grows := k > 0 and not st.model.layers[0].complete:
            st = learner.grow(st)
        before = newest(st.model)
        if grows or k == 0:
            reference.add_stage(before)
        st, out = learner.run(st, *segment(k))
        want = [reference.step(x, c[0]) for x, c in zip(*segment(k), strict=True)]
        assert_close(out.prediction[:, 0], np.array(want))
        assert_as_the_reference(st, reference)
        assert np.abs(newest(st.model) - before).max() > 1e-4
    assert st.model.layers[0].complete and np.abs(out.prediction).max() > 0.1


def test_a_run_grows_by_itself_at_the_steps_of_the_schedule():
    learner = columns("columnar-constructive")
    parts = [segment(k) for k in range(3)]
    st, outs = learner.run(learner.init(key=KEY), *(np.concatenate(each) for each in zip(*parts, strict=True)))
    other, pieces = learner.init(key=KEY), []
    for k, part in enumerate(parts):
        other = learner.grow(other) if k else other
        other, out = learner.run(other, *part)
        pieces.append(out)
    assert st.steps == 3 * SEGMENT and len(st.model.layers[0].stages) == 3
    assert st.model.layers[0].stages[-1].layers[1].cell.units == 1  # what was left of 5
    assert_equal(arrays(st), arrays(other))
    assert_equal(outs, jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *pieces))


def test_what_stays_goes_on_when_a_model_grows():
    """The new column and its weight begin anew."""
    learner = columns("constructive")
    st, _ = learner.run(learner.init(key=KEY), *segment(0))
    grown = learner.grow(copied(st), key=jax.random.key(5))
    for name in ("prediction", "begun", "skipped", "count"):
        assert_equal(getattr(grown, name), getattr(st, name))
    for new, old in ((grown.model, st.model), (grown.trace, st.trace), (grown.optimiser[0].nu, st.optimiser[0].nu)):
        assert_equal(new.layers[2].weight[:, :1], old.layers[2].weight)
        assert_equal(new.layers[2].bias, old.layers[2].bias)
    assert grown.model.layers[2].weight[0, 1] == grown.trace.layers[2].weight[0, 1] == 0
    assert not newest(grown.trace).any() and (newest(grown.optimiser[0].nu) == 0.5).all()
    assert not np.array_equal(newest(grown.model), newest(learner.grow(st, key=jax.random.key(6)).model))


def grown_columns(key=KEY):
    """Columns in two stages, in the middle of the second."""
    learner = columns("constructive")
    st, _ = learner.run(learner.init(key=key), *segment(0))
    st, _ = learner.run(learner.grow(st), *segment(1))
    return learner, st


def test_a_checkpoint_within_a_stage_goes_on_bit_by_bit(tmp_path):
    """Into a state that was built and grown afresh, with other weights."""
    learner, st = grown_columns()
    checkpoint.save(tmp_path, arrays(st), step=st.steps)
    st, out = learner.run(st, *segment(2))
    other = learner.grow(learner.init(key=jax.random.key(9)), key=jax.random.key(8))
    held, static = eqx.partition(other, eqx.is_array)
    other = eqx.combine(checkpoint.load(tmp_path, held).tree, static)
    other, again = learner.run(other, *segment(2))
    assert_equal(out, again)
    assert_equal(arrays(other), arrays(st))


@pytest.mark.parametrize("stage", [0, 1], ids=["an earlier stage", "the newest stage"])
def test_a_state_that_a_normalisation_hides_is_reset_too(stage):
    """What is not finite becomes 0 in the features, and would stay there for ever."""
    learner, st = grown_columns()
    st = eqx.tree_at(lambda st: st.carry[0].stages[stage][1].state, st, replace_fn=lambda leaf: leaf * NAN)
    st, _ = learner.run(st, *segment(2))
    assert_finite((st.model, st.carry, st.trace, st.optimiser))
    st, out = learner.run(st, *segment(2))
    assert np.isfinite(out.prediction).all() and out.learned[1:].all()


# Frozen features, against the forward view.

STEPS, PREDICTIONS = 12, 3


def summed():
    """An optimiser that moves nothing and sums what it is given."""
    zeros = lambda parameters: jax.tree.map(jnp.zeros_like, parameters)
    add = lambda gradient, state, _=None: (zeros(gradient), jax.tree.map(jnp.add, state, gradient))
    return optax.GradientTransformation(zeros, add)


@functools.cache
def linear(kind="rows", optimiser=None, **options):
    """Predictions that are linear in the inputs, by a readout with a trace for its own rows, or for all of them."""
    model = sg.nn.Sequential([sg.Readout(INPUTS, PREDICTIONS, key=KEY)])
    model = model if kind == "rows" else Opaque(model)
    return sg.td.TDLambda(model, optimiser or sgd(), gamma=0.9, lam=0.7, predictions=PREDICTIONS, **options)


class Opaque(eqx.Module):
    """A model of which nobody knows what it is made of."""

    model: sg.nn.Sequential

    def init(self, *, key):
        return self.model.init(key=key)

    def __call__(self, carry, x):
        return self.model(carry, x)


@functools.cache
def sgd(rate=0.1):
    return optax.sgd(rate)


def stream(seed=0, inputs=INPUTS, lead=(), steps=STEPS, missing=0.0, resets=()):
    """What `run` takes: everything is given at each step."""
    rng = np.random.default_rng(seed)
    cumulants = rng.normal(size=(steps, *lead, PREDICTIONS))
    cumulants[rng.random(cumulants.shape) < missing] = NAN
    flags = np.zeros((steps, *lead), bool)
    flags[list(resets)] = True
    discounts = rng.random((2, steps, *lead, PREDICTIONS))
    return dict(
        xs=rng.normal(size=(steps, *lead, inputs)),
        cumulants=cumulants,
        gammas=discounts[0],
        lams=discounts[1],
        resets=flags,
    )


def by_prediction(given, values):
    """The same discount of a prediction at every step."""
    return np.broadcast_to(np.asarray(values), given["cumulants"].shape)


def drive(learner, st, given):
    return learner.run(st, **given)


def one(learner, st, given, t):
    x, cumulant, gamma, lam, reset = (given[name][t] for name in ("xs", "cumulants", "gammas", "lams", "resets"))
    return learner.step(st, x, cumulant, gamma=gamma, lam=lam, reset=reset)


def test_the_sum_of_updates_is_the_forward_view():
    """With weights held still: the sum over t of (λ-return - y_t) x_t, discounts and λ of every step their own."""
    learner, given = linear(optimiser=summed()), stream(resets=(5, 9))
    st, out = drive(learner, learner.init(key=KEY), given)
    readout, xs, c = learner.template.layers[0], given["xs"], given["cumulants"]
    gamma, lam = np.where(given["resets"][:, None], 0, given["gammas"]), given["lams"]
    y = xs @ readout.weight.T + readout.bias
    assert_close(out.prediction, y)
    back, total = y[-1], 0
    for t in reversed(range(STEPS - 1)):
        back = c[t + 1] + gamma[t + 1] * ((1 - lam[t + 1]) * y[t + 1] + lam[t + 1] * back)
        total = total + np.outer(back - y[t], np.append(xs[t], 1))
    assert_close(-st.optimiser.layers[0].weight, total[:, :-1])
    assert_close(-st.optimiser.layers[0].bias, total[:, -1])


def backward_view(learner, given, rate=0.1):
    """A linear readout learned by TD(λ), one prediction after the other: weights and predictions."""
    readout, made = learner.template.layers[0], []
    w = np.concatenate([readout.weight, np.asarray(readout.bias)[:, None]], axis=1)
    e, last = np.zeros_like(w), None
    for x, c, gamma, lam, reset in zip(*given.values(), strict=True):
        phi = np.append(x, 1)
        y = w @ phi
        made.append(y)
        for j in range(PREDICTIONS):
            g = 0 if reset else gamma[j]
            if last is not None and np.isfinite(c[j]):
                w[j] += rate * (c[j] + g * y[j] - last[j]) * e[j]
            e[j] = (0 if reset else g * lam[j]) * e[j] + phi
        last = y
    return w, np.array(made)


@pytest.mark.parametrize("resets", [(), (3, 4, 11)])
@pytest.mark.parametrize("missing", [0.0, 0.4])
def test_a_linear_prediction_is_learned_by_the_textbook(resets, missing):
    learner, given = linear(), stream(1, resets=resets, missing=missing)
    st, out = drive(learner, learner.init(key=KEY), given)
    w, made = backward_view(learner, given)
    assert_close(out.prediction, made)
    readout = st.model.layers[0]
    assert_close(jnp.concatenate([readout.weight, readout.bias[:, None]], axis=1), w)
    none = np.isnan(given["cumulants"])
    none[0] = True
    assert_equal(np.isnan(out.error), none)
    assert_equal(np.asarray(out.learned), ~none.all(axis=1))


def test_discounts_of_the_learner_hold_where_a_step_gives_none():
    given = stream(2)
    gamma, lam = [0.1, 0.5, 1.0], [0.0, 0.9, 1.0]
    learner = sg.td.TDLambda(linear().template, sgd(), gamma=gamma, lam=lam, predictions=PREDICTIONS)
    st, out = learner.run(learner.init(key=KEY), given["xs"], given["cumulants"])
    each = {**given, "gammas": by_prediction(given, gamma), "lams": by_prediction(given, lam)}
    w, made = backward_view(learner, each)
    assert_close((out.prediction, st.model.layers[0].weight), (made, w[:, :-1]))


def test_traces_of_a_readouts_own_rows_are_the_full_ones():
    given = stream(3, missing=0.2, resets=(6,))
    rows, full = linear(), linear("full")
    (st, out), (other, again) = (drive(each, each.init(key=KEY), given) for each in (rows, full))
    assert_close(out, again)
    assert_close(weights(st.model), weights(other.model.model))
    each = np.arange(PREDICTIONS)
    assert st.trace.layers[0].weight.shape == (PREDICTIONS, INPUTS)
    whole = other.trace.model.layers[0]
    assert whole.weight.shape == (PREDICTIONS, PREDICTIONS, INPUTS)
    assert_close(st.trace.layers[0].weight, whole.weight[each, each])
    assert_close(st.trace.layers[0].bias, whole.bias[each, each])


# Many predictions from one recurrent layer.

BELOW, UNITS = 2, 2


def steered():
    """Plain descent, whose rate is part of the state, so that one program serves any rate."""
    update = lambda gradient, rate, _=None: (jax.tree.map(lambda g: -rate * g, gradient), rate)
    return optax.GradientTransformation(lambda _: jnp.array(0.1), update)


@functools.cache
def horde(streams=None):
    cell = sg.cells.IndRNN(BELOW, UNITS, key=jax.random.key(1), activation=jnp.tanh)
    layer, readout = sg.Recurrent(cell, sg.SnAp(1)), sg.Readout(UNITS, PREDICTIONS, key=jax.random.key(2))
    model = sg.nn.Sequential([sg.nn.Normalise(BELOW), layer, readout])
    return sg.td.TDLambda(model, steered(), gamma=0.9, lam=0.7, predictions=PREDICTIONS, streams=streams)


def at_rate(st, rate):
    return eqx.tree_at(lambda st: st.optimiser, st, jnp.array(rate))


def many(seed=0, **options):
    return stream(seed, inputs=BELOW, **options)


def test_traces_of_many_predictions_are_those_of_autodiff_through_time():
    """With weights held still, e_t^j is the sum over k of (γ_j λ_j)^(t-k) times the slope of y_k^j through all time."""
    learner, given = horde(), many()
    gammas, lams = by_prediction(given, [0.0, 0.5, 0.9]), by_prediction(given, [0.3, 1.0, 0.8])
    st, out = drive(learner, at_rate(learner.init(key=KEY), 0.0), {**given, "gammas": gammas, "lams": lams})
    _, layer, readout = learner.template.layers
    xs = given["xs"]
    mean = np.stack([xs[: t + 1].mean(0) for t in range(STEPS)])
    variance = np.stack([xs[: t + 1].var(0) for t in range(STEPS)])
    xn = jnp.asarray((xs - mean) / np.sqrt(np.maximum(variance, 1e-8)))

    def all_predictions(theta):
        wx, u, b, w, c = theta

        def body(h, x):
            h = jnp.tanh(x @ wx[:, 0] + u * h + b[0])
            return h, w @ h + c

        return jax.lax.scan(body, jnp.zeros(UNITS), xn)[1]

    cell = layer.cell
    theta = cell.weight_x, cell.u, cell.bias, readout.weight, readout.bias
    assert_close(out.prediction, all_predictions(theta))
    slopes = jax.jit(jax.jacrev(all_predictions))(theta)  # (time, predictions, ...)
    decay = (gammas * lams)[0]
    share = decay[None, :] ** np.arange(STEPS - 1, -1, -1)[:, None]
    *shared, by_weight, by_bias = [np.einsum("tp,tp...->p...", share, slope) for slope in slopes]
    each, got = np.arange(PREDICTIONS), st.trace.layers
    assert_close([got[1].cell.weight_x, got[1].cell.u, got[1].cell.bias], shared)
    assert_close([got[2].weight, got[2].bias], [by_weight[each, each], by_bias[each, each]])
    assert_equal(weights(st.model), weights(learner.template))


@eqx.filter_jit
def slopes_of(model, carry, x):
    """A step, with the derivative of every prediction by every parameter."""
    parameters, fixed = eqx.partition(model, eqx.is_inexact_array)

    def predict(parameters):
        new, y = eqx.combine(parameters, fixed)(carry, x)
        return y, (new, y)

    slopes, (new, y) = jax.jacrev(predict, has_aux=True)(parameters)
    return new, y, slopes


class ByHand:
    """One stream, with full traces; the update is for the caller to make."""

    def __init__(self, model):
        self.carry, self.last = model.init(key=KEY), None
        self.fresh = self.carry
        self.traces = jax.tree.map(lambda leaf: np.zeros((PREDICTIONS, *leaf.shape)), weights(model))

    def step(self, model, x, cumulant, gamma, lam, reset):
        """The prediction, and the sum of δ e: None without an error."""
        if reset:  # the statistics of the normalisation stay
            self.carry = (self.carry[0], *self.fresh[1:])
        gamma = np.where(reset, 0, gamma)
        self.carry, y, slopes = slopes_of(model, self.carry, jnp.asarray(x))
        there = np.isfinite(cumulant) & (self.last is not None)
        credit = None
        if there.any():
            error = np.where(there, cumulant + gamma * y - self.last, 0)
            credit = jax.tree.map(lambda e: np.tensordot(error, e, 1), self.traces)
        shape = lambda e: (-1,) + (1,) * (e.ndim - 1)
        keep = lambda e, slope: (gamma * lam).reshape(shape(e)) * (0 if reset else 1) * e + slope
        self.traces, self.last = jax.tree.map(keep, self.traces, slopes), y
        return y, credit


def learned_by_hand(model, streams, rate=0.1):
    """Streams that share weights: the model, and predictions (streams, time, predictions)."""
    states, made = [ByHand(model) for _ in streams], []
    for now in zip(*(zip(*given.values(), strict=True) for given in streams), strict=True):
        ys, credits = zip(*(state.step(model, *part) for state, part in zip(states, now, strict=True)), strict=True)
        made.append(ys)
        if given := [credit for credit in credits if credit is not None]:
            mean = jax.tree.map(lambda *each: jnp.asarray(rate * sum(each) / len(each)), *given)
            model = eqx.apply_updates(model, mean)
    return model, np.moveaxis(np.array(made), 1, 0)


@pytest.mark.parametrize("case", [dict(), dict(missing=0.4, resets=(4, 5, 10))], ids=["plain", "gaps and resets"])
def test_many_predictions_are_learned_as_by_hand(case):
    learner, given = horde(), many(1, **case)
    st, out = drive(learner, learner.init(key=KEY), given)
    model, (made,) = learned_by_hand(learner.template, [given])
    assert_close(out.prediction, made)
    assert_close(weights(st.model), weights(model))
    assert np.abs(st.model.layers[1].cell.weight_x - learner.template.layers[1].cell.weight_x).max() > 1e-3


def single(given, k):
    return {name: array[:, k] for name, array in given.items()}


def test_streams_share_weights_and_average_their_updates():
    """The mean is over the streams that learn; one begins anew, one has gaps."""
    learner, given = horde(streams=3), many(2, lead=(3,))
    given["resets"][5, 1] = True
    given["cumulants"][3, 2, 0] = NAN
    given["cumulants"][7, 2] = NAN
    st, out = drive(learner, learner.init(key=KEY), given)
    model, made = learned_by_hand(learner.template, [single(given, k) for k in range(3)])
    assert_close(out.prediction, np.moveaxis(made, 0, 1))
    assert_close(weights(st.model), weights(model))
    assert out.learned.sum(0).tolist() == [STEPS - 1, STEPS - 1, STEPS - 2]
    # A stream that breaks harms the others for a moment at most.
    st = eqx.tree_at(lambda st: st.carry[1].state, st, replace_fn=lambda leaf: leaf.at[1].set(NAN))
    st, out = drive(learner, st, many(12, lead=(3,)))
    assert_finite((st.model, st.carry, st.trace, st.prediction))
    assert 0 < int(st.skipped) <= STEPS
    st, out = drive(learner, st, many(13, lead=(3,)))
    assert np.isfinite(out.prediction).all() and out.learned[1:].all()


# Steps, runs and copies.


def test_run_is_step_after_step():
    learner, given = horde(), many(4, missing=0.2, resets=(5,))
    st, outs = drive(learner, learner.init(key=KEY), given)
    other, steps = learner.init(key=KEY), []
    for t in range(STEPS):
        other, out = one(learner, other, given, t)
        steps.append(out)
    assert_close(outs, jax.tree.map(lambda *leaves: np.stack(leaves), *steps))
    assert_close((weights(st.model), st.trace, st.carry), (weights(other.model), other.trace, other.carry))
    assert st.steps == other.steps == STEPS


def test_seeds_run_side_by_side():
    learner, seeds = linear(), range(2)
    given = [stream(seed, missing=0.2, resets=(3 + seed,)) for seed in seeds]
    start = lambda seed: eqx.tree_at(
        lambda st: st.model.layers[0].weight, learner.init(key=KEY), replace_fn=lambda w: w + 0.1 * seed
    )
    stack = lambda *leaves: jnp.stack(leaves) if eqx.is_array(leaves[0]) else leaves[0]
    together, outs = jax.tree.map(stack, *map(start, seeds)), []
    both = {name: np.stack([part[name] for part in given], axis=1) for name in given[0]}
    step = eqx.filter_jit(eqx.filter_vmap(lambda st, given: one(learner, st, given, ...)))
    for t in range(STEPS):
        together, out = step(together, {name: jnp.asarray(each[t]) for name, each in both.items()})
        outs.append(out)
    outs = jax.tree.map(lambda *leaves: jnp.stack(leaves, axis=1), *outs)
    for seed in seeds:
        want = drive(learner, start(seed), given[seed])
        got = jax.tree.map(lambda leaf: leaf[seed], (arrays(together), outs))  # noqa: B023
        assert_close(eqx.filter(got, eqx.is_inexact_array), eqx.filter(want, eqx.is_inexact_array))
        assert_equal(got[1].learned, want[1].learned)


def test_a_step_looks_at_the_model_at_first_only():
    """Arguments are checked once for each shape: to trace a model at every step would take most of the time."""
    looked = []

    class Watched(Opaque):
        def __call__(self, carry, x):
            looked.append(x.shape)
            return super().__call__(carry, x)

    learner = sg.td.TDLambda(Watched(linear().template), sgd(), gamma=0.9, predictions=PREDICTIONS)
    st = learner.init(key=KEY)
    for _ in range(2):
        st, _ = learner.step(st, np.ones(INPUTS), np.ones(PREDICTIONS))
    before = len(looked)
    for _ in range(3):
        st, _ = learner.step(st, np.ones(INPUTS), np.ones(PREDICTIONS))
    assert before > 0 and len(looked) == before


def test_predict_changes_nothing_and_tells_the_next_prediction():
    learner, given = horde(), many(5)
    st, _ = drive(learner, learner.init(key=KEY), given)
    before, x = copied(arrays(st)), given["xs"][0]
    asked = learner.predict(st, x)
    assert_equal(arrays(st), before)
    _, out = one(learner, st, given, 0)
    assert_close(asked, out.prediction)


def test_the_users_model_survives():
    learner = linear()
    before = copied(weights(learner.template))
    st = learner.init(key=KEY)
    drive(learner, st, stream())
    assert_equal(weights(learner.template), before)
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(weights(st.model)))


def test_the_model_of_a_state_outlives_it():
    learner, given = linear(), stream()
    st = learner.init(key=KEY)
    model = learner.model(st)
    before = copied(weights(model))
    assert_equal(weights(st.model), before)
    drive(learner, st, given)
    assert_equal(weights(model), before)
    with pytest.raises(RuntimeError, match="consumed"):
        learner.model(st)


def test_a_reset_begins_anew_and_keeps_running_statistics():
    """After it all is as with a fresh state with these weights and statistics; the last cumulant still teaches."""
    learner, given = horde(), many(6)
    zeros = np.zeros(STEPS, bool)
    st, _ = drive(learner, learner.init(key=KEY), given)
    last, e, before = st.prediction, copied(st.trace.layers[2].weight), copied(st.model)
    statistics = copied(st.carry[0])
    given = many(7)
    rest, out = drive(learner, copied(st), {**given, "resets": np.arange(STEPS) == 0})
    assert_close(out.error[0], given["cumulants"][0] - last)
    # The same from a state that knows the weights after the reset's update, and nothing else.
    other = eqx.tree_at(lambda st: st.model, learner.init(key=KEY), before)
    other = eqx.tree_at(lambda st: st.carry[0], other, statistics)
    credit = out.error[0][:, None] * e
    assert np.abs(credit).max() > 1e-3
    other, again = drive(learner, at_rate(other, 0.0), {**given, "resets": zeros})
    still, out0 = drive(learner, at_rate(st, 0.0), {**given, "resets": np.arange(STEPS) == 0})
    assert_close(again.prediction, out0.prediction)
    assert_close((other.trace, other.carry), (still.trace, still.carry))
    assert rest.carry[0].count[0] == 2 * STEPS


# What is missing or broken.


def test_a_prediction_without_a_cumulant_learns_nothing_and_the_others_do():
    learner, given = linear(), stream(8)
    given["cumulants"][:, 1] = NAN
    st, out = drive(learner, learner.init(key=KEY), given)
    start, end = learner.template.layers[0], st.model.layers[0]
    assert_equal(end.weight[1], start.weight[1])
    assert end.bias[1] == 0 and (end.bias[np.array([0, 2])] != 0).all()
    assert np.isnan(out.error[:, 1]).all() and out.learned[1:].all() and st.skipped == 0


def test_an_infinite_cumulant_is_missing():
    learner, given = linear(), stream(9)
    spoiled = {**given, "cumulants": given["cumulants"].copy()}
    spoiled["cumulants"][4, 0], spoiled["cumulants"][6] = np.inf, -np.inf
    gaps = {**given, "cumulants": np.where(np.isinf(spoiled["cumulants"]), NAN, spoiled["cumulants"])}
    (st, out), (other, again) = (drive(learner, learner.init(key=KEY), each) for each in (spoiled, gaps))
    assert_equal(arrays(st), arrays(other))
    assert_equal(out, again)
    assert st.skipped == 0 and not out.learned[6]


@pytest.mark.parametrize("where", ["state", "trace"])
@pytest.mark.parametrize("how", ["step", "run"])
def test_what_is_not_finite_is_undone_and_begins_anew(how, where):
    """The weights are those of before; what follows is as from a fresh state that knows the statistics."""
    learner, given, later = horde(), many(10), many(11)
    before, _ = drive(learner, learner.init(key=KEY), given)
    at = {"state": lambda st: st.carry[1].state, "trace": lambda st: st.carry[1].trace}[where]
    spoil = lambda leaf: jax.tree.map(lambda own: own * NAN, leaf)
    st = eqx.tree_at(at, copied(before), replace_fn=spoil)
    st, out = one(learner, st, given, 0) if how == "step" else drive(learner, st, given)
    assert int(st.skipped) == (1 if how == "step" else STEPS) and not out.learned.any()
    assert_equal((weights(st.model), st.optimiser), (weights(before.model), before.optimiser))
    other = eqx.tree_at(lambda st: st.model, learner.init(key=KEY), copied(st.model))
    other = eqx.tree_at(lambda st: st.carry[0], other, copied(st.carry[0]))
    st, out = drive(learner, st, later)
    other, want = drive(learner, other, later)
    assert_close(out, want)
    assert_close((weights(st.model), st.trace, st.carry), (weights(other.model), other.trace, other.carry))
    assert np.isfinite(out.prediction).all() and out.learned[1:].all()


@pytest.mark.parametrize("size", [1e200, 1e308])
def test_a_huge_cumulant_does_not_spoil_what_is_learned(size):
    """It is finite, and so is the error; what an optimiser makes of it may not be."""
    learner, given = linear(optimiser=rms()), stream(11)
    given["cumulants"][5, 0] = size
    st, out = drive(learner, learner.init(key=KEY), given)
    assert_finite((st.model, st.optimiser))
    st, out = drive(learner, st, stream(12))
    assert np.isfinite(out.prediction).all() and out.learned[1:].all()


def test_a_long_run_undoes_the_stretch_of_32_steps_at_fault():
    """Of three: what was learned before and after it stays, as if its cumulants were missing and a reset followed."""
    learner, given = linear(), stream(14, steps=70)
    spoiled, gaps = ({**given, "cumulants": given["cumulants"].copy(), "resets": given["resets"].copy()} for _ in "12")
    spoiled["cumulants"][40] = 1e308
    gaps["cumulants"][32:65], gaps["resets"][64] = NAN, True
    for each, want in ((given, given), (spoiled, gaps)):
        st, out = drive(learner, learner.init(key=KEY), each)
        w, made = backward_view(learner, want)
        assert_close(st.model.layers[0].weight, w[:, :-1])
        assert_close((out.prediction[:32], out.prediction[64:]), (made[:32], made[64:]))
    assert int(st.skipped) == 32 and np.flatnonzero(~out.learned).tolist() == [0, *range(32, 65)]
    assert st.steps == 70


@functools.cache
def rms():
    return sg.optimisers.rmsprop(0.1)


# What is refused.


def test_wrong_shapes_are_refused_before_anything_is_consumed():
    learner = linear()
    st = learner.init(key=KEY)
    x, c = np.ones(INPUTS), np.ones(PREDICTIONS)
    refused = [
        (dict(x=x, cumulant=1.0), r"cumulant of a step must have shape \(3,\), got \(\)"),
        (dict(x=x, cumulant=np.ones(2)), r"cumulant of a step must have shape \(3,\), got \(2,\)"),
        (dict(x=x, cumulant=c, reset=[False]), r"reset of a step must have shape \(\), got \(1,\)"),
        (dict(x=x, cumulant=c, gamma=np.ones((1, 3))), r"gamma of a step must broadcast to \(3,\), got \(1, 3\)"),
        (dict(x=x, cumulant=c, gamma=np.ones(2)), r"gamma of a step must broadcast to \(3,\), got \(2,\)"),
        (dict(x=x, cumulant=c, lam=np.ones(4)), r"lam of a step must broadcast to \(3,\), got \(4,\)"),
        (dict(x=np.ones(2), cumulant=c), r"Readout expects features of shape \(3,\), got \(2,\)"),
    ]
    for given, said in refused:
        with pytest.raises(ValueError, match=said):
            learner.step(st, **given)
    xs, cs = np.ones((STEPS, INPUTS)), np.ones((STEPS, PREDICTIONS))
    runs = [
        (dict(xs=xs, cumulants=cs[1:]), "xs and cumulants of one length, got 12 xs, 11 cumulants"),
        (dict(xs=xs[:0], cumulants=cs[:0]), "at least one step"),
        (dict(xs=xs, cumulants=cs, resets=np.zeros(3, bool)), "cumulants and resets of one length"),
        (dict(xs=xs, cumulants=cs[:, :1]), r"must have shape \(3,\), got \(1,\)"),
        (dict(xs=xs, cumulants=1.0), "of one length, got 12 xs, None cumulants"),
    ]
    for given, said in runs:
        with pytest.raises(ValueError, match=said):
            learner.run(st, **given)
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves(arrays(st)))
    learner = sg.td.TDLambda(learner.template, sgd(), gamma=0.9)
    with pytest.raises(ValueError, match=r"predicts shape \(3,\), expected \(1,\): give TDLambda\(predictions="):
        learner.step(learner.init(key=KEY), x, np.ones(1))
    learner = horde(streams=3)
    with pytest.raises(ValueError, match="leading axis of 3 streams"):
        learner.step(learner.init(key=KEY), np.ones((2, BELOW)), np.ones((3, PREDICTIONS)))


@pytest.mark.parametrize(
    "options, said",
    [
        (dict(gamma=1.1), r"gamma must lie in \[0, 1\]"),
        (dict(gamma=NAN), r"gamma must lie in \[0, 1\]"),
        (dict(gamma=0.9, lam=-0.1), r"lam must lie in \[0, 1\]"),
        (dict(gamma=[0.9, 0.9]), "gamma is a number, or 3 of them"),
        (dict(gamma=0.9, predictions=0), "predictions"),
        (dict(gamma=0.9, streams=0), "streams must be None or an integer"),
    ],
)
def test_bad_options_are_refused(options, said):
    with pytest.raises(ValueError, match=said):
        sg.td.TDLambda(linear().template, sgd(), **{"predictions": PREDICTIONS, **options})


def test_what_cannot_learn_online_is_refused():
    cell = sg.cells.GRU(2, 2, key=KEY)
    with pytest.raises(TypeError, match=r"BPTT has none: use sg\.TBPTT"):
        sg.td.TDLambda(sg.nn.Sequential([sg.Recurrent(cell, sg.BPTT()), sg.Readout(2, 1, key=KEY)]), sgd(), gamma=0.9)
    with pytest.raises(TypeError, match=r"init\(key=...\)"):
        sg.td.TDLambda(jnp.tanh, sgd(), gamma=0.9)
    with pytest.raises(TypeError, match="optimiser"):
        sg.td.TDLambda(linear().template, 0.1, gamma=0.9)
    learner = linear()
    with pytest.raises(TypeError, match="no layer can grow"):
        learner.grow(learner.init(key=KEY))
    full = linear("full")
    with pytest.raises(TypeError, match="Opaque cannot grow"):
        full.grow(full.init(key=KEY))


# The sum that came.


def test_returns_are_the_discounted_sums():
    rng = np.random.default_rng(0)
    c, gamma = rng.normal(size=(2, 9, 2))
    want = [[sum(c[k, j] * gamma[t + 1 : k, j].prod() for k in range(t + 1, 9)) for j in (0, 1)] for t in range(9)]
    got = sg.td.returns(jnp.asarray(c), jnp.asarray(gamma))
    assert_close(got, np.array(want))
    rest = [gamma[t + 1 :].prod(axis=0) * [3.0, 4.0] for t in range(9)]
    assert_close(sg.td.returns(jnp.asarray(c), jnp.asarray(gamma), jnp.array([3.0, 4.0])), got + np.array(rest))


@pytest.mark.parametrize("own", [False, True], ids=["one discount", "discounts of each step"])
@pytest.mark.parametrize("chunk", [1, 7, 100])
def test_a_prediction_is_judged_by_what_came(chunk, own):
    steps, top = 100, 0.4
    rng = np.random.default_rng(1)
    made, c = rng.normal(size=(2, steps, 2))
    gamma = top * rng.random((steps, 2)) if own else np.full((steps, 2), top)
    judge = sg.td.TrueReturn(gamma=top, tolerance=1e-13)
    h = judge.horizon
    assert top**h <= 1e-13 < top ** (h - 1)
    step = eqx.filter_jit(judge)
    st, judged = judge.init(predictions=2), []
    for start in range(0, steps, chunk):
        part = slice(start, start + chunk)
        st, pair = step(st, *map(jnp.asarray, (made[part], c[part], *([gamma[part]] if own else []))))
        judged.append(pair)
    old, came = (np.concatenate(each) for each in zip(*judged, strict=True))
    assert np.isnan(old[:h]).all() and np.isnan(came[:h]).all()
    assert_equal(old[h:], made[: steps - h])
    for t in range(steps - h):
        total = sum(c[k] * gamma[t + 1 : k].prod(axis=0) for k in range(t + 1, steps))
        np.testing.assert_allclose(came[t + h], total, atol=1e-11)


def test_a_return_of_a_wrong_shape_or_discount_is_refused():
    for gamma in (-0.1, 1.0, NAN):
        with pytest.raises(ValueError, match=r"gamma must lie in \[0, 1\)"):
            sg.td.TrueReturn(gamma)
    with pytest.raises(ValueError, match="tolerance must lie"):
        sg.td.TrueReturn(0.9, tolerance=0.0)
    judge = sg.td.TrueReturn(0.5)
    with pytest.raises((ValueError, TypeError), match="predictions"):
        judge(judge.init(predictions=2), jnp.ones((3, 2)), jnp.ones((3, 1)))
    assert sg.td.TrueReturn(0.0).horizon == 1


# How it is compiled.


@pytest.mark.parametrize("size", [2, 5000, 200_000])
def test_a_loop_that_refuses_an_order_does_without(size):
    def run(whole, static, arrays, steps):
        def one(a, x):
            a = ordered(a + static * x)
            return a, a.sum()

        return jax.lax.scan(whole(one), arrays, steps)

    compiled, steps = Compiled(run, batched=False), np.arange(4.0)
    for _ in range(2):
        last, sums = compiled(3, jnp.zeros(size), steps)
        assert_close((last, sums), (np.full(size, 18.0), size * 3 * np.cumsum(steps)))


def test_an_error_of_a_running_program_is_raised():
    def stop(x):
        raise ValueError("stop here")

    def run(whole, static, arrays, steps):
        return arrays + 1, jax.pure_callback(stop, jax.ShapeDtypeStruct((), steps.dtype), steps)

    with pytest.raises(jax.errors.JaxRuntimeError, match="stop here"):
        jax.block_until_ready(Compiled(run, batched=False)(0, jnp.zeros(3), jnp.ones(())))
