"""What may be wrong with the storage itself, told from a mistake of ours."""

from collections.abc import Iterator
from contextlib import contextmanager

import sqlalchemy as sa

from index.records import StorageFull, StorageUnavailable


@contextmanager
def storage_errors() -> Iterator[None]:
    """What a database refuses, as what the catalog raises."""
    try:
        yield
    except (sa.exc.DatabaseError, sa.exc.InterfaceError, sa.exc.TimeoutError) as error:
        if isinstance(error, _OUR_MISTAKES):
            raise
        text = str(getattr(error, "orig", None) or error)
        if "disk is full" in text or "No space left" in text:
            raise StorageFull("the disk that holds the catalog is full") from error
        raise StorageUnavailable(f"the catalog cannot be used: {text}") from error


# These come from a wrong statement, not from the storage.
_OUR_MISTAKES = (sa.exc.DataError, sa.exc.IntegrityError, sa.exc.ProgrammingError, sa.exc.NotSupportedError)
