"""How a SharedEncoder is trained: corpus, objectives, stages, loop. Never imported where one serves."""
