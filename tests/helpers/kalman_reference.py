"""A dense Kalman filter in NumPy, and streams for the library's own."""

import functools
import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

import streamgrad as sg
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


def naive(hs, ys, given, prior, lam, r, members, *, clip=math.inf, cap=math.inf, decay=1.0, floor=1e-3):
    """The filter in NumPy: one dense P whose cross terms between blocks are dropped after each step."""
    p = hs.shape[2]
    mask = np.zeros((p, p), bool)
    for own in members:
        mask[np.ix_(own, own)] = True
    P, theta, noise, top = np.diag(prior * np.ones(p)), np.zeros(p), np.full(ys.shape[1], float(r)), cap * prior
    for h, y, there in zip(hs, ys, given, strict=True):
        if there.any():
            H, e, R = h[there], (y - h @ theta)[there], np.diag(noise[there])
            S = R + H @ P @ H.T
            K = P @ H.T @ np.linalg.inv(S)
            limit = clip * np.sqrt(np.diag(S))
            theta = theta + K @ np.clip(e, -limit, limit)
            P = (P - K @ S @ K.T) * mask
            c = np.sqrt(np.minimum(1 / lam, top / np.diag(P)))
            P = c[:, None] * P * c
            small = np.minimum(e**2, clip**2 * noise[there] + floor)
            noise[there] = np.maximum(decay * noise[there] + (1 - decay) * small, floor)
    return theta, P, noise


def lofi(hs, ys, given, prior, lam, r, rank, *, clip=math.inf, cap=math.inf, decay=1.0, floor=1e-3):
    """LO-FI in NumPy: P⁻¹ = Υ + W Wᵀ as a dense matrix, whose W is cut to its longest singular vectors."""
    p = hs.shape[2]
    upsilon, W, theta = np.ones(p) / prior, np.zeros((p, rank)), np.zeros(p)
    noise, top = np.full(ys.shape[1], float(r)), cap * prior
    for h, y, there in zip(hs, ys, given, strict=True):
        if there.any():
            H, e, R = h[there], (y - h @ theta)[there], np.diag(noise[there])
            P = np.linalg.inv(np.diag(upsilon) + W @ W.T)
            S = R + H @ P @ H.T
            limit = clip * np.sqrt(np.diag(S))
            theta = theta + P @ H.T @ np.linalg.solve(S, np.clip(e, -limit, limit))
            U, s, _ = np.linalg.svd(np.c_[W, H.T / np.sqrt(noise[there])], full_matrices=False)
            W, rest = U[:, :rank] * s[:rank], U[:, rank:] * s[rank:]
            W = np.pad(W, ((0, 0), (0, rank - W.shape[1])))
            upsilon = upsilon + (rest**2).sum(1)
            P = np.linalg.inv(np.diag(upsilon) + W @ W.T)
            c = np.sqrt(np.minimum(1 / lam, top / np.diag(P)))
            upsilon, W = upsilon / c**2, W / c[:, None]
            small = np.minimum(e**2, clip**2 * noise[there] + floor)
            noise[there] = np.maximum(decay * noise[there] + (1 - decay) * small, floor)
    return theta, np.linalg.inv(np.diag(upsilon) + W @ W.T), noise


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
