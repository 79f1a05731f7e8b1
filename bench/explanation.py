"""Are explanations right? ``python -m bench.explanation --bundle DIR`` ends with one JSON line.

Scenes of two to four pictures of the gallery, side by side on paper, are explained by the caption of each.
Pointing game (Zhang et al. 2016): how often the hottest region lies on the picture that the caption is of,
beside the middle of the scene (a centre prior), and beside any place (chance). Deletion and insertion
(Petsiuk et al. 2018): the mean cosine while regions are covered, or shown, from the hottest on, less that in
random order. Words: of two captions in one text, how often the hottest word is one of the picture's own.
"""

import argparse
import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from models.bundle import Bundle
from models.data.plans import Group, Place, Plan, Thing
from models.data.scenery import PAPERS, Backdrop
from models.data.scenes import Library, draw, placed
from models.encoder import Encoder
from models.preprocess import Document, Picture
from service.admission import Admission
from service.batcher import Batcher
from service.embedder import Embedder
from service.encoding import Encoder as AnyEncoder
from service.encoding import Work, work_of
from service.explanation import Explainer, Heat
from service.reading import Limits

GALLERY = Path(__file__).resolve().parent.parent / "service" / "gallery"
GRID = 6
ORDERS = 3  # random ones, whose mean is what an explanation must beat


