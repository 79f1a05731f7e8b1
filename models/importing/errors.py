"""The one error of importing; it lies apart so that whoever catches it need not load torch."""


class CheckpointError(ValueError):
    """A checkpoint that cannot become a bundle; the message says in one line why, and what would help."""
