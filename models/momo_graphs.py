# mypy: disable-error-code="import-not-found,import-untyped,no-any-unimported"
"""A SharedEncoder's second ONNX graph: sequences of words and picture tokens to answers.

The words and the trunk are in this graph alone, the front end in the image graph alone (models.image_graph):
each weight is stored and loaded once, whatever is embedded.
"""

from collections.abc import Sequence

import numpy as np
import onnx
from onnx import TensorProto

from models.config import CROWD_SHARPNESS, MARKERS, NAME, SENTENCE, ModelConfig
from models.graphs import BLOCK, FLOOR, Affine, GraphBuilder, LayerRanges, Weights
from models.sequences import JUDGE, SLOTS

EMBEDDING, MATCH = "embedding", "match"
DOCUMENT_INPUTS = ("input_ids", "word_positions", "word_slots", "picture_tokens", "picture_slots")
_FAR = 1e4  # taken from the attention score of a token that is not read
_HEADS = "heads_"  # before the names of what heads of later make are made of
_END = np.iinfo(np.int64).max  # of a slice that goes on to the last
# By slot, the last row for padding: the side a token is on (query, candidate, judge), and a one.
_SIDES = np.zeros((JUDGE + 2, 4), np.float32)
_SIDES[:SLOTS, 0] = _SIDES[SLOTS:JUDGE, 1] = _SIDES[JUDGE, 2] = _SIDES[:, 3] = 1
# What a token of each side (a row) adds to the score of what it reads; the last: what all of them take away.
_READS = _FAR * np.array([[1, 0, 0, 0], [0, 1, 0, 0], [1, 1, 1, 0], [0, 0, 0, -1]], np.float32)


def document_graph(
    config: ModelConfig, weights: Weights, ranges: Sequence[LayerRanges] | None
) -> onnx.ModelProto:
    """A batch as models.sequences lays it out -> embedding (n, dim), unit rows, and match (n,), logits.

    With what each layer of the trunk has been seen to read the weights have 8 bits, else they are float32.
    """
    g = GraphBuilder(BLOCK if ranges else None)
    slots = g.op("Concat", "word_slots", "picture_slots", axis=1)
    sides = g.op("Gather", g.constant(_SIDES), slots)  # (n, T, 4)
    states = _states(g, config, weights, ranges, slots, sides)
    return _answers(g, config, weights, states, sides)


def with_other_heads(document: onnx.ModelProto, config: ModelConfig, weights: Weights) -> onnx.ModelProto:
    """A document graph whose words and trunk stay as they are, and whose heads are those of these weights.

    So a bundle gets other heads without its checkpoint, and what its trunk reads stays bit for bit the same.
    """
    kept = document.graph.node[: last_of_trunk(document) + 1]
    read = {name for node in kept for name in node.input}
    quantised = any(node.op_type == "MatMulNBits" for node in kept)
    g = GraphBuilder(BLOCK if quantised else None, prefix=_HEADS)
    g.nodes.extend(kept)
    g.constants.extend(tensor for tensor in document.graph.initializer if tensor.name in read)
    sides = next(node.output[0] for node in kept if node.op_type == "Gather")
    return _answers(g, config, weights, kept[-1].output[0], sides)


def last_of_trunk(document: onnx.ModelProto) -> int:
    """The number of the node that gives the trunk's last states: the last norm there is."""
    kinds = [node.op_type for node in document.graph.node]
    return len(kinds) - 1 - kinds[::-1].index("SkipLayerNormalization")


