"""Tasks: what a learner is set to do, and what it has to beat."""
