"""What a reset keeps."""

import equinox as eqx


class Persistent(eqx.Module):
    """A carry that outlives episodes: a `reset` keeps it."""
