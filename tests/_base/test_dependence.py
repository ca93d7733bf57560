"""What depends on what, read off a program: never missed, and loops and branches are looked into."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from streamgrad._base.dependence import dependence


def chosen(a, b, c, d):
    return jax.lax.cond(a > 0, lambda b, c, d: (b, c, 1.0), lambda b, c, d: (c, c, d), b, c, d)


def shifted(a, b, c, d):
    def turn(carry, x):
        return (carry[1], carry[2], carry[2] * x), carry[0]

    return jax.lax.scan(turn, (a, b, c), jnp.stack([d, d]))


def counted(a, b, c, d):
    turn = lambda now: (now[0] + b, now[1] * c, now[2])
    return jax.lax.while_loop(lambda now: now[0] < d, turn, (a, 1.0, c))


@jax.custom_vjp
def swapped(a, b):
    return b, a


swapped.defvjp(lambda a, b: ((b, a), None), lambda _, g: g)


def called(a, b, c, d):
    e, f = jax.checkpoint(lambda a, b: (a, b))(a, b)
    return *jax.jit(lambda x, y: (y, x))(c, d), *swapped(e, f), jax.nn.relu(a)


CASES = {
    chosen: ["abc", "c", "ad"],
    shifted: ["abcd", "bcd", "cd", "abcd"],
    counted: ["abd", "abcd", "c"],
    called: ["d", "c", "b", "a", "a"],
}


@pytest.mark.parametrize("function", CASES)
def test_programs_within_a_program_are_opened(function):
    found = dependence(jax.make_jaxpr(function)(1.0, 2.0, 3.0, 4.0).jaxpr)
    want = np.array([[name in names for name in "abcd"] for names in CASES[function]])
    np.testing.assert_array_equal(found, want)
