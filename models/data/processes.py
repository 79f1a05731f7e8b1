"""How worker processes begin, wherever pictures are made by several of them."""

import multiprocessing

# Not forked: a child that frees an ONNX Runtime session of its parent waits for threads that it lacks.
FRESH = multiprocessing.get_context("spawn")
