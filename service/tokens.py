"""Write tokens: positions in a collection's log, as clients see them."""

import re

_TOKEN = re.compile(r"wt_([0-9a-f]{1,15})")


class TokenInvalid(ValueError):
    """This is no write token."""


class WriteNotCovered(Exception):
    """What is searched here does not have a write that the search must see."""


def write_token(seq: int) -> str:
    """The token of everything up to ``seq``."""
    return f"wt_{seq:010x}"


def seq_of(token: str) -> int:
    """The inverse of ``write_token``. Raises TokenInvalid."""
    found = _TOKEN.fullmatch(token)
    if found is None:
        raise TokenInvalid("The write_token is none that a write to this server gave.")
    return int(found[1], 16)
