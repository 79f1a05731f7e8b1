"""Which documents share a batch, and how many: those of one kind and of like length."""

from collections.abc import Callable, Sequence

MATCHED_AT_ONCE = 4  # documents of one request; then whoever came meanwhile has a turn
# Texts of like length share a batch, which is padded to its longest. In characters; about 4 make a token, and
# sequences have 16, 32, 64, … of these.
_LENGTHS = (60, 125, 250, 500, 1000)
_TOKENS_AT_ONCE = 1024  # of texts in one batch: a query behind it waits little


def group_of(parts: Sequence[object]) -> str:
    """Which documents may share a batch: those of one modality, and texts of like length."""
    texts = [part for part in parts if isinstance(part, str)]
    if len(texts) < len(parts):
        return "mixed" if texts else "image"
    length = sum(map(len, texts))
    return f"text-{next((most for most in _LENGTHS if most >= length), 'long')}"


def batch_limit(max_batch: int) -> Callable[[str], int]:
    """Bounds of each group's batches: what takes long shares small ones, so that a query behind one waits
    little."""
    texts = {f"text-{most}": _TOKENS_AT_ONCE // (16 << step) for step, most in enumerate(_LENGTHS)}
    most = {**texts, "text-long": 2, "image": 8, "mixed": 8}
    return lambda group: min(max_batch, most.get(group, MATCHED_AT_ONCE))
