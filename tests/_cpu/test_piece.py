"""Pieces: a step as one kernel of XLA's CPU compiler."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import lax

import streamgrad as sg
from streamgrad import compiler_options
from streamgrad._cpu.piece import LARGEST, MARKS, ONE_BY_ONE, PARTS, PRODUCT, _operations, apart, is_piece, piece

MARK = 'inlineable="false"'  # the other one XLA gives to small loops of its own accord
assert MARKS["inlineable"] == "false"


def compiled(function, *arguments):
    return jax.jit(function, compiler_options=compiler_options(pieces=True)).lower(*arguments).compile()


def is_marked(function, *arguments):
    return MARK in compiled(function, *arguments).as_text()


# Every part that may stand in a piece, by an example of its own. x: (12,), above 0 and below 1; k: whole numbers.

ELEMENTWISE = """
abs acos asin asinh atan atanh bessel_i0e bessel_i1e cbrt ceil cos cosh digamma erf erf_inv erfc exp exp2 expm1 floor
is_finite lgamma log log1p logistic neg round rsqrt sign sin sinh sqrt square tan tanh
""".split()  # noqa: SIM905
BINARY = "add atan2 div eq ge gt le lt max min mul ne nextafter pow rem sub".split()  # noqa: SIM905
WHOLE = {
    "and": lambda k: k & 3,
    "or": lambda k: k | 3,
    "xor": lambda k: k ^ 3,
    "not": lambda k: ~k,
    "shift_left": lambda k: k << 1,
    "shift_right_arithmetic": lambda k: k >> 1,
    "shift_right_logical": lambda k: lax.shift_right_logical(k, jnp.ones_like(k)),
    "population_count": lax.population_count,
    "argmax": jnp.argmax,
    "argmin": jnp.argmin,
}
OTHERS = {
    "add_any": lambda x: jax.grad(lambda x: (x * jnp.sin(x)).sum())(x),
    "bitcast_convert_type": lambda x: lax.bitcast_convert_type(x, jnp.int32),
    "broadcast_in_dim": lambda x: jnp.broadcast_to(x, (2, 12)),
    "checkpoint": lambda x: jax.checkpoint(jnp.sin)(x),
    "clamp": lambda x: lax.clamp(0.2, x, 0.6),
    "complex": lambda x: lax.complex(x, 2 * x),
    "real": lambda x: lax.real(lax.complex(x, 2 * x)),
    "imag": lambda x: lax.imag(lax.complex(x, 2 * x)),
    "conj": lambda x: lax.conj(lax.complex(x, 2 * x)),
    "concatenate": lambda x: jnp.concatenate([x, x]),
    "cond": lambda x: lax.cond(x[0] > 0.5, jnp.sin, jnp.cos, x),
    "convert_element_type": lambda x: (x * 9).astype(jnp.int32),
    "copy": lambda x: jnp.array(x, copy=True),
    "cummax": lambda x: lax.cummax(x),
    "cummin": lambda x: lax.cummin(x),
    "cumprod": lambda x: lax.cumprod(x),
    "cumsum": lambda x: lax.cumsum(x),
    "custom_jvp_call": lambda x: jax.nn.relu(x - 0.5),
    "custom_vjp_call": lambda x: optional(x),
    "custom_vmap_call": lambda x: batched(x),
    "dot_general": lambda x: x.reshape(3, 4) @ x.reshape(4, 3),
    "dynamic_slice": lambda x: lax.dynamic_slice(x, (jnp.int32(x[0] * 3),), (4,)),
    "dynamic_update_slice": lambda x: lax.dynamic_update_slice(x, x[:2] + 1, (jnp.int32(x[0] * 3),)),
    "gather": lambda x: x[jnp.array([3, 1, 3])],
    "integer_pow": lambda x: x**3,
    "iota": lambda x: x + jnp.arange(12.0),
    "jit": lambda x: jax.jit(jnp.sin)(x),
    "optimization_barrier": lax.optimization_barrier,
    "pad": lambda x: jnp.pad(x, 2),
    "platform_index": lambda x: lax.platform_dependent(x, cpu=jnp.sin, default=jnp.cos),
    "random_bits": lambda x: x + jax.random.uniform(jax.random.key(0), (12,)),
    "random_fold_in": lambda x: x + jax.random.uniform(jax.random.fold_in(jax.random.key(0), jnp.int32(x[0] * 9))),
    "random_seed": lambda x: x + jax.random.uniform(jax.random.key(jnp.int32(x[0] * 9))),
    "random_split": lambda x: x + jax.random.uniform(jax.random.split(jax.random.key(0))[0]),
    "random_unwrap": lambda x: jax.random.key_data(jax.random.key(jnp.int32(x[0] * 9))),
    "random_wrap": lambda x: x + jax.random.uniform(jax.random.wrap_key_data(jnp.uint32(x[:2] * 9))),
    "reduce_and": lambda x: (x > 0.5).all(),
    "reduce_or": lambda x: (x > 0.5).any(),
    "reduce_max": jnp.max,
    "reduce_min": jnp.min,
    "reduce_prod": jnp.prod,
    "reduce_sum": jnp.sum,
    "reduce_precision": lambda x: lax.reduce_precision(x, 8, 7),
    "reshape": lambda x: x.reshape(3, 4),
    "rev": lambda x: x[::-1],
    "scan": lambda x: lax.scan(lambda c, x: (c + x, c * x), 0 * x[0], x),
    "select_n": lambda x: jnp.where(x > 0.5, x, 0),
    "slice": lambda x: x[2:5],
    "split": lambda x: lax.split(x, (5, 7)),
    "squeeze": lambda x: x.reshape(1, 12).squeeze(0),
    "stack": lambda x: jnp.stack([x, x]),
    "stop_gradient": lax.stop_gradient,
    "tile": lambda x: jnp.tile(x, 3),
    "transpose": lambda x: x.reshape(3, 4).T,
    "unstack": lambda x: sum(jnp.unstack(x)),
    "while": lambda x: lax.fori_loop(0, jnp.int32(x[0] * 9), lambda i, x: jnp.sin(x), x),
}


@jax.custom_batching.custom_vmap
def batched(x):
    return jnp.sin(x)


@batched.def_vmap
def _(size, given, x):
    return jnp.sin(x), given[0]


@jax.custom_vjp
def optional(x):
    return jnp.sin(x)


optional.defvjp(lambda x: (optional(x), x), lambda x, d: (d * x,))


def examples():
    yield "acosh", lambda x: lax.acosh(x + 1)
    yield from ((name, getattr(lax, name)) for name in ELEMENTWISE)
    yield from ((name, lambda x, f=getattr(lax, name): f(x, 1.5 - x)) for name in BINARY)
    yield from ((name, lambda x, f=f: f((x * 100).astype(jnp.int32))) for name, f in WHOLE.items())
    yield from OTHERS.items()


X = jnp.asarray(np.random.default_rng(0).uniform(0.1, 0.9, 12))


@pytest.mark.parametrize("group", range(4))
def test_every_part_is_compiled_within_a_kernel(group):
    mine = list(examples())[group::4]
    together = lambda x: {name: f(x) for name, f in mine}
    program = compiled(piece(together), X)
    assert MARK in program.as_text()
    for a, b in zip(jax.tree.leaves(program(X)), jax.tree.leaves(jax.jit(together)(X)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_the_list_of_parts_is_what_the_examples_hold():
    held = {operation.primitive.name for _, f in examples() for operation in _operations(jax.make_jaxpr(f)(X).jaxpr)}
    elsewhere = {"online_gradient", "stack", "unstack"}  # within a learner; newer than JAX 0.10.0
    assert held <= {*PARTS} and {*PARTS} - held <= elsewhere


@pytest.mark.parametrize(
    "function",
    [
        jnp.sort,
        lambda x: x.at[jnp.array([1, 3, 3])].add(2.0),
        lambda x: jnp.abs(jnp.fft.fft(x)),
        lambda x: jnp.linalg.cholesky(jnp.diag(x)),
        lambda x: jax.pure_callback(np.sin, jax.ShapeDtypeStruct((12,), float), x),
        lambda x: lax.fori_loop(0, 3, lambda _, x: jnp.sort(x)[::-1], x),
    ],
)
def test_what_no_kernel_can_hold_is_compiled_as_it_is(function):
    assert not is_marked(piece(function), X)
    np.testing.assert_allclose(jax.jit(piece(function))(X), function(X), rtol=1e-6)


def test_a_large_state_is_no_piece():
    large = jnp.zeros(LARGEST // 8 + 1)
    assert is_marked(piece(jnp.exp), large[1:]) and not is_marked(piece(jnp.exp), large)
    assert not is_piece(lambda x: jnp.outer(jnp.arange(1e6), x).sum(), X)  # what is large on the way


def test_what_a_bare_loop_is_slow_at_is_no_piece():
    """Products of two matrices, which a library makes in tiles, and many sines, which other kernels take together."""
    side = round(PRODUCT ** (1 / 3))
    square = lambda n: jax.ShapeDtypeStruct((n, n), float)
    product = lambda a, b: a @ b
    assert is_piece(product, square(side), square(side)) and not is_piece(product, square(2 * side), square(2 * side))
    assert is_piece(lambda a: a @ a[0], square(300)) and not is_piece(lambda a: a @ a[:2].T, square(300))
    assert not is_piece(lambda a, b: jax.vmap(product)(a, b), *2 * [jax.ShapeDtypeStruct((9, 8, 8), float)])
    angles = lambda n: jax.ShapeDtypeStruct((n,), float)
    assert is_piece(jnp.sin, angles(ONE_BY_ONE)) and not is_piece(jnp.sin, angles(ONE_BY_ONE + 1))
    assert not is_piece(lambda a: lax.fori_loop(0, 3, lambda _, a: jnp.cos(a), a), angles(ONE_BY_ONE + 1))


def test_a_piece_has_no_operation_for_several_threads_and_none_of_a_library():
    """Either would be refused by the compiler: loops over many entries, and products."""
    wide = jnp.ones((256, 256))
    both = lambda x: (jnp.tanh(x) * jnp.exp(x)).sum(0) + (x[:8, :8] @ x[:8, :8])[0, 0] + x @ x[0]
    assert is_marked(piece(both), wide)
    np.testing.assert_allclose(compiled(piece(both), wide)(wide), both(wide), rtol=1e-5)


def test_a_piece_can_be_differentiated_and_batched():
    f = lambda x: jnp.sum(jnp.sin(x) * x)
    np.testing.assert_allclose(jax.jit(jax.grad(piece(f)))(X), jax.grad(f)(X), rtol=1e-6)
    rows = jnp.stack([X, 2 * X])
    np.testing.assert_allclose(jax.jit(jax.vmap(piece(f)))(rows), jax.vmap(f)(rows), rtol=1e-6)


def test_what_is_apart_is_fused_with_nothing():
    """Sines of a row, written once, and not again for every row that they multiply."""
    spread = lambda hold: lambda x: hold(jnp.sin(x)) * jnp.arange(8.0)[:, None]
    fused = lambda hold: [
        computation
        for computation in compiled(spread(hold), X).as_text().split("\n\n")
        if "sine(" in computation and "multiply(" in computation
    ]
    assert fused(lambda x: x) and not fused(apart)


@pytest.mark.parametrize("cell", [sg.cells.GRU, sg.cells.LRU])
def test_a_small_step_is_one_call(cell):
    key = jax.random.key(0)
    cell = cell(3, 8, key=key)
    net = sg.nn.Sequential([sg.Recurrent(cell, sg.SnAp(1)), sg.Readout(cell.out_size, 1, key=key)])
    learner = sg.Learner(net, optax.sgd(0.1), loss=sg.losses.mse)
    row = np.zeros(3), np.zeros(1)
    st = learner.init(key=key, like=row)
    assert learner._small(learner.program, st, *row)
    text = learner._step[True].lower(learner.program, st, *row).compile().as_text()
    entry = text[text.index("ENTRY") :]
    assert entry.count(" call(") == 1 and "fusion(" not in entry and "while(" not in entry


@pytest.mark.parametrize(
    "function",
    [
        lambda x, y: 2 * x,
        lambda x, y: lax.while_loop(lambda c: c[0] < 3, lambda c: (c[0] + 1, 2 * c[1], c[2]), (0, x, y))[1],
        lambda x, y: lax.dynamic_index_in_dim(x[None], y[0].astype(jnp.int32) % 1, keepdims=False),
        lambda x, y: jnp.where(jnp.ones(12, bool), x, y),
        lambda x, y: (y, x),
        lambda x, y: jnp.ones(3),
    ],
)
def test_a_piece_may_take_what_it_does_not_read(function):
    """XLA aborts the process on such a kernel, be it that only its own simplification shows that nothing is read."""
    made = jax.jit(lambda x: piece(function)(jnp.sin(x), jnp.cos(x)), compiler_options=compiler_options(pieces=True))(X)
    for a, b in zip(jax.tree.leaves(made), jax.tree.leaves(function(jnp.sin(X), jnp.cos(X))), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)


@pytest.mark.parametrize(
    "function",
    [
        lambda x, none: (x, none),
        lambda x, none: (jnp.zeros((3, 0)), jnp.concatenate([x, none])),
        lambda x, none: lax.fori_loop(0, x[0].astype(jnp.int32) + 3, lambda _, c: (jnp.sin(c[0]), c[1]), (x, none)),
        lambda x, none: lax.cond(x[0] > 9, lambda c: c, lambda c: (2 * c[0], c[1]), (x, none)),
        lambda x, none: lax.scan(lambda c, a: ((c[0] + a, c[1]), c[1]), (x, none), x),
    ],
)
def test_a_piece_may_take_and_give_arrays_without_entries(function):
    none = jnp.zeros(0)
    made = jax.jit(lambda x, none: piece(function)(jnp.sin(x), none), compiler_options=compiler_options(pieces=True))(
        X, none
    )
    for a, b in zip(jax.tree.leaves(made), jax.tree.leaves(function(jnp.sin(X), none)), strict=True):
        assert a.shape == b.shape and a.dtype == b.dtype
        np.testing.assert_allclose(a, b, rtol=1e-6)


def test_a_batch_has_no_pieces():
    with pytest.raises(ValueError, match="batched=True or pieces=True"):
        sg.compiler_options(batched=True, pieces=True)
