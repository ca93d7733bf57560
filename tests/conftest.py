"""Every test runs in float64, under strict dtype promotion, with shapes checked at each call.

The settings go through `jax.config` and not the environment, so that a test that starts a process
(the command line, a cold import) runs it as a user does.
"""

import jax
from jaxtyping import install_import_hook

jax.config.update("jax_enable_x64", True)
jax.config.update("jax_numpy_dtype_promotion", "strict")

install_import_hook("streamgrad", "beartype.beartype")