@dataclass(frozen=True, eq=False)
class Scene:
    """Pixels (S, S, 3), and of each thing in it its caption and its place."""

    pixels: Picture
    captions: Sequence[str]
    places: Sequence[Place]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--bundle", type=Path, default=Bundle.default_path())
    parser.add_argument("--scenes", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    encoder = Encoder.load(arguments.bundle, device="cpu")
    print(json.dumps(asyncio.run(measure(encoder, arguments.scenes, arguments.seed))))


async def measure(encoder: Encoder, count: int, seed: int) -> dict[str, object]:
    """All numbers."""
    library, captions = gallery()
    rng = np.random.default_rng(seed)
    scenes = [scene(library, captions, rng, encoder.preprocessor.image_size) for _ in range(count)]
    async with embedding(encoder) as embedder:
        found = [await one(Explainer(embedder), embedder, each, rng) for each in scenes]
    told = {
        name: round(float(np.mean([value for each in found for value in each[name]])), 3) for name in found[0]
    }
    return {
        "encoder_id": encoder.id,
        "scenes": count,
        "explained": sum(len(s.places) for s in scenes),
        **told,
    }


@asynccontextmanager
async def embedding(encoder: AnyEncoder) -> AsyncIterator[Embedder]:
    """An embedder without bounds around an encoder."""
    admission = Admission(10**9, 10**9)
    batcher: Batcher[Work] = Batcher(work_of(encoder), max_batch=lambda group: 32, admission=admission)
    batcher.start()
    embedder = Embedder(encoder, batcher, admission, Limits(*[10**9] * 6), 1)
    try:
        yield embedder
    finally:
        await batcher.close()
        embedder.close()


async def one(
    explainer: Explainer, embedder: Embedder, scene: Scene, rng: np.random.Generator
) -> dict[str, list[float]]:
    """What one scene says of each of its things."""
    found: dict[str, list[float]] = {
        name: []
        for name in ("pointing", "centre", "chance", "deletion", "insertion", "words", "words_chance")
    }
    for number, (caption, place) in enumerate(zip(scene.captions, scene.places, strict=True)):
        other = scene.captions[number - 1]
        explanation = await explainer.explain(Document((caption,)), Document((scene.pixels,)), GRID)
        heat = explanation.heat
        assert heat is not None
        row, column = np.unravel_index(heat.argmax(), heat.shape)
        found["pointing"].append(holds(place, (column + 0.5) / GRID, (row + 0.5) / GRID))
        found["centre"].append(holds(place, 0.5, 0.5))
        found["chance"].append((place.right - place.left) * (place.bottom - place.top))
        deleted, inserted = await areas(embedder, scene.pixels, caption, heat, rng)
        found["deletion"].append(deleted)
        found["insertion"].append(inserted)
        both = await explainer.explain(
            Document((f"{caption} and {other}",)), Document((scene_of_one(scene, number),)), 2
        )
        assert both.tokens is not None
        first = max(both.tokens, key=lambda token: token.score)
        found["words"].append(float(first.start < len(caption)))
        own = sum(token.start < len(caption) for token in both.tokens)
        found["words_chance"].append(own / len(both.tokens))
    return found


def holds(place: Place, x: float, y: float) -> float:
    """Whether a point lies in a cell: 1 or 0."""
    return float(place.left <= x < place.right and place.top <= y < place.bottom)


def gallery() -> tuple[Library, dict[str, str]]:
    """The gallery's pictures as things, and the caption of each by its id."""
    lines = [json.loads(line) for line in (GALLERY / "pairs.jsonl").read_text().splitlines()]
    captions = {line["id"]: line["captions"][0] for line in lines}
    return Library.of(GALLERY, [thing(line["id"], line["image"]) for line in lines]), captions


def thing(name: str, image: str) -> Thing:
    """A picture of the gallery as a thing that stands in scenes."""
    return Thing(name, image, "gallery", "random", name, name, "", (), False, None, None)


def scene(library: Library, captions: dict[str, str], rng: np.random.Generator, size: int) -> Scene:
    """Two to four different things on paper, none over another."""
    chosen = rng.choice(len(library.things), int(rng.integers(2, 5)), replace=False)
    groups = tuple(Group(library.things[i], 1, None) for i in chosen)
    paper = Backdrop(str(rng.choice(list(PAPERS))), int(rng.integers(2**31)))
    plan = placed(Plan(paper, groups), rng)
    return Scene(
        draw(library, plan, size),
        [captions[group.thing.id] for group in plan.groups],
        [group.places[0] for group in plan.groups],
    )


def scene_of_one(scene: Scene, number: int) -> Picture:
    """The scene with all its things covered but one."""
    size, place = len(scene.pixels), scene.places[number]
    box = np.s_[
        round(place.top * size) : round(place.bottom * size),
        round(place.left * size) : round(place.right * size),
    ]
    alone = np.empty_like(scene.pixels)
    alone[:] = scene.pixels.reshape(-1, 3).mean(axis=0).astype(np.uint8)
    alone[box] = scene.pixels[box]
    return alone


async def areas(
    embedder: Embedder, picture: Picture, caption: str, heat: Heat, rng: np.random.Generator
) -> tuple[float, float]:
    """Mean cosines under deletion and insertion by heat, less the means of random orders."""
    row = (await embedder.embed([(caption,)]))[0]
    assert not isinstance(row, Exception)
    orders = [np.argsort(-heat.ravel()), *(rng.permutation(heat.size) for _ in range(ORDERS))]
    documents = [
        Document((shown,))
        for order in orders
        for shown in (*steps(picture, order), *steps(picture, order[::-1]))
    ]
    rows = await embedder.embed_read(documents)
    cosines = np.array([float(each @ row) for each in rows if not isinstance(each, Exception)])
    # With a part of the regions covered; the last to be covered are the first to be shown.
    means = cosines.reshape(len(orders), 2, -1).mean(axis=2)
    deletion, insertion = means[:, 0], means[:, 1]
    return float(deletion[0] - deletion[1:].mean()), float(insertion[0] - insertion[1:].mean())


def steps(picture: Picture, order: NDArray[np.int64]) -> list[Picture]:
    """The picture with the first 1/6, 2/6 … 5/6 of the regions covered by its mean colour."""
    size = len(picture)
    cells = np.arange(size) * GRID // size
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order))
    ranks = rank.reshape(GRID, GRID)[cells][:, cells, None]
    mean = picture.reshape(-1, 3).mean(axis=0).astype(np.uint8)
    return [np.where(ranks < share * len(order) / 6, mean, picture) for share in range(1, 6)]


if __name__ == "__main__":
    main()
