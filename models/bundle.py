"""A bundle: the folder an encoder is loaded from, checked file by file against its manifest."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass, replace
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Self, get_args, get_origin, get_type_hints

import numpy as np
from numpy.typing import NDArray

from models.preprocess import Preprocessing

FORMAT = 2
# What each fusion may be written in. The document graphs of format 1 took no word positions.
_READABLE = {"mean": (1, FORMAT), "joint": (FORMAT,)}
MANIFEST = "manifest.json"


class BundleError(ValueError):
    """A bundle that is incomplete, altered, or of a format this version does not know."""


@dataclass(frozen=True)
class Graph:
    """An ONNX file, the names of its inputs in the order they are fed, and the output that is read."""

    file: str
    inputs: tuple[str, ...]
    output: str  # (n, dim), unit rows; of a joint bundle's image graph (n, picture_tokens, width)
    weights: tuple[str, ...] = ()  # the files of weights that lie outside the ONNX file


@dataclass(frozen=True)
class Joint:
    """How the graphs of fusion "joint" meet: the image graph's tokens are an input of the document graph.

    The document graph reads input_ids, word_positions and word_slots (n, L), picture_tokens (n, P, width)
    and picture_slots (n, P), laid out by models.sequences; P is a multiple of picture_tokens, or zero.
    """

    picture_tokens: int  # per picture
    width: int  # of a token
    match: str | None = None  # the document graph's output (n,): the logit that the two sides match


@dataclass(frozen=True)
class TokenizerSpec:
    file: str
    max_tokens: int
    # bucket: zeros up to the next bucket, which no row depends on; fixed: always as the tokenizer's file says
    padding: Literal["bucket", "fixed"] = "bucket"


@dataclass(frozen=True)
class CanarySpec:
    """A text, a picture file, and the rows expected for the text, the picture, and both as one document."""

    text: str
    picture: str
    rows: str  # .npy, float32 (3, dim)


@dataclass(frozen=True)
class FileEntry:
    sha256: str
    bytes: int


@dataclass(frozen=True)
class Licence:
    """Where a part of the bundle comes from, and the terms it came under."""

    part: str
    source: str
    licence: str


@dataclass(frozen=True)
class Manifest:
    """manifest.json, field by field; an unknown key is an error, and a missing one without a default."""

    format: int
    name: str
    dim: int
    modalities: tuple[Literal["text", "image", "mixed"], ...]
    graphs: dict[Literal["text", "image", "document"], Graph]
    fusion: Literal["mean", "joint"]  # mean: normalised mean of the parts' rows; joint: the document graph
    preprocessing: Preprocessing
    tokenizer: TokenizerSpec
    canary: CanarySpec
    probes: str  # .npy (m, dim): rows of typical text queries
    precision: dict[Literal["text", "image", "document"], str]
    licences: tuple[Licence, ...]
    provenance: dict[str, str]  # package or tool -> version
    files: dict[str, FileEntry]
    joint: Joint | None = None  # of fusion "joint"


@dataclass(frozen=True)
class Bundle:
    """A verified bundle; build one with Bundle.open."""

    path: Path
    manifest: Manifest

    @classmethod
    def open(cls, path: Path | str) -> Self:
        """Read and verify a bundle; raises BundleError naming the file at fault."""
        root = Path(path)
        manifest = _read_manifest(root / MANIFEST)
        for name, entry in manifest.files.items():
            _verify(root / name, entry)
        return cls(root, manifest)

    @staticmethod
    def default_path() -> Path:
        """The bundle that ships inside the package."""
        return Path(__file__).parent / "bundles" / "momo-mini"

    @property
    def name(self) -> str:
        return self.manifest.name

    @property
    def dim(self) -> int:
        return self.manifest.dim

    @property
    def modalities(self) -> tuple[str, ...]:
        return self.manifest.modalities

    @property
    def encoder_id(self) -> str:
        """The name, and 12 hex digits of what decides a row: weights, preprocessing, tokenizer, fusion."""
        manifest = self.manifest
        content: dict[str, Any] = {
            "dim": manifest.dim,
            "fusion": manifest.fusion,
            "graphs": {
                kind: [graph.inputs, graph.output, *self._hashes(graph.file, *graph.weights)]
                for kind, graph in manifest.graphs.items()
            },
            "preprocessing": _plain(manifest.preprocessing),
            "tokenizer": [*self._hashes(manifest.tokenizer.file), manifest.tokenizer.max_tokens],
        }
        if manifest.tokenizer.padding == "fixed":
            content["padding"] = "fixed"
        if manifest.joint is not None:
            content["joint"] = _plain(manifest.joint)
        digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
        return f"{manifest.name}-{digest[:12]}"

    def file(self, name: str) -> Path:
        """The path of a file that the manifest lists."""
        if name not in self.manifest.files:
            raise BundleError(f"{name} is not listed in {MANIFEST}")
        return self.path / name

    def _hashes(self, *names: str) -> list[str]:
        return [self.manifest.files[name].sha256 for name in names]

    def array(self, name: str) -> NDArray[np.float32]:
        """The rows of a listed .npy file as float32 (n, dim) unit rows."""
        rows = np.load(self.file(name), allow_pickle=False).astype(np.float32)
        if rows.ndim != 2 or rows.shape[1] != self.dim:
            raise BundleError(f"{name} has shape {rows.shape}, not (n, {self.dim})")
        unit: NDArray[np.float32] = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        return unit

    def probes(self) -> dict[str, NDArray[np.float32]]:
        """Rows (m, dim) of typical text queries, to measure an index's recall without running the encoder."""
        return {"text": self.array(self.manifest.probes)}


