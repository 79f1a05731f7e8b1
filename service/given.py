"""Vectors that come with a request: rows that some encoder made, maybe not this one."""

import base64
import binascii
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from index.records import EncoderMismatch
from index.vectors import Vectors

_MIN_LENGTH = 1e-6  # of a vector; a shorter one has no direction
_UNIT = 1e-5  # how far from one a length may be for a row to be kept bit by bit


class VectorInvalid(ValueError):
    """A vector that cannot be compared: of another length, not finite, or without a direction."""


@dataclass(frozen=True)
class Given:
    """Numbers, or base64 of their little-endian 32-bit floats, and the encoder_id of what made them."""

    value: Sequence[float] | str
    space: str

    def row(self, encoder_id: str, dim: int) -> Vectors:
        """The (dim,) unit row. Raises EncoderMismatch: another encoder made it; VectorInvalid."""
        if self.space != encoder_id:
            raise EncoderMismatch(f"the vector is of {self.space[:100]!r}, not of {encoder_id}")
        numbers = self._numbers()
        if numbers.shape != (dim,):
            raise VectorInvalid(f"The vector has {numbers.size} numbers; {encoder_id} makes {dim}.")
        length = float(np.linalg.norm(numbers.astype(np.float64)))
        if not np.isfinite(length) or length < _MIN_LENGTH:
            raise VectorInvalid("The vector has no direction: it is zero, or not finite.")
        row: Vectors = numbers if abs(length - 1) < _UNIT else (numbers / length).astype(np.float32)
        return row

    def as_base64(self) -> str:
        """The numbers as text that is as short as it can be."""
        return (
            self.value
            if isinstance(self.value, str)
            else base64.b64encode(self._numbers().tobytes()).decode()
        )

    def _numbers(self) -> Vectors:
        if not isinstance(self.value, str):
            with np.errstate(over="ignore"):  # what does not fit becomes infinite, and is refused as that
                return np.asarray(self.value, "<f4")
        try:
            return np.frombuffer(base64.b64decode(self.value, validate=True), "<f4")
        except (binascii.Error, ValueError) as error:
            raise VectorInvalid(f"The vector is no base64 of 32-bit floats: {error}") from error
