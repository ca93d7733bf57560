"""A choice between two pytrees, flag by flag."""

import jax
import jax.numpy as jnp


def select(flag):
    """Choose `new` where the flag is set, else `old`; the flag has the leading axes of both."""

    def choose(new, old):
        if jnp.issubdtype(old.dtype, jax.dtypes.prng_key):
            data = choose(jax.random.key_data(new), jax.random.key_data(old))
            return jax.random.wrap_key_data(data, impl=jax.random.key_impl(old))
        shape = flag.shape + (1,) * (old.ndim - flag.ndim)
        return jnp.where(flag.reshape(shape), new, old)

    return choose
