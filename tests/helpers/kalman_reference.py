"""The written Kalman filters over a stream, and streams for the library's own."""

import functools
import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

import streamgrad as sg
from streamgrad.train import naive as written
from streamgrad.train._low_rank import LowRank

PLAIN: dict[str, Any] = {"clip": math.inf, "cap": math.inf, "noise_decay": 1.0}  # no clip, no bound, R stays as it is


def trained(model):
    return eqx.filter(model, eqx.is_inexact_array)


def flat(tree):
    return np.concatenate([np.asarray(leaf).ravel() for leaf in jax.tree.leaves(tree)])


def dense(state):
    """P in the order of the leaves, with its zeros."""
    form = state.blocks
    if isinstance(state.covariance, LowRank):
        diagonal, factor = (np.asarray(leaf, float) for leaf in (state.covariance.variance, state.covariance.factor))
        return np.linalg.inv(np.diag(1 / diagonal) + factor.T @ factor)
    full = np.zeros((form.parameters, form.parameters))
    for members, each in zip(form.classes, state.covariance, strict=True):
        for own, block in zip(members, np.asarray(each), strict=True):
            full[np.ix_(own, own)] = block
    return full


class Weights(eqx.Module):
    """Two leaves that a linear measurement may have anywhere."""

    a: jax.Array
    b: jax.Array


def weights(p, dtype: Any = float):
    return Weights(jnp.zeros((2, p // 4), dtype), jnp.zeros(p - 2 * (p // 4), dtype))


def as_rows(h):
    """H (rows, p) as a pytree like `weights`."""
    r, p = h.shape
    cut = 2 * (p // 4)
    return Weights(jnp.asarray(h[:, :cut]).reshape(r, 2, p // 4), jnp.asarray(h[:, cut:]))


@functools.cache
def stream(filter_, p, outputs, dtype: Any = float):
    """A compiled filter over a stream of linear measurements (h, y, given): states after each step."""

    @jax.jit
    def run(state, theta, hs, ys, given):
        def step(both, now):
            state, theta = both
            h, y, there = now
            error = y - h @ jnp.concatenate([theta.a.ravel(), theta.b])
            both = filter_(state, theta, as_rows(h), error, there)
            return both, both

        return jax.lax.scan(step, (state, theta), (hs, ys, given))

    theta = weights(p, dtype)
    return filter_.init(theta, theta, outputs=outputs), theta, run


def measured(seed, steps, r, p, noise=0.3):
    rng = np.random.default_rng(seed)
    hs = rng.normal(size=(steps, r, p))
    return hs, hs @ rng.normal(size=p) + noise * rng.normal(size=(steps, r)), rng.random((steps, r)) < 0.6


_correct, _correct_low_rank = jax.jit(written.correct), jax.jit(written.correct_low_rank)
_next_noise = jax.jit(written.next_noise)


def naive(hs, ys, given, prior, lam, r, members, *, clip=math.inf, cap=math.inf, decay=1.0, floor=1e-3):
    """The written filter over a stream: one dense P whose cross terms between blocks are dropped after each step."""
    p = hs.shape[2]
    mask = np.zeros((p, p))
    for own in members:
        mask[np.ix_(own, own)] = 1
    P, theta, noise, top = jnp.diag(prior * np.ones(p)), np.zeros(p), np.full(ys.shape[1], float(r)), cap * prior
    lam, top = lam * np.ones(p), top * np.ones(p)
    for h, y, there in zip(hs, ys, given, strict=True):
        if there.any():
            e, R = (y - h @ theta)[there], noise[there]
            P, change = _correct(P, h[there], e, R, lam, top, clip=clip, mask=mask)
            theta = theta + np.asarray(change)
            noise[there] = _next_noise(R, e, clip=clip, decay=decay, floor=floor)
    return theta, np.asarray(P), noise


def lofi(hs, ys, given, prior, lam, r, rank, *, clip=math.inf, cap=math.inf, decay=1.0, floor=1e-3):
    """The written LO-FI over a stream."""
    p = hs.shape[2]
    upsilon, W, theta = np.ones(p) / prior, np.zeros((rank, p)), np.zeros(p)
    noise, top = np.full(ys.shape[1], float(r)), cap * prior * np.ones(p)
    for h, y, there in zip(hs, ys, given, strict=True):
        if there.any():
            e, R = (y - h @ theta)[there], noise[there]
            upsilon, W, change = _correct_low_rank(upsilon, W, h[there], e, R, lam * np.ones(p), top, clip=clip)
            theta = theta + np.asarray(change)
            noise[there] = _next_noise(R, e, clip=clip, decay=decay, floor=floor)
    return theta, np.linalg.inv(np.diag(upsilon) + W.T @ W), noise


def gru(key, cell_units=5, outputs=2):
    k1, k2 = jax.random.split(jax.random.key(key))
    cell = sg.cells.GRU(3, cell_units, key=k1)
    return sg.nn.Sequential([sg.Recurrent(cell, sg.RTRL()), sg.Readout(cell_units, outputs, key=k2)])


def online(filter_, model, outputs):
    """A step of model and filter on one stream: predict, then learn."""
    static = eqx.filter(model, eqx.is_inexact_array, inverse=True)

    def step(state, theta, carry, x, y):
        def predicted(theta):
            carried, y = eqx.combine(theta, static)(carry, x)
            return y, carried

        prediction, pull, carry = jax.vjp(predicted, theta, has_aux=True)
        rows = filter_.sensitivity(pull, prediction)
        error = y - prediction
        given = jnp.isfinite(error)
        return *filter_(state, theta, rows, jnp.where(given, error, 0), given), carry, prediction, rows

    return filter_.init(trained(model), model, outputs=outputs), jax.jit(step)
