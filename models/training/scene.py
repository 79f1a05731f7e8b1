# mypy: disable-error-code="import-not-found,import-untyped,no-any-unimported"
"""Let a bundle's matches of words with photographs see where things are met, as a new model's do.

python -m models.training.scene --bundle DIR --out DIR
"""

import argparse
from pathlib import Path

import numpy as np
import onnx

from models.bundle import Bundle
from models.importing.answers import PROBES
from models.refit import heads_of, refitted, tables_of
from models.training.parts import SCENE, Classifier, surroundings, told_by


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True, help="a folder for the new bundle")
    arguments = parser.parse_args()
    bundle = Bundle.open(arguments.bundle)
    wanted = surroundings(*tables_of(onnx.load(bundle.file("image.onnx"))))
    scene = told_by(Classifier.published().weight, wanted)
    heads = heads_of(onnx.load(bundle.file("document.onnx")))
    heads |= {"scene_scale": np.array(SCENE, np.float32)}
    print(refitted(bundle, heads, arguments.out, PROBES, scene).encoder_id)


if __name__ == "__main__":
    main()
