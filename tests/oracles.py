"""The libraries that made a checkpoint, asked in the way their own documentation shows."""

from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from models.importing.libraries import load

open_clip, transformers = load("open_clip"), load("transformers")

TEXTS = (
    "dog",
    "A photo of a RED apple, beside a blue cup!",
    "don't look: they're e-mailing 12.5 naïve café owners & <b>their</b> dogs",
    "日本の赤いりんご, красное яблоко, تفاحة 🍎 ½ #42 snake_case\ttabs\nlines  blanks",
    "two children play with a ball on the beach while a brown dog watches them " * 12,
)
Rows = NDArray[np.float32]


class TransformersOracle:
    """The transformers library, used as its own documentation shows."""

    def __init__(self, folder: Path) -> None:
        self.model = transformers.AutoModel.from_pretrained(folder).eval()
        self.tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        self.pictures = transformers.AutoImageProcessor.from_pretrained(folder, backend="pil")

    def texts(self, texts: tuple[str, ...]) -> Rows:
        padding = "max_length" if self.model.config.model_type == "siglip" else True
        limit = min(self.tokenizer.model_max_length, 77)
        inputs = self.tokenizer(
            list(texts), padding=padding, truncation=True, max_length=limit, return_tensors="pt"
        )
        return unit(self.model.get_text_features(**inputs).pooler_output)

    def picture(self, image: Image.Image) -> Rows:
        pixels = self.pictures(image, return_tensors="pt").pixel_values
        return unit(self.model.get_image_features(pixel_values=pixels).pooler_output)


class OpenClipOracle:
    """open_clip, used as its own documentation shows."""

    def __init__(self, folder: Path) -> None:
        self.model, self.preprocess = open_clip.create_model_from_pretrained(f"local-dir:{folder}")
        self.tokenizer = open_clip.get_tokenizer(f"local-dir:{folder}")
        self.model.eval()

    def texts(self, texts: tuple[str, ...]) -> Rows:
        return unit(self.model.encode_text(self.tokenizer(list(texts))))

    def picture(self, image: Image.Image) -> Rows:
        return unit(self.model.encode_image(self.preprocess(image)[None]))


def unit(rows: torch.Tensor) -> Rows:
    return torch.nn.functional.normalize(rows, dim=-1).detach().numpy()


def drawing(seed: int, width: int, height: int) -> Image.Image:
    """A picture of waves, smooth as photographs are."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width] / max(width, height)
    waves = [np.sin(across * x + down * y) for across, down in random.uniform(2, 12, (3, 2))]
    return Image.fromarray((127.5 + 127.5 * np.stack(waves, axis=-1)).astype(np.uint8))


def encoded(image: Image.Image, kind: str = "PNG") -> bytes:
    stream = BytesIO()
    image.save(stream, kind)
    return stream.getvalue()