def _answers(
    g: GraphBuilder, config: ModelConfig, weights: Weights, states: str, sides: str
) -> onnx.ModelProto:
    """The graph with its heads: what the trunk's states (n, T, width) say of each side (n, T, 4)."""
    rows = _Rows(g, config, weights, states)
    columns = g.op("Transpose", sides, perm=[0, 2, 1])
    query, candidate, judge = (g.slice(columns, 1, side, side + 1) for side in range(3))  # (n, 1, T) each
    asked = rows.mean(query)
    g.op("Squeeze", asked, g.integers(1), output=EMBEDDING)
    # The runtime computes every output, whichever is asked for: what a match costs is on a branch.
    judged = g.op("ReduceMax", judge, g.integers(1, 2), keepdims=0)  # (n,): whether a row is a pair
    pairs = g.op("Cast", g.op("ReduceMax", judged, keepdims=0), to=TensorProto.BOOL)
    with g.branch(pairs, otherwise=judged, output=MATCH):
        _match(g, config, weights, rows, states, (query, candidate, judge), asked)
    words = (TensorProto.INT64, ("batch", "words"))
    tokens = (TensorProto.FLOAT, ("batch", "tokens", config.token_width))
    token_slots = (TensorProto.INT64, ("batch", "tokens"))
    inputs = zip(DOCUMENT_INPUTS, (words, words, words, tokens, token_slots), strict=True)
    return g.model(dict(inputs), {EMBEDDING: ("batch", config.dim), MATCH: ("batch",)})


def _match(
    g: GraphBuilder,
    config: ModelConfig,
    weights: Weights,
    rows: "_Rows",
    states: str,
    sides: tuple[str, str, str],
    asked: str,
) -> None:
    """SharedEncoder.match (n,) of rows that are pairs; asked (n, 1, dim) is the queries' rows."""
    query, candidate, judge = sides
    row = rows.mean(candidate)
    alike = g.op("MatMul", asked, g.op("Transpose", row, perm=[0, 2, 1]))
    found = _agreement(g, rows.tokens(), query, candidate)
    read = g.linear(g.op("MatMul", judge, states), weights.affine("itm.0"))
    logit = g.linear(g.op("Gelu", read), weights.affine("itm.2"))
    if config.front_end == "stem":
        logit = g.op("Mul", logit, rows.drawn(g.op("Add", query, candidate)))
    logit = g.op("Add", logit, rows.crowded(row, found, query, candidate))
    if config.front_end == "stem":
        logit = g.op("Add", logit, rows.scene(asked, query, candidate))
    *scales, offset = weights.take("match_scale")
    for part, scale in zip((alike, found), scales, strict=True):
        logit = g.op("Add", logit, g.op("Mul", part, g.number(scale)))
    g.op("Squeeze", g.op("Add", logit, g.number(offset)), g.integers(1, 2))


def _states(
    g: GraphBuilder,
    config: ModelConfig,
    weights: Weights,
    ranges: Sequence[LayerRanges] | None,
    slots: str,
    sides: str,
) -> str:
    """SharedEncoder.states: (n, T, width)."""
    words = g.table(weights.take("words.weight"), "input_ids")
    positions = g.op("Gather", g.constant(weights.take("word_positions.weight")), "word_positions")
    words = g.sum_norm(words, positions, weights.affine("word_norm"))
    pictures = _for_trunk(g, config)
    # Padding's slot is -1: it reads the last row, and nothing reads it.
    parts, judge = np.split(weights.take("slots"), [SLOTS])
    placed = g.op("Gather", g.constant(np.concatenate([parts, parts, judge])), slots)
    x = g.op("Add", g.op("Concat", words, pictures, axis=1), placed)
    reads = g.op("MatMul", sides, g.constant(_READS))
    away = g.op("MatMul", reads, g.op("Transpose", sides, perm=[0, 2, 1]))
    away = g.op("Unsqueeze", away, g.integers(1))  # (n, 1, T, T)
    for i in range(config.layers):
        seen = ranges[i] if ranges else None
        x = g.transformer_layer(x, away, weights.layer(f"trunk.{i}"), config.heads, seen)
    return x


def _for_trunk(g: GraphBuilder, config: ModelConfig) -> str:
    """What the trunk reads of picture tokens (n, P, width): all but the concept around it."""
    if config.token_width == config.width:
        return "picture_tokens"
    return g.slice("picture_tokens", 2, 0, config.width)


