# mypy: disable-error-code="import-not-found,import-untyped,no-any-unimported"
"""A small real bundle of fusion "joint": random weights, one attention layer, real ONNX graphs."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper
from PIL import Image
from tokenizers import Tokenizer
from tokenizers.models import WordPiece
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer
from tokenizers.processors import BertProcessing

from models.bundle import FORMAT, Bundle, CanarySpec, Graph, Joint, Manifest, TokenizerSpec, write_bundle
from models.encoder import Encoder
from models.graphs import OPSET, GraphBuilder
from models.preprocess import Picture, Preprocessing
from models.sequences import JUDGE

WIDTH = 8  # of a token, and of an embedding
PICTURE_TOKENS = 4
IMAGE_SIZE = 8
MAX_TOKENS = 40
_MARKERS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
_CHARACTERS = "abcdefghijklmnopqrstuvwxyz"
_VOCABULARY = [*_MARKERS, *_CHARACTERS, *(f"##{character}" for character in _CHARACTERS)]
_WORDS, _SLOTS = ["n", "L"], ["n", "P"]


def build(folder: Path, *, match: bool = True) -> Bundle:
    """A bundle in this folder; without ``match`` it only embeds."""
    tokenizer().save(str(folder / "tokenizer.json"))
    onnx.save(_image_graph(), folder / "image.onnx")
    onnx.save(_document_graph(match), folder / "document.onnx")
    Image.fromarray(picture(1)).save(folder / "canary.png")
    for name, rows in (("canary.npy", 3), ("probes.npy", 5)):
        np.save(folder / name, _random(1).normal(size=(rows, WIDTH)).astype(np.float32))
    inputs = ("input_ids", "word_positions", "word_slots", "picture_tokens", "picture_slots")
    manifest = Manifest(
        format=FORMAT,
        name="tiny-joint",
        dim=WIDTH,
        modalities=("text", "image", "mixed"),
        graphs={
            "image": Graph("image.onnx", ("pixels",), "tokens"),
            "document": Graph("document.onnx", inputs, "embedding"),
        },
        fusion="joint",
        preprocessing=Preprocessing(IMAGE_SIZE, "squash", "bilinear", (127.5,) * 3, (127.5,) * 3),
        tokenizer=TokenizerSpec("tokenizer.json", MAX_TOKENS),
        canary=CanarySpec("a red apple", "canary.png", "canary.npy"),
        probes="probes.npy",
        precision={"image": "fp32", "document": "fp32"},
        licences=(),
        provenance={},
        files={},
        joint=Joint(PICTURE_TOKENS, WIDTH, "match" if match else None),
    )
    encoder = Encoder.load(write_bundle(folder, manifest), device="cpu", threads=1)
    np.save(folder / "canary.npy", encoder.embed([canary.document for canary in encoder.canaries()]))
    return write_bundle(folder, replace(manifest, files={}))


def picture(seed: int) -> Picture:
    """Noise, as large as the image graph reads."""
    return _random(seed).integers(0, 256, (IMAGE_SIZE, IMAGE_SIZE, 3), np.uint8)


def tokenizer() -> Tokenizer:
    """Word pieces of single letters."""
    ids = {token: number for number, token in enumerate(_VOCABULARY)}
    letters = Tokenizer(WordPiece(ids, unk_token="[UNK]"))
    letters.normalizer = BertNormalizer()
    letters.pre_tokenizer = BertPreTokenizer()
    letters.post_processor = BertProcessing(("[SEP]", ids["[SEP]"]), ("[CLS]", ids["[CLS]"]))
    return letters


def _image_graph() -> onnx.ModelProto:
    """pixels (n, 3, S, S) -> tokens (n, 4, W): one for each quarter of the picture."""
    g = GraphBuilder()
    half = IMAGE_SIZE // 2
    kernels = g.constant(_random(2).normal(size=(WIDTH, 3, half, half)).astype(np.float32) / half)
    quarters = g.op("Conv", "pixels", kernels, strides=[half, half])  # (n, W, 2, 2)
    flat = g.op("Reshape", quarters, g.constant(np.array([0, WIDTH, PICTURE_TOKENS])))
    g.nodes.append(helper.make_node("Transpose", [flat], ["tokens"], perm=[0, 2, 1]))
    pixels = {"pixels": (TensorProto.FLOAT, ["n", 3, IMAGE_SIZE, IMAGE_SIZE])}
    return _model(g, pixels, {"tokens": ["n", PICTURE_TOKENS, WIDTH]})


def _document_graph(match: bool) -> onnx.ModelProto:
    """Attention over all parts, a mean of what is no padding, and the cosine of both sides as the logit."""
    g, random = GraphBuilder(), _random(3)
    table, positions, slots = (
        g.constant(random.normal(size=(rows, WIDTH)).astype(np.float32))
        for rows in (len(_VOCABULARY), MAX_TOKENS, JUDGE + 1)
    )
    zero = g.constant(np.array([0]))
    words = g.op("Add", g.op("Gather", table, "input_ids"), g.op("Gather", positions, "word_positions"))
    tokens = g.op("Concat", words, "picture_tokens", axis=1)  # (n, T, W)
    slot = g.op("Concat", "word_slots", "picture_slots", axis=1)  # (n, T)
    x = g.op("Add", tokens, g.op("Gather", slots, g.op("Max", slot, zero)))
    read = g.op("Cast", g.op("Less", g.constant(np.array(-1)), slot), to=TensorProto.FLOAT)
    away = g.op("Mul", g.op("Sub", read, g.number(1)), g.number(1e4))
    scores = g.op("MatMul", x, g.op("Transpose", x, perm=[0, 2, 1]))
    scores = g.op("Add", scores, g.op("Unsqueeze", away, g.constant(np.array([1]))))
    y = g.op("Tanh", g.op("MatMul", g.op("Softmax", scores, axis=-1), x))
    y = g.op("Add", x, y)
    g.unit(_mean(g, y, read), output="embedding")
    outputs: dict[str, list[Any]] = {"embedding": ["n", WIDTH]}
    if match:
        candidate = g.op("Cast", g.op("Less", g.constant(np.array(7)), slot), to=TensorProto.FLOAT)
        query = g.op("Sub", read, candidate)
        both = g.op("Mul", _mean(g, y, query), _mean(g, y, candidate))
        g.nodes.append(
            helper.make_node("ReduceSum", [both, g.constant(np.array([1]))], ["match"], keepdims=0)
        )
        outputs["match"] = ["n"]
    inputs: dict[str, tuple[int, list[Any]]] = {
        "input_ids": (TensorProto.INT64, _WORDS),
        "word_positions": (TensorProto.INT64, _WORDS),
        "word_slots": (TensorProto.INT64, _WORDS),
        "picture_tokens": (TensorProto.FLOAT, [*_SLOTS, WIDTH]),
        "picture_slots": (TensorProto.INT64, _SLOTS),
    }
    return _model(g, inputs, outputs)


def _mean(g: GraphBuilder, tokens: str, chosen: str) -> str:
    """The mean (n, W) of the tokens (n, T, W) where chosen (n, T) is one."""
    one = g.constant(np.array([1]))
    total = g.op("ReduceSum", g.op("Mul", tokens, g.op("Unsqueeze", chosen, g.constant(np.array([2])))), one)
    total = g.op("Squeeze", total, one)
    return g.op("Div", total, g.op("Max", g.op("ReduceSum", chosen, one, keepdims=1), g.number(1)))


def _model(g: GraphBuilder, inputs: dict[str, Any], outputs: dict[str, list[Any]]) -> onnx.ModelProto:
    fed = [helper.make_tensor_value_info(name, *spec) for name, spec in inputs.items()]
    read = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in outputs.items()]
    graph = helper.make_graph(g.nodes, "graph", fed, read, g.constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10)
    onnx.checker.check_model(model)
    return model


def _random(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)
