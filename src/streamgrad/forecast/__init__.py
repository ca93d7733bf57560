"""The default forecaster: how it sees a stream, its experts, and what it has to beat."""
