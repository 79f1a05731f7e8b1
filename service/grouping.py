"""Which documents share a batch, and how many: those of one kind and of like length."""

from bisect import bisect_left
from collections.abc import Callable, Sequence

MATCHED_AT_ONCE = 4  # documents of one request; then whoever came meanwhile has a turn
# Texts of like length share a batch, which is padded to its longest. In characters; about 4 make a token, and
# sequences have 16, 32, 64, … of these.
_LENGTHS = (60, 125, 250, 500, 1000)
_TEXTS = (*(f"text-{most}" for most in _LENGTHS), "text-long")
# Texts in one batch, by their tokens, and pictures: a query behind it waits little. One core has more to do
# with each, and a batch whose values fit its cache is done sooner by the document.
_TOKENS_AT_ONCE, _TOKENS_OF_CORE = 1024, 512
_PICTURES_AT_ONCE, _PICTURES_OF_CORE = 8, 2
UNREAD = "image#unread"  # the group of small pictures that whoever encodes them decodes


def group_of(parts: Sequence[object]) -> str:
    """Which documents may share a batch: those of one modality, and texts of like length."""
    texts = [len(part) for part in parts if isinstance(part, str)]
    if len(texts) < len(parts):
        return "mixed" if texts else "image"
    return _TEXTS[bisect_left(_LENGTHS, sum(texts))]


def batch_limit(max_batch: int, *, on_cores: bool = False) -> Callable[[str], int]:
    """Bounds of each group's batches: what takes long shares small ones, so that a query behind one waits
    little. ``on_cores``: each batch has one core of a processor."""
    tokens = _TOKENS_OF_CORE if on_cores else _TOKENS_AT_ONCE
    pictures = _PICTURES_OF_CORE if on_cores else _PICTURES_AT_ONCE
    texts = {f"text-{most}": tokens // (16 << step) for step, most in enumerate(_LENGTHS)}
    most = {**texts, "text-long": 2, "image": pictures, "mixed": pictures}
    return lambda group: min(max_batch, most.get(group.partition("#")[0], MATCHED_AT_ONCE))


def beside(group: str) -> Sequence[str]:
    """The groups whose documents may fill a batch of this one: texts of more like length first."""
    return _BESIDE.get(group, ())


def pauses(group: str) -> bool:
    """Whether batches of it leave their core at times: pictures are read and scaled in small steps, and
    Python's lock is waited for between them."""
    return group.partition("#")[0] in ("image", "mixed")


def _by_likeness(at: int) -> list[str]:
    others = (name for name in _TEXTS if name != _TEXTS[at])
    return sorted(others, key=lambda name: abs(_TEXTS.index(name) - at))


_BESIDE = {group: _by_likeness(at) for at, group in enumerate(_TEXTS)}
