"""A bulk job on many pictures while API and worker are killed: ``python -m bench.bulk_crash``.

It ends with one JSON line; every line of the job must be accounted for once.
"""

import argparse
import io
import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from PIL import Image

from bench.load import encoded, json_body, send, serve


def main() -> None:
    """Submit, kill, wait for the end, and count."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--pictures", type=int, default=20_000)
    parser.add_argument("--kills", type=int, default=10)
    options = parser.parse_args()
    dice, started = random.Random(0), time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        process, url = serve(folder)
        send(url, "PUT", "/v1/collections/bulk", b"{}")
        lines = b"\n".join(map(line, range(options.pictures)))
        path = "/v1/collections/bulk/bulk"
        job = json.loads(send(url, "POST", path, lines, "application/x-ndjson"))
        at = [0]
        for kill in range(1, options.kills + 1):
            wanted = kill * options.pictures // (options.kills + 1)
            done = waited_for(url, job["id"], wanted)
            time.sleep(dice.uniform(0, 1))
            kill_all(process)
            process, url = serve(folder)
            at.append(state(url, job["id"])["checkpoint"]["line"])
            print(f"killed at line {done} or later, goes on behind {at[-1]}", flush=True)
        while (job := state(url, job["id"]))["state"] in ("queued", "running"):
            time.sleep(0.5)
        count = json.loads(send(url, "GET", "/v1/collections/bulk"))["count"]
        process.terminate()
        process.wait(30)
        command = [sys.executable, "-m", "service.cli", "audit", "--data-dir", str(folder)]
        audited = subprocess.run(command, capture_output=True).returncode == 0
    counts = job["counts"]
    once = counts["done"] == count == options.pictures and not counts["failed"] and not counts["skipped"]
    report = {
        "pictures": options.pictures,
        "kills": options.kills,
        "state": job["state"],
        "counts": counts,
        "items": count,
        "audit_equal": audited,
        "every_line_once": once and at == sorted(at) and job["state"] == "succeeded",
        "seconds": round(time.monotonic() - started),
    }
    print(json.dumps(report))
    sys.exit(not (report["every_line_once"] and audited))


def line(number: int) -> bytes:
    """An item with a small picture that no other has."""
    pixels = np.random.default_rng(number).integers(0, 255, (8, 8, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).resize((96, 96)).save(file, "JPEG")
    item = {"id": f"p{number}", "image": encoded(file.getvalue())}
    return json_body({"custom_id": f"l{number}", "item": item})


def state(url: str, id: str) -> dict[str, Any]:
    """A job as it stands."""
    found: dict[str, Any] = json.loads(send(url, "GET", f"/v1/jobs/{id}"))
    return found


def waited_for(url: str, id: str, line: int) -> int:
    """The line at which a job stands once it has come so far."""
    while (at := int(state(url, id)["checkpoint"]["line"])) < line:
        time.sleep(0.05)
    return at


def kill_all(process: subprocess.Popen[str]) -> None:
    """kill -9 of the API and its worker."""
    family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    for member in family:
        member.kill()
    process.wait()


if __name__ == "__main__":
    main()
