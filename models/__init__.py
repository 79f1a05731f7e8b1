"""The encoder: preprocessing, bundles, the ONNX runtime that embeds documents, and recall."""

import os

# ONNX Runtime 1.29 and later writes a device id at import; it has to be told before that.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
