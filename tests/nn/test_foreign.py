"""Layers of other libraries in a model: what fits stays, what does not is refused by name, with what to take."""

import equinox as eqx
import jax
import jax.numpy as jnp
import pytest

import streamgrad as sg

KEY = jax.random.key(0)
PLACES = {
    "Sequential: layer 1": lambda layer: sg.nn.Sequential([jnp.tanh, layer]),
    "Parallel: layer 0": lambda layer: sg.nn.Parallel([layer, jnp.tanh]),
    "Residual: its layer": sg.nn.Residual,
}


class Flax:
    """An `init` of another kind."""

    def init(self, rngs, x):
        return {}

    def __call__(self, variables, x):
        return x


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize(
    "make, said",
    [
        (lambda: eqx.nn.BatchNorm(3, "batch", mode="ema"), r"\(BatchNorm\) cannot be called.*sg.nn.Normalise"),
        (lambda: eqx.nn.Dropout(0.5), r"\(Dropout\) cannot be called.*sg.nn.Dropout"),
        (lambda: eqx.nn.Sequential([eqx.nn.Identity(), eqx.nn.Dropout(0.5)]), r"\(Dropout\).*inference_mode"),
        (lambda: eqx.nn.GRUCell(3, 3, key=KEY), r"\(GRUCell\).*sg.Recurrent\(sg.cells.GRU"),
        (lambda: eqx.nn.LSTMCell(3, 3, key=KEY), r"\(LSTMCell\).*sg.Recurrent\(sg.cells.LSTM"),
        (lambda: eqx.nn.MultiheadAttention(1, 3, key=KEY), r"\(MultiheadAttention\).*lambda x: attention"),
        (lambda: lambda x, other: x, "cannot be called.*a function of x"),
        (lambda: eqx.nn.Linear, "is the class Linear itself"),
        (lambda: sg.cells.GRU(3, 3, key=KEY), r"is a cell: give it an algorithm"),
        (lambda: 3, "is not callable: 3"),
        (Flax, r"\(Flax\) has an init.*init\(key=...\) -> carry"),
    ],
    ids=lambda value: value[:24] if isinstance(value, str) else "",
)
def test_what_asks_for_more_than_x_is_refused_by_name(place, make, said):
    with pytest.raises(TypeError, match=f"{place}.*{said}"):
        PLACES[place](make())


def test_plain_layers_stay_welcome():
    plain = [
        eqx.nn.Linear(3, 3, key=KEY),
        eqx.nn.MLP(3, 3, 4, 1, key=KEY),
        eqx.nn.LayerNorm(3),
        eqx.nn.Identity(),
        eqx.nn.Lambda(jnp.sin),
        eqx.nn.Dropout(0.5, inference=True),
        eqx.nn.Sequential([eqx.nn.Linear(3, 3, key=KEY), eqx.nn.Lambda(jnp.tanh)]),
        jax.nn.relu,
        jax.nn.softmax,
        jnp.tanh,
        lambda x, *, key=None: x,
        jax.jit(jnp.cos),
        eqx.filter_jit(jnp.cos),
        jax.vmap(jnp.sin),
    ]
    model = sg.nn.Sequential([*plain, sg.nn.Normalise(3), sg.Readout(3, 1, key=KEY)])
    _, y = model(model.init(key=KEY), jnp.ones(3))
    assert y.shape == (1,)
    for layer in plain:
        sg.nn.Residual(layer), sg.nn.Parallel([layer])


def test_parts_of_the_package_are_there_after_one_import():
    """Lazily: `tests/test_layout.py` says what a cold import may load."""
    assert callable(sg.checkpoint.save) and sg.data.__name__ == "streamgrad.data"
    assert {"checkpoint", "data", "Learner"} <= set(dir(sg))
    assert sg.__getattr__("data") is sg.data
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = sg.nothing
