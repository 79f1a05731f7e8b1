"""Which member of a request's body an error is about."""

from collections.abc import Iterator
from contextlib import contextmanager


class Blamed(Exception):
    """An error, and the JSON pointer of the member of the body that it is about."""

    def __init__(self, error: Exception, pointer: str) -> None:
        super().__init__(str(error))
        self.error = error
        self.pointer = pointer


@contextmanager
def blaming(pointer: str, *kinds: type[Exception]) -> Iterator[None]:
    """Blame a member for errors of these kinds that are raised inside; of bad values, if none is told."""
    blamed = kinds or (ValueError,)
    try:
        yield
    except blamed as error:
        raise Blamed(error, pointer) from error