def write_bundle(path: Path, manifest: Manifest) -> Bundle:
    """Hash the files that the manifest names, which lie in path already, and write manifest.json."""
    files = {name: _entry(path / name) for name in sorted(_named_files(manifest))}
    document = _plain(replace(manifest, files=files))
    text = json.dumps(document, indent=2, ensure_ascii=False)
    (path / MANIFEST).write_text(text + "\n", encoding="utf-8")
    return Bundle.open(path)


def _read_manifest(file: Path) -> Manifest:
    try:
        raw = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BundleError(f"{file}: {error}") from error
    found, fusion = (raw.get("format"), raw.get("fusion")) if isinstance(raw, dict) else (None, None)
    readable = _READABLE.get(str(fusion), (FORMAT,))
    if found not in readable:
        known = " or ".join(map(str, readable))
        raise BundleError(f"{file}: format {found!r} is not {known}, which this version reads")
    try:
        manifest: Manifest = _typed(Manifest, raw, "manifest")
    except ValueError as error:
        raise BundleError(f"{file}: {error}") from error
    if strange := [name for name in manifest.files if name != Path(name).name]:
        raise BundleError(f"{file}: {strange[0]!r} is not a plain file name")
    if missing := _named_files(manifest) - manifest.files.keys():
        raise BundleError(f"{file}: files lists no {', '.join(sorted(missing))}")
    if manifest.fusion == "joint" and not (
        manifest.joint and {"image", "document"} <= manifest.graphs.keys()
    ):
        raise BundleError(
            f"{file}: fusion 'joint' needs an image graph, a document graph and a joint section"
        )
    return manifest


def _named_files(manifest: Manifest) -> set[str]:
    graphs = {name for graph in manifest.graphs.values() for name in (graph.file, *graph.weights)}
    canary = manifest.canary
    return graphs | {manifest.tokenizer.file, canary.picture, canary.rows, manifest.probes}


def _plain(value: Any) -> Any:
    """A dataclass as JSON takes it, without the fields that stand at their default."""
    if is_dataclass(value):
        held = {field.name: (getattr(value, field.name), field.default) for field in fields(value)}
        return {name: _plain(now) for name, (now, default) in held.items() if now != default}
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items()}
    return [_plain(entry) for entry in value] if isinstance(value, tuple) else value


def _typed(kind: Any, value: Any, where: str) -> Any:
    """JSON as a dataclass, tuple, dict, Literal or plain type; raises ValueError saying where it is not."""
    origin, args = get_origin(kind), get_args(kind)
    if is_dataclass(kind):
        hints = get_type_hints(kind)
        required = {field.name for field in fields(kind) if field.default is MISSING}
        given = set(value) if isinstance(value, Mapping) else set()
        if differing := (given - hints.keys()) | (required - given):
            raise ValueError(f"{where}: unknown or missing keys: {', '.join(sorted(differing))}")
        build: Any = kind
        known = [name for name in hints if name in given]
        return build(**{name: _typed(hints[name], value[name], f"{where}.{name}") for name in known})
    if origin is UnionType:  # a kind, or None
        return None if value is None else _typed(args[0], value, where)
    if origin is dict and isinstance(value, Mapping):
        return {_typed(args[0], k, where): _typed(args[1], v, f"{where}.{k}") for k, v in value.items()}
    if origin is tuple and isinstance(value, list):
        kinds = args[:1] * len(value) if args[1:] == (...,) else args
        if len(kinds) == len(value):
            return tuple(
                _typed(k, v, f"{where}[{i}]") for i, (k, v) in enumerate(zip(kinds, value, strict=True))
            )
    if (origin is Literal and value in args) or (kind is float and type(value) is int) or type(value) is kind:
        return float(value) if kind is float else value
    raise ValueError(f"{where}: {value!r} is not {getattr(kind, '__name__', kind)}")


def _verify(file: Path, entry: FileEntry) -> None:
    if not file.is_file():
        raise BundleError(f"{file}: missing")
    if _entry(file) != entry:
        raise BundleError(f"{file}: does not match its sha256 in {MANIFEST}")


def _entry(file: Path) -> FileEntry:
    try:
        with file.open("rb") as stream:
            return FileEntry(hashlib.file_digest(stream, "sha256").hexdigest(), file.stat().st_size)
    except OSError as error:
        raise BundleError(f"{file}: {error}") from error
