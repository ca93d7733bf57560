"""Readouts: from features to a prediction, learned by gradient or fitted by recursive least squares."""

from __future__ import annotations

import abc
from typing import Any, Literal, Self

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray, Shaped

from ._base.dtypes import default_dtype, trace_dtype
from ._base.moments import Moments, advance
from .cells._cell import check_sizes


class Readout(eqx.Module):
    r"""A linear readout y = W h + b that may send its error down through weights of its own.

    The gradient of W and b is the ordinary one. What goes down to h is `feedback`:

    - `"symmetric"`: Wᵀ δ, plain backprop;
    - `"random"`: F δ with F fixed (feedback alignment; no optimiser of a `Learner` moves F);
    - `"adaptive"`: F δ, where F receives the gradient of Wᵀ and so approaches it.

    The weights start as U(-b, b) with b = `scale` / √in; `scale=0` predicts 0 at first.

    Parameters: `weight` (out, in), `bias` (out,), `feedback_weight` (in, out) or None.

    Reference: Lillicrap et al., 2016; Akrout et al., 2019.
    """

    weight: Float[Array, "out_size in_size"]
    bias: Float[Array, " out_size"]
    feedback_weight: Float[Array, "in_size out_size"] | None
    feedback: str = eqx.field(static=True)

    def __init__(
        self,
        in_size: int,
        out_size: int,
        *,
        key: PRNGKeyArray,
        feedback: Literal["symmetric", "random", "adaptive"] = "symmetric",
        scale: float = 1.0,
        dtype=None,
    ):
        check_sizes(in_size=in_size, out_size=out_size)
        if feedback not in ("symmetric", "random", "adaptive"):
            raise ValueError(f"feedback is 'symmetric', 'random' or 'adaptive', got {feedback!r}.")
        dtype = default_dtype(dtype)
        key_w, key_f = jax.random.split(key)
        bound = in_size**-0.5
        self.weight = scale * jax.random.uniform(key_w, (out_size, in_size), dtype, -bound, bound)
        self.bias = jnp.zeros(out_size, dtype)
        self.feedback = feedback
        self.feedback_weight = (
            None if feedback == "symmetric" else jax.random.uniform(key_f, (in_size, out_size), dtype, -bound, bound)
        )

    def __call__(self, features: Float[Array, " in_size"]) -> Float[Array, " out_size"]:
        if features.shape != (self.weight.shape[1],):
            raise ValueError(f"Readout expects features of shape ({self.weight.shape[1]},), got {features.shape}.")
        if self.feedback_weight is None:
            return self.weight @ features + self.bias
        adaptive = self.feedback == "adaptive"
        return _aligned(self.weight, self.feedback_weight, features, adaptive) + self.bias

    def widen(self, carry: Any, size: int) -> tuple[Readout, Any]:
        """The readout of features that have grown: the new ones, at the end, count for nothing yet."""
        more = size - self.weight.shape[1]
        wide = eqx.tree_at(lambda r: r.weight, self, jnp.pad(self.weight, ((0, 0), (0, more))))
        if self.feedback_weight is not None:
            wide = eqx.tree_at(lambda r: r.feedback_weight, wide, jnp.pad(self.feedback_weight, ((0, more), (0, 0))))
        return wide, carry


@jax.custom_vjp
def _aligned(weight, feedback, features, adaptive):
    del feedback, adaptive
    return weight @ features


def _aligned_fwd(weight, feedback, features, adaptive):
    return weight @ features, (feedback, features, adaptive)


def _aligned_bwd(residuals, delta):
    feedback, features, adaptive = residuals
    by_weight = jnp.outer(delta, features)
    by_feedback = jnp.where(adaptive, by_weight.T, 0)
    return by_weight, by_feedback, feedback @ delta, None


_aligned.defvjp(_aligned_fwd, _aligned_bwd)


class Fitted(eqx.Module):
    """A part of a model that fits its own leaves from targets, instead of by a gradient.

    The `Learner` keeps these leaves from the optimiser and calls `fit` after each target."""

    @abc.abstractmethod
    def fit(self, carry: Any, target: Shaped[Array, " ..."]) -> Self:
        """The readout after one target; wild targets and features are left out."""


LONG = 0.9999  # decay of the mean squares by which RLS knows what is wild


