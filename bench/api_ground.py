"""What the parts of ``bench.api`` stand on: inputs, and the bare work that no service can avoid."""

import argparse
import base64
import json
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle
from threading import Lock

import numpy as np

from bench.latency import phrase, picture
from bench.load import encoded, json_body
from models.encoder import Encoder
from models.preprocess import Document
from service.compose import open_encoder
from service.config import resolve

EMBEDDINGS = "/v1/embeddings"
TEXTS = 32  # of one request
_BODIES = 256  # that differ: of texts more than the service remembers
_AT_ONCE = {"text": 32, "image": 2}  # documents of one call; more are slower on a core
_MAX_PIXELS = 10**7

Figures = dict[str, float | None]
Read = Callable[[bytes], list[Document]]


class Ground:
    """Options, an encoder as the service opens it, and inputs that are the same in each run."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.rng = np.random.default_rng(0)
        self.settings, _ = resolve({}, os.environ)
        self.encoder: Encoder = open_encoder(self.settings)

    def phrase(self) -> str:
        """Three to sixteen words."""
        return " ".join(phrase(self.rng) for _ in range(4)).rsplit(" ", int(self.rng.integers(4, 18)))[0]

    def texts(self) -> list[list[str]]:
        """The texts of many requests."""
        return [[self.phrase() for _ in range(TEXTS)] for _ in range(_BODIES)]

    def text_bodies(self) -> list[bytes]:
        return [json_body({"input": texts}) for texts in self.texts()]

    def single_bodies(self) -> list[bytes]:
        return [json_body({"input": self.phrase()}) for _ in range(_BODIES)]

    def picture_bodies(self) -> list[bytes]:
        pictures = (picture(self.rng) for _ in range(64))
        return [json_body({"input": [{"image": encoded(data)}]}) for data in pictures]

    def read_texts(self, body: bytes) -> list[Document]:
        given = json.loads(body)["input"]
        return [Document((text,)) for text in (given if isinstance(given, list) else [given])]

    def read_picture(self, body: bytes) -> list[Document]:
        return [self.document(base64.b64decode(json.loads(body)["input"][0]["image"]))]

    def document(self, data: bytes) -> Document:
        return Document((self.encoder.preprocessor.picture(data, max_pixels=_MAX_PIXELS),))

    def bare_rate(self, bodies: Sequence[bytes], read: Read, seconds: float) -> float:
        """Documents a second of plain loops, one for each worker of the encoder: decode as many as share a
        call, encode them."""
        until, coming, taking = time.perf_counter() + seconds, cycle(bodies), Lock()

        def loop(_: int) -> int:
            done = 0
            while time.perf_counter() < until:
                batch: list[Document] = []
                while not batch or len(batch) < _AT_ONCE[batch[0].modality]:
                    with taking:
                        body = next(coming)
                    batch += read(body)
                self.encoder.embed(batch)
                done += len(batch)
            return done

        return self._rate(loop)

    def bare_pipeline(self, pictures: Sequence[bytes]) -> float:
        """Pictures a second where each worker of the encoder decodes and encodes a few at a time."""
        size = _AT_ONCE["image"]
        starts, taking = iter(range(0, len(pictures), size)), Lock()

        def loop(_: int) -> int:
            done = 0
            while True:
                with taking:
                    start = next(starts, None)
                if start is None:
                    return done
                batch = [self.document(data) for data in pictures[start : start + size]]
                self.encoder.embed(batch)
                done += len(batch)

        return self._rate(loop)

    def _rate(self, loop: Callable[[int], int]) -> float:
        workers = self.encoder.workers
        with ThreadPoolExecutor(workers) as threads:
            started = time.perf_counter()
            done = sum(threads.map(loop, range(workers)))
            return done / (time.perf_counter() - started)