class _Rows:
    """Unit rows made of the trunk's states (n, T, width), and of the concepts that went around it."""

    def __init__(self, g: GraphBuilder, config: ModelConfig, weights: Weights, states: str) -> None:
        self._g = g
        self._config = config
        self._states = states
        self._itc = weights.affine("itc")
        self._look = weights.affine("look")
        self._crowd, self._crowd_scale = weights.take("crowd"), weights.take("crowd_scale")
        self._words = g.op("Shape", "input_ids", start=1, end=2)  # how many of the tokens are words
        if config.front_end == "stem":
            self._trust = weights.take("trust")  # of a picture alone, and of one beside words
            self._scene_scale = weights.take("scene_scale")

    def mean(self, side: str) -> str:
        """SharedEncoder.embedding of the tokens where side (n, 1, T) is one: (n, 1, dim), zero for none."""
        g = self._g
        said = g.op("Slice", side, g.integers(0), self._words, g.integers(2))
        shown = g.op("Slice", side, self._words, g.integers(_END), g.integers(2))
        words = self._sum(said)
        # The sum of the states has the direction of their mean.
        rows = g.unit(g.linear(g.op("MatMul", side, self._states), self._itc), floor=FLOOR)
        rows = g.op("Add", rows, self._seen(said, shown, words, side))
        if self._config.front_end == "stem":
            alone = g.op("LessOrEqual", words, g.number(MARKERS))
            trust = g.op("Where", alone, *map(g.number, self._trust))
            rows = g.op("Add", rows, g.op("Mul", self._concept(side), trust))
        return g.unit(rows, floor=FLOOR)

    def _seen(self, said: str, shown: str, words: str, side: str) -> str:
        """SharedEncoder.look at a side's pictures (n, 1, dim), zero where they stand alone or there is none.

        said (n, 1, L) and shown (n, 1, P) tell the side's tokens; there are so many words (n, 1, 1).
        """
        g, one = self._g, self._g.number(1)
        count = self._sum(shown)
        some = g.op("Min", count, one)
        beside = g.op("Where", g.op("LessOrEqual", words, g.number(MARKERS)), g.number(0), some)
        wanted = g.op("Cast", g.op("ReduceMax", beside, keepdims=0), to=TensorProto.BOOL)
        with g.branch(wanted, otherwise=g.number(0)) as row:
            start, axis = g.integers(0), g.integers(1)
            heard = g.op("Slice", self._states, start, self._words, axis)
            seen = g.op("Slice", self._states, self._words, g.integers(_END), axis)
            weights = [
                g.op("Div", chosen, g.op("Max", number, one))
                for chosen, number in ((shown, count), (said, words))
            ]
            parts = (
                g.op("MatMul", weights[0], _for_trunk(g, self._config)),
                g.op("MatMul", weights[1], heard),
                g.op("MatMul", weights[0], seen),
            )
            found = g.linear(g.op("Concat", *parts, axis=2), self._look)
            if self._config.front_end == "stem":
                found = g.op("Mul", found, self.drawn(side))
            g.op("Mul", found, beside)
        return row

    def _sum(self, chosen: str) -> str:
        return self._g.op("ReduceSum", chosen, self._g.integers(2), keepdims=1)

    def crowded(self, row: str, found: str, query: str, candidate: str) -> str:
        """SharedEncoder.crowded (n, 1, 1) of candidates' rows (n, 1, dim) and their agreement (n, 1, 1)."""
        g, wanted = self._g, self._asks_for_a_picture(query, candidate)
        if self._config.front_end == "stem":
            wanted = g.op("Mul", wanted, self.drawn(candidate))
        near = g.op("Mul", g.linear(row, Affine(self._crowd, None)), g.number(CROWD_SHARPNESS))
        near = g.op("ReduceLogSumExp", near, g.integers(2), keepdims=1)
        agreeing, easily, always = self._crowd_scale
        gained = g.op("Mul", near, g.number(easily / CROWD_SHARPNESS))
        gained = g.op("Add", gained, g.op("Mul", found, g.number(agreeing)))
        return g.op("Mul", g.op("Add", gained, g.number(always)), wanted)

    def scene(self, asked: str, query: str, candidate: str) -> str:
        """SharedEncoder.scene (n, 1, 1) of queries' rows (n, 1, dim)."""
        g, step = self._g, self._config.picture_tokens
        shown = g.op("Slice", candidate, self._words, g.integers(_END), g.integers(2))
        concepts = g.slice("picture_tokens", 2, self._config.width, _END)
        # The sum has the direction of the mean; that of all tokens has the concept of the whole in it.
        first = g.op("Slice", shown, g.integers(0), g.integers(_END), g.integers(2), g.integers(step))
        whole = g.op("Slice", concepts, g.integers(0), g.integers(_END), g.integers(1), g.integers(step))
        seen = g.op("Sub", g.op("MatMul", shown, concepts), g.op("MatMul", first, whole))
        found = g.op("MatMul", asked, g.op("Transpose", g.unit(seen, floor=FLOOR), perm=[0, 2, 1]))
        scale, always = self._scene_scale
        gained = g.op("Add", g.op("Mul", found, g.number(scale)), g.number(always))
        words = self._sum(g.op("Slice", query, g.integers(0), self._words, g.integers(2)))
        told = g.op("Mul", g.op("Sub", words, g.number(MARKERS + NAME)), g.number(1 / (SENTENCE - NAME)))
        told = g.op("Min", g.op("Max", told, g.number(0)), g.number(1))
        photographic = g.op("Sub", g.number(1), self.drawn(candidate))
        weighed = g.op("Mul", g.op("Mul", gained, photographic), told)
        return g.op("Mul", weighed, self._asks_for_a_picture(query, candidate))

    def _asks_for_a_picture(self, query: str, candidate: str) -> str:
        """One (n, 1, 1) where a match is of words with something that has a picture, else zero."""
        g, one = self._g, self._g.number(1)
        asked, wanted = (
            g.op("Min", self._sum(g.op("Slice", side, self._words, g.integers(_END), g.integers(2))), one)
            for side in (query, candidate)
        )
        return g.op("Mul", wanted, g.op("Sub", one, asked))

    def drawn(self, side: str) -> str:
        """SharedEncoder.drawn of the pictures where side (n, 1, T) is one: (n, 1, 1)."""
        g = self._g
        length = g.op("ReduceL2", self._concept(side), g.integers(2), keepdims=1)
        return g.op("Sub", g.number(1), g.op("Min", length, g.number(1)))

    def _concept(self, side: str) -> str:
        """SharedEncoder.concept: (n, 1, dim)."""
        g, step = self._g, self._config.picture_tokens
        shown = g.op("Slice", side, self._words, g.integers(_END), g.integers(2), g.integers(step))
        concepts = g.op(
            "Slice", "picture_tokens", g.integers(0, self._config.width), g.integers(_END, _END),
            g.integers(1, 2), g.integers(step, 1),
        )  # fmt: skip
        pictures = g.op("Max", g.op("ReduceSum", shown, g.integers(2), keepdims=1), g.number(1))
        return g.op("Div", g.op("MatMul", shown, concepts), pictures)

    def tokens(self) -> str:
        """SharedEncoder.token_rows: (n, T, dim)."""
        g = self._g
        rows = g.unit(g.linear(self._states, self._itc), floor=FLOOR)
        if self._config.front_end == "stem":
            dim, start, last = self._config.dim, g.integers(0), g.integers(_END)
            words = g.op("Slice", rows, start, self._words, g.integers(1))
            patches = g.op("Slice", rows, self._words, last, g.integers(1))
            concepts = g.slice("picture_tokens", 2, self._config.width, _END)
            concepts = g.op("Reshape", concepts, g.integers(0, -1, self._config.picture_tokens, dim))
            concepts = g.op("Add", concepts, g.slice(concepts, 2, 0, 1))
            concepts = g.op(
                "Mul", g.op("Reshape", concepts, g.integers(0, -1, dim)), g.number(self._trust[0])
            )
            rows = g.op("Concat", words, g.op("Add", patches, concepts), axis=1)
        return g.unit(rows, floor=FLOOR)


def _agreement(g: GraphBuilder, tokens: str, query: str, candidate: str) -> str:
    """momo.agreement (n, 1, 1) of token rows (n, T, dim); query, candidate (n, 1, T) say which count."""
    cosines = g.op("MatMul", tokens, g.op("Transpose", tokens, perm=[0, 2, 1]))
    shown = g.op("Cast", candidate, to=TensorProto.BOOL)
    nearest = g.op("ReduceMax", g.op("Where", shown, cosines, g.number(-1)), g.integers(2), keepdims=1)
    count = g.op("Max", g.op("ReduceSum", query, g.integers(2), keepdims=1), g.number(1))
    return g.op("Div", g.op("MatMul", query, nearest), count)