class RLS(Fitted):
    r"""A linear readout fitted by recursive least squares with forgetting.

        y = Wᵀ φ,  φ = [features, 1]        K = P φ / (λ + φᵀ P φ)
        W ← W + K (target - Wᵀ φ)ᵀ          P ← (P - K φᵀ P) / λ

    The minimiser of the exponentially weighted squared error while the bound below does not bind, at O(features²)
    a step. The gradient of a loss passes through W down to the features, so a recurrent layer below it learns as
    usual. P is kept as a square root S, P = S Sᵀ (Potter's form), so that rounding never makes it indefinite; ‖S‖²
    stays within its first value, so that forgetting without excitation does not wind it up.

    Targets that are NaN are left out, output by output: each has a P of its own, as what was given of it says how much
    its weights are to move, and ages with what was given. So are wild ones, and those of wild features: after 16
    targets, what has a square of more than four times all before it together. A wild start, beside which rounding
    leaves nothing of what comes since, is forgotten.

    - `forgetting`: λ in (0, 1]; an error counts for about 1/(1-λ) steps;
    - `ridge`: P starts at identity / ridge;
    - `shared`: one P for all outputs, `out_size` times less memory and time; then a target with any entry missing is
      left out whole;
    - as a layer of a model: `init(key=...)`, `(carry, features) -> (carry, y)`; the carry is φ.

    Reference: Potter's square-root filter, 1963; Ljung & Söderström, 1983.
    """

    weight: Float[Array, "features out_size"]
    root: Float[Array, "*outputs features features"]
    sizes: Moments
    in_size: int = eqx.field(static=True)
    forgetting: float = eqx.field(static=True)
    ridge: float = eqx.field(static=True)

    def __init__(
        self,
        in_size: int,
        out_size: int,
        *,
        forgetting: float = 0.999,
        ridge: float = 1.0,
        shared: bool = False,
        dtype=None,
    ):
        check_sizes(in_size=in_size, out_size=out_size)
        if not 0 < forgetting <= 1:
            raise ValueError(f"forgetting must lie in (0, 1], got {forgetting}.")
        if not ridge > 0:
            raise ValueError(f"ridge must be positive, got {ridge}.")
        dtype = trace_dtype(default_dtype(dtype))
        self.in_size, self.forgetting, self.ridge = in_size, float(forgetting), float(ridge)
        self.weight = jnp.zeros((in_size + 1, out_size), dtype)
        root = jnp.eye(in_size + 1, dtype=dtype) * ridge**-0.5
        self.root = root if shared or out_size == 1 else jnp.tile(root, (out_size, 1, 1))
        self.sizes = Moments.fresh(1 + out_size, dtype)

    def init(self, *, key: PRNGKeyArray) -> Float[Array, " features"]:
        """φ before the first step: zeros."""
        del key
        return jnp.zeros(self.in_size + 1, self.weight.dtype)

    def __call__(self, carry, features):
        if features.shape != (self.in_size,):
            raise ValueError(f"RLS expects features of shape ({self.in_size},), got {features.shape}.")
        one = jnp.ones(1, self.weight.dtype)
        phi = jnp.concatenate([features.astype(self.weight.dtype), one])
        return jax.lax.stop_gradient(phi), phi @ self.weight

    def fit(self, carry, target):
        """The readout after one target; one that is wild, or whose features are, is left out."""
        target = target.astype(self.weight.dtype)
        sizes = jnp.concatenate([jnp.max(jnp.abs(carry[:-1]), keepdims=True), target])
        # What cannot be squared is never learned from, and leaves no trace here either.
        sizes = jnp.where(jnp.abs(sizes) < float(jnp.finfo(carry.dtype).max) ** 0.5, sizes, jnp.nan)
        apart = float(jnp.finfo(carry.dtype).eps) ** -2
        seen, (low, high), forgotten = advance(self.sizes, sizes, LONG, centred=False, apart=apart)
        ordinary = (low <= sizes) & (sizes <= high)
        target = jnp.where(ordinary[1:] & ordinary[0], target, jnp.nan)
        if self.root.ndim == 2:
            weight, root = self._fitted(self.weight, self.root, carry, target)
        else:
            each = lambda weight, root, target: self._fitted(weight[:, None], root, carry, target[None])
            weight, root = jax.vmap(each, (1, 0, 0), (1, 0))(self.weight, self.root, target)
            weight = weight[..., 0]
        # A start so wild that rounding it leaves no digit for what comes since: begin anew.
        start = jnp.broadcast_to(jnp.eye(self.in_size + 1, dtype=carry.dtype) * self.ridge**-0.5, self.root.shape)
        weight, root = (jnp.where(forgotten.any(), a, b) for a, b in ((0, weight), (start, root)))
        return eqx.tree_at(lambda m: (m.weight, m.root, m.sizes), self, (weight, root, seen))

    def _fitted(self, weight, root, phi, target):
        """The weights of outputs that share a P, and its root, after one target."""
        lam, there = self.forgetting, jnp.isfinite(target).all()
        error = jnp.where(there, target - phi @ weight, 0)
        f = phi @ root
        scale = lam + f @ f
        gain = root @ f
        new = weight + jnp.outer(gain / scale, error)
        narrow = (root - jnp.outer(gain / (scale + jnp.sqrt(lam * scale)), f)) * lam**-0.5
        # ‖S‖² is the trace of P: beyond what it was at the start, forgetting has only wound it up.
        start = (self.in_size + 1) / self.ridge
        size = jnp.sum(narrow * narrow)
        narrow = narrow * jnp.minimum(1, jnp.sqrt(start / size))
        # A target or a feature that is not finite leaves everything as it was.
        use = there & jnp.isfinite(scale) & jnp.isfinite(size) & jnp.isfinite(new).all()
        return jnp.where(use, new, weight), jnp.where(use, narrow, root)
