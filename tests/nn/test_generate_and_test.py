"""Generate and test: what a feature does, which one gives way, and that it learns what only memory can tell."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import streamgrad as sg

KEY = jax.random.key(0)
RNG = np.random.default_rng(0)


@eqx.filter_jit
def followed(module, carry, xs):
    """Carries after each step and what was said."""

    def step(carry, x):
        carry, y = module(carry, x)
        return carry, (carry, y)

    return jax.lax.scan(step, carry, xs)[1]


def weighted(units=4, **options):
    """One whose readout weights are different numbers."""
    module = sg.nn.GenerateAndTest(5, units, 2, fan_in=2, **options)
    weight = jnp.asarray(RNG.normal(size=(2, units)))
    return eqx.tree_at(lambda m: (m.weight, m.bias), module, (weight, jnp.array([0.3, -0.2])))


def test_features_are_traces_of_what_they_imprinted():
    module = weighted(every=7, youth=10)
    xs = jnp.asarray((RNG.random((60, 5)) < 0.5) * RNG.choice([-1.0, 1.0], (60, 5)))
    carries, ys = followed(module, module.init(key=KEY), xs)
    pattern, decay, trace, before = map(np.asarray, (carries.pattern, carries.decay, carries.trace, carries.before))
    weight, h, changes = np.asarray(module.weight), np.zeros(4), []
    for t, x in enumerate(np.asarray(xs)):
        earlier = pattern[t - 1] if t else np.zeros((4, 5))
        new = [i for i in range(4) if (pattern[t, i] != earlier[i]).any()]
        for i in new:
            changes.append((t, i))
            h[i] = 0
            assert (np.abs(pattern[t, i]) > 0).sum() == 2 and (pattern[t, i] * x == np.abs(pattern[t, i])).all()
            np.testing.assert_array_equal(before[t, :, i], weight[:, i])
        agree = [
            bool(pattern[t, i].any()) and (pattern[t, i] @ x >= np.abs(pattern[t, i]).sum() * 0.999) for i in range(4)
        ]
        h = np.maximum(agree, decay[t] * h)
        np.testing.assert_allclose(trace[t], h, atol=1e-12)
        np.testing.assert_allclose(ys[t], (weight - before[t]) @ h + module.bias, atol=1e-12)
    assert len(changes) > 6 and (decay[-1] >= 0).all() and (decay[-1] <= 0.99).all()


def test_the_least_useful_of_the_old_gives_way():
    module = weighted(every=5, youth=3)
    carry = module.init(key=KEY)
    xs = jnp.ones((4, 5))
    carry = jax.tree.map(lambda leaf: leaf[-1], followed(module, carry, xs)[0])
    assert carry.filled == 4
    carry = eqx.tree_at(
        lambda c: (c.utility, c.age, c.steps),
        carry,
        (jnp.array([0.5, 0.1, 0.01, 0.3]), jnp.array([9, 9, 1, 9], jnp.int32), jnp.array(4, jnp.int32)),
    )
    after = module(carry, jnp.ones(5))[0]  # the third is the least useful, and too young to go
    np.testing.assert_array_equal(after.age, [10, 1, 2, 10])
    kept = np.array([0, 2, 3])
    np.testing.assert_array_equal(after.pattern[kept], carry.pattern[kept])
    quiet = module(carry, jnp.zeros(5))[0]  # nothing to imprint: it waits
    assert quiet.waiting and (quiet.age == carry.age + 1).all()
    late = module(quiet, jnp.ones(5))[0]
    assert not late.waiting and late.age[1] == 1


def test_only_the_readout_has_a_gradient_and_it_is_exact():
    module = weighted()
    carry = jax.tree.map(lambda leaf: leaf[-1], followed(module, module.init(key=KEY), jnp.ones((9, 5)))[0])
    gradient, new = eqx.filter_grad(lambda m: (lambda c, y: (y[0], c))(*m(carry, jnp.ones(5))), has_aux=True)(module)
    np.testing.assert_allclose(gradient.weight, np.stack([new.trace, 0 * new.trace]))
    np.testing.assert_allclose(gradient.bias, [1, 0])


def test_it_learns_what_only_memory_can_tell():
    """Whether a cue came within the last 8 steps; the input of the moment does not say."""
    rng = np.random.default_rng(1)
    cues = np.zeros(3000)
    cues[np.arange(20, 2980, 20) + rng.integers(5, size=148)] = 1
    recent = np.convolve(cues, np.ones(8))[:3000]
    xs = jnp.asarray(np.c_[cues, rng.random((3000, 2)) < 0.2])
    targets = jnp.asarray(recent[:, None])
    module = sg.nn.GenerateAndTest(3, 24, 1, fan_in=1, longest=20.0, every=50, youth=200)
    learner = sg.Learner(sg.nn.Sequential([module]), optax.adam(0.003), loss=sg.losses.mse)
    out = learner.run(learner.init(key=KEY), xs, targets)[1]
    late, truth = np.asarray(out.prediction)[-1000:, 0], np.asarray(targets)[-1000:, 0]
    assert np.mean((late - truth) ** 2) < 0.4 * truth.var()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (dict(fan_in=6), "fan_in=6 is more than the 5 inputs"),
        (dict(fan_in=2, longest=0.5), "longest must be at least 1"),
        (dict(fan_in=2, rate=0.0), r"rate in \(0, 1\]"),
        (dict(fan_in=2, every=0), "every must be a positive integer"),
    ],
)
def test_what_cannot_be_is_refused(options, words):
    with pytest.raises(ValueError, match=words):
        sg.nn.GenerateAndTest(5, 4, **options)
