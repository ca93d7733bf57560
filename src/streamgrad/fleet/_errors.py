"""What goes wrong with a fleet."""


class FleetError(RuntimeError):
    """A fleet's store or a state cannot be used. The message says why and what to do."""
