"""The API under load, beside the bare work that no service can avoid: ``python -m bench.api``.

The bare work runs in this process, on the same bytes and cores, in rounds that alternate with rounds of
requests to a real server, so that a machine whose speed drifts slows both. Each ratio is one of medians or of
rates within a round; the median round is told. The last line is one JSON object; a part that was not run is
null there, and the reason is printed before.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from bench.api_bulk import bulk
from bench.api_ground import Figures, Ground
from bench.api_overload import overload
from bench.api_search import search
from bench.api_throughput import embed, infinity

_PARTS: dict[str, Callable[[Ground, Path], Figures]] = {
    "embed": embed,
    "search": search,
    "overload": overload,
    "bulk": bulk,
    "infinity": infinity,
}
_FIGURES = (
    "embed_text_ratio",
    "embed_image_ratio",
    "infinity_ratio",
    "search_overhead_ms",
    "overload_goodput_ratio",
    "overload_refusal_p99_ms",
    "bulk_ratio",
    "interactive_p99_ratio",
)


def main() -> None:
    """Measure, and print one JSON object at the end."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--items", type=int, default=100_000, help="of the collection that is searched")
    parser.add_argument("--pictures", type=int, default=800, help="of the bulk job")
    parser.add_argument("--overload-s", type=float, default=60)
    parser.add_argument("--infinity", help="address of an infinity-emb, or folder of bench/infinity.sh")
    parser.add_argument("--only", choices=_PARTS, action="append", help="this part; may be repeated")
    options = parser.parse_args()
    if "infinity" in (options.only or ()) and not options.infinity:
        parser.error("--only infinity needs --infinity")
    ground, figures = Ground(options), Figures.fromkeys(_FIGURES)
    wanted = options.only or [part for part in _PARTS if part != "infinity" or options.infinity]
    for name, part in _PARTS.items():
        if name not in wanted:
            why = "no --infinity" if name == "infinity" and not options.only else "not asked for"
            print(f"{name}: not run, {why}", flush=True)
            continue
        started = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            figures.update(part(ground, Path(folder)))
        print(f"  ({name}: {time.perf_counter() - started:.0f} s)", flush=True)
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
