"""What the index knows about vectors: how they are stored, and digests of sets of them."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Vectors = NDArray[np.float32]  # (n, dim), C-contiguous, rows of length one
Seqs = NDArray[np.int64]  # (n,), each the seq of one version of one item

_Words = NDArray[np.uint64]

_TOLERANCE = 1e-3  # how far from one a row's length may be: fp16 encoders round that much
_DIGEST_ROWS = 4096  # rows hashed at once: bounds memory to about 25 MB at dim 384


class VectorError(ValueError):
    """A vector that cannot be stored: wrong shape, not finite, or not of length one."""


def to_bytes(vector: Vectors, dim: int) -> bytes:
    """A (dim,) unit row as little-endian float32 bytes. Raises VectorError."""
    row = np.asarray(vector, dtype="<f4")
    if row.shape != (dim,):
        raise VectorError(f"expected {dim} numbers, got an array of shape {row.shape}")
    length = float(np.linalg.norm(row))
    if not abs(length - 1.0) < _TOLERANCE:  # also refuses NaN
        raise VectorError(f"expected a row of length one, got length {length:.4g}")
    return row.tobytes()


def from_bytes(blobs: Sequence[bytes], dim: int) -> Vectors:
    """The inverse of ``to_bytes`` for many rows: (len(blobs), dim) float32."""
    return np.frombuffer(b"".join(blobs), dtype="<f4").astype(np.float32, copy=False).reshape(-1, dim)


def digest(seqs: Seqs, vectors: Vectors) -> int:
    """A 64-bit digest of the set of (seq, vector) pairs, whatever their order.

    It is a sum modulo 2^64 of one mixed hash per pair, so the digest of a union is the sum of the digests and
    a removed pair is subtracted: snapshot + tail - hidden must equal the catalog.
    """
    odd = _mix(np.arange(1, vectors.shape[1] + 1, dtype=np.uint64)) | np.uint64(1)  # one factor per column
    total = 0
    for start in range(0, len(seqs), _DIGEST_ROWS):
        part = slice(start, start + _DIGEST_ROWS)
        words = np.ascontiguousarray(vectors[part], dtype="<f4").view("<u4").astype(np.uint64)
        rows = _mix(words * odd).sum(axis=1, dtype=np.uint64)
        hashes = _mix(rows ^ _mix(seqs[part].astype(np.uint64)))
        total += int(hashes.sum(dtype=np.uint64))
    return total % 2**64


def _mix(x: _Words) -> _Words:
    """The finaliser of SplitMix64 (Steele, Lea, Flood 2014): every input bit reaches every output bit."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
