"""Who may import whom: docs/architecture.md draws the layers, this file parses every import to keep them."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
LAYERS = ("momoseek", "service", "models", "index")

WEB = {"fastapi", "starlette", "pydantic"}
# The processes put the parts together; nothing else may import them.
PROCESSES = {
    f"service.{name}"
    for name in (
        "app",
        "backups",
        "bundles",
        "cli",
        "compose",
        "console",
        "datasets",
        "indexing",
        "keys",
        "reference",
        "serve",
        "stores",
        "supervisor",
        "training",
        "watcher",
        "worker",
    )
}
TORCH_SIDE = {f"models.{name}" for name in ("front_ends", "momo", "training", "export", "refit", "stem")}
# ONNX graphs are written, and published parts are opened, where encoders are made; never where they serve.
MAKING = {"torch", "onnx", "safetensors", "efficientnet_lite_pytorch"}
# What the retriever hands to a route: values and the errors about them, none of the index's machinery.
RECORDS = {
    f"index.catalog.{name}" for name in ("Collection", "Condition", "Item", "ItemNotFound", "Outcome")
} | {
    "index.aliases",
    "index.engines.Params",
    "index.filters.Filter",
    "index.filters.parse",
    "index.vectors.Vectors",
}

# What a module may import, by the longest matching prefix of its name. The standard library is free to all.
ALLOWED: dict[str, set[str]] = {
    "index": {"index", "numpy", "faiss", "orjson", "pyroaring", "sqlalchemy"},
    "index.engines.cluster": {"index", "numpy", "pymilvus", "grpc"},
    "models": {"models", "numpy", "PIL", "tokenizers", "onnxruntime", "onnxruntime_ep_openvino"},
    **{name: {"models", "numpy", "PIL", "tokenizers", "onnxruntime"} | MAKING for name in TORCH_SIDE},
    **{
        f"models.{name}": {"models", "numpy", "PIL", "onnx", "onnxruntime"}
        for name in ("graphs", "fusing", "editing", "image_graph", "momo_graphs", "calibration")
    },
    "models.training.curves": {"matplotlib"},
    "models.importing": {"models", "numpy", "PIL", "tokenizers", "torch", "onnx_ir", "sentencepiece"},
    "service": {"service", "index", "models.preprocess", "models.relevance", "numpy", "prometheus_client"}
    | WEB,
    "service.routes": {"service", "models.preprocess", "prometheus_client"} | RECORDS | WEB,
    "service.client": {
        f"service.client_{calls}" for calls in ("adapters", "admin", "inference", "items", "jobs")
    }
    | {"service.schemas_items", "service.transport"},
    "service.client_async": {"service.client"},
    "service.client_inference": {
        f"service.schemas_{shapes}" for shapes in ("classify", "explain", "inference")
    }
    | {"service.schemas_models", "service.transport", "index.vectors", "numpy"},
    "service.client_items": {"service.client_inference", "service.schemas_found", "service.schemas_items"}
    | {"service.schemas_subsets", "service.transport"},
    "service.client_admin": {
        f"service.schemas_{shapes}"
        for shapes in ("aliases", "collections", "index", "jobs", "keys", "snapshots")
    }
    | {"service.transport"},
    "service.client_adapters": {"service.schemas_adapters", "service.schemas_jobs", "service.transport"},
    "service.transport": {"service.schemas", "pydantic"},
    "service.client_jobs": {"service.schemas_jobs", "service.transport", "index.records"},
    "momoseek": {"service.client", "service.client_async"},
    "service.fetch": {"service.images", "service.urls", "httptools"},
    "service.telemetry": {"service", "opentelemetry", "starlette"},
    "service.signed_tokens": {"service", "index.keys", "pydantic", "jwt", "cryptography"},
    "service.urls": {"service.__version__"},
    "service.caller": set(),
    "service.admission": {"service.caller"},
    "service.grouping": set(),
    "service.lane": {"service.sequel", "numpy"},
    # It takes a function, not a model.
    "service.batcher": {"service.admission", "service.caller", "service.costs", "service.lane"}
    | {"service.sequel", "service.timing", "service.turns", "service.waking"},
    "service.turns": {"service.admission", "service.costs", "service.lane"},
    "service.costs": set(),
    "service.waking": set(),
    "service.sequel": {"index.vectors"},
    "service.wire": {"uvicorn"},
    "service.direct": {"fastapi", "pydantic"},
    "service.images": {"index.files", "models.preprocess", "pybase64"},
    "service.parsing": {"index.records", "orjson", "pydantic"},
    "service.timing": set(),
    "service.encoding": {"index.vectors", "models.preprocess", "models.relevance", "numpy"},
    "service.reading": {"service.encoding", "models.preprocess"},
    "service.embedder": {
        "service.admission",
        "service.batcher",
        "service.caller",
        "service.encoding",
        "service.grouping",
        "service.reading",
        "service.sequel",
        "index.vectors",
        "models.preprocess",
        "models.relevance",
        "numpy",
    },
    "service.retriever": {
        "service.adapters",
        "service.admission",
        "service.drafts",
        "service.embedder",
        "service.images",
        "service.indexes",
        "service.merging",
        "service.reading",
        "service.recall_meter",
        "service.searcher",
        "service.writer",
        "index.aliases",
        "index.records",
        "index.live",
        "index.catalog",
    },
    "service.adapters": {"index", "models.preprocess", "models.query_adapter", "models.relevance"},
    "service.adapting": {"service", "index", "models.adaptation", "models.relevance", "numpy"},
    "service.query_terms": {"service", "index.vectors", "numpy"},
    "service.selection": {"index.vectors", "numpy"},
    "service.explanation": {"service.bounds", "service.embedder", "service.reading"}
    | {"index.vectors", "models.preprocess", "numpy", "PIL"},
    "models.data.sources.raster": {"models", "PIL", "cairosvg"},
    "service.gallery": {"numpy", "PIL", "cairosvg"},
    **dict.fromkeys(
        PROCESSES,
        {"service", "index", "models", "numpy", "prometheus_client", "rich", "uvicorn", "uvloop"} | WEB,
    ),
    "service.cli": {"service", "index", "models", "rich", "uvicorn", "uvloop"},
}


def within(name: str, prefixes: set[str]) -> bool:
    """Whether a dotted name is one of the prefixes or lies under one."""
    return any(name == prefix or name.startswith(prefix + ".") for prefix in prefixes)


def imports(source: str, module: str, is_package: bool = False) -> Iterator[tuple[str, int]]:
    """Every imported dotted name with its line; `from a import b` counts as a.b, relative ones resolved."""
    package = module if is_package else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*parents, base] if base else parents)
            yield from ((f"{base}.{alias.name}", node.lineno) for alias in node.names)


def violations(source: str, module: str, is_package: bool = False) -> list[str]:
    """What the source of this module imports although its layer may not."""
    rule = max((prefix for prefix in ALLOWED if within(module, {prefix})), key=len)
    own = {module} if is_package else set()
    found = []
    for name, line in imports(source, module, is_package):
        standard = name.partition(".")[0] in sys.stdlib_module_names
        process = within(name, PROCESSES) and module not in PROCESSES
        if process or not (standard or within(name, ALLOWED[rule] | own)):
            found.append(f"{module}:{line} imports {name}, which {rule} may not")
    return found


def environment_reads(source: str) -> list[int]:
    """Lines that read the process environment; `os.environ.setdefault` only writes what was not set."""
    tree = ast.parse(source)
    written = {
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and node.attr == "setdefault"
        and isinstance(node.value, ast.Attribute)
    }
    return [
        node.lineno
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and node.attr in {"environ", "getenv"} and node not in written
    ]


def modules(*layers: str) -> Iterator[tuple[str, Path]]:
    """Dotted name and path of every module of these layers."""
    for layer in layers:
        for path in sorted((ROOT / layer).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), path


@pytest.mark.parametrize("layer", LAYERS)
def test_every_module_imports_only_what_its_layer_may(layer: str) -> None:
    found = [
        violation
        for module, path in modules(layer)
        for violation in violations(path.read_text(), module, path.name == "__init__.py")
    ]
    assert list(modules(layer)), f"no module found in {layer}/"
    assert found == []


@pytest.mark.parametrize("layer", ["models", "index"])
def test_library_code_takes_its_settings_as_arguments(layer: str) -> None:
    read = {module: environment_reads(path.read_text()) for module, path in modules(layer)}
    assert {module: lines for module, lines in read.items() if lines} == {}


def test_every_process_starts_where_torch_cannot_be_imported() -> None:
    program = f"import sys; sys.modules['torch'] = None; import {', '.join(sorted(PROCESSES))}"
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True, timeout=60)


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("index.live", "import fastapi"),
        ("index.live", "from models.encoder import Encoder"),
        ("index.engines.faiss", "import service.config"),
        ("index.catalog", "def late():\n    from service import config"),
        ("models.encoder", "import torch"),
        ("models.encoder", "import index"),
        ("models.training.train", "from service.config import Settings"),
        ("service.routes.search", "from index.live import LiveIndex"),
        ("service.routes.search", "from models.encoder import Encoder"),
        ("service.routes.search", "from index.catalog import Catalog"),
        ("service.routes.search", "import numpy"),
        ("service.routes.search", "from ..app import create_app"),
        ("service.retriever", "from service.schemas_search import SearchRequest"),
        ("service.reranker", "from models.encoder import Encoder"),
        ("service.retriever", "from index import rebuild"),
        ("service.batcher", "import torch"),
        ("service.batcher", "from models.preprocess import Document"),
        ("service.embedder", "from models.encoder import Encoder"),
        ("service.batcher", "from service.app import create_app"),
    ],
)
def test_a_planted_violation_is_found(module: str, source: str) -> None:
    assert len(violations(source, module)) == 1


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("index.live", "import json\nimport numpy as np\nfrom index.catalog import Catalog"),
        ("models.momo", "import torch.nn.functional as F"),
        (
            "service.routes.search",
            "from models.preprocess import UnreadableImage\nfrom ..retriever import Retriever",
        ),
        ("service.retriever", "from .writer import Writer\nfrom index.live import View"),
        ("service.app", "from models.encoder import Encoder\nfrom index.rebuild import Rebuilder"),
    ],
)
def test_an_import_within_the_rules_is_not_reported(module: str, source: str) -> None:
    assert violations(source, module) == []


def test_reading_the_environment_is_found_and_setting_a_default_is_not() -> None:
    assert environment_reads("import os\nos.environ['A']\nos.getenv('B')\nos.environ.get('C')") == [2, 3, 4]
    assert environment_reads("import os\nos.environ.setdefault('A', '1')") == []
