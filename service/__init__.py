"""The processes of momoseek: API, worker, command line and web page."""

import os

# onnxruntime 1.29 and later report usage unless this is set before they are imported.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

__version__ = "0.1.0"
