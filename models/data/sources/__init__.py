"""Where training drawings come from: one module per kind of package, each yielding Drawings."""
