"""Bounds of requests that their shapes tell, and that what carries them out goes by."""

MAX_WORDS = 64  # of a text that an explanation leaves out, one at a time
MAX_GRID = 8  # regions a side of a picture that it covers
