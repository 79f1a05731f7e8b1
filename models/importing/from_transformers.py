"""Dual encoders of the transformers library, from a folder that save_pretrained wrote."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from tokenizers import Tokenizer

from models.importing.checkpoint import (
    Checkpoint,
    Padding,
    Tower,
    check_vocabulary,
    fitted,
    one_line,
    pixel_scale,
    read_json,
)
from models.importing.errors import CheckpointError
from models.importing.libraries import load
from models.importing.texts import siglip_pieces
from models.preprocess import Preprocessing

transformers = load("transformers")

CLIP_PICTURES = {
    "size": {"shortest_edge": 224},
    "crop_size": {"height": 224, "width": 224},
    "do_center_crop": True,
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
}
_SIGLIP_PICTURES = {
    "size": {"height": 224, "width": 224},
    "do_center_crop": False,
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
}


@dataclass(frozen=True)
class _Family:
    """What no file of a checkpoint says, because the library's code does."""

    model: str
    padding: Padding
    masked: bool
    pictures: dict[str, Any] = field(default_factory=lambda: CLIP_PICTURES)


_FAMILIES = {
    # CLIP reads causally and answers from its end token, so nothing after that matters.
    "clip": _Family("CLIPModel", "bucket", masked=False),
    "chinese_clip": _Family("ChineseCLIPModel", "bucket", masked=True),
    # SigLIP looks at its padding too, without a mask, and answers from the last token.
    "siglip": _Family("SiglipModel", "fixed", masked=False, pictures=_SIGLIP_PICTURES),
}
_REFUSED = {
    "siglip2": "its pictures have no fixed size (NaFlex); SigLIP 2 with a fixed size calls itself 'siglip'",
    **dict.fromkeys(("blip", "blip-2", "flava"), "its text and image sides are fused"),
}
_FILTERS: dict[int, Literal["lanczos", "bilinear", "bicubic"]] = {1: "lanczos", 2: "bilinear", 3: "bicubic"}


def read(folder: Path) -> Checkpoint:
    """Load a checkpoint without any network or remote code; raises CheckpointError."""
    kind = read_json(folder / "config.json").get("model_type")
    if kind not in _FAMILIES:
        reason = _REFUSED.get(str(kind), f"the dual encoders known here are {', '.join(_FAMILIES)}")
        raise CheckpointError(f"{folder}: model type {kind!r} cannot be imported: {reason}")
    family = _FAMILIES[kind]
    transformers.utils.logging.disable_progress_bar()
    with one_line(str(folder)):
        model = _model(folder, family)
        own = transformers.AutoTokenizer.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        )
        max_tokens = min(model.config.text_config.max_position_embeddings, own.model_max_length)
        tokenizer = _tokenizer(folder, own, family.padding, max_tokens)

    def text(input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None) -> torch.Tensor:
        features = model.get_text_features(input_ids=input_ids, attention_mask=attention_mask)
        rows: torch.Tensor = features.pooler_output
        return rows

    def image(pixels: torch.Tensor) -> torch.Tensor:
        rows: torch.Tensor = model.get_image_features(pixel_values=pixels).pooler_output
        return rows

    def library_rows(texts: Sequence[str]) -> torch.Tensor:
        cut = {"padding": "max_length", "truncation": True, "max_length": max_tokens}
        inputs = own(list(texts), return_tensors="pt", **cut)
        return text(inputs["input_ids"], None if family.padding == "fixed" else inputs["attention_mask"])

    return Checkpoint(
        text=Tower(model, text),
        image=Tower(model, image),
        masked=family.masked,
        padding=family.padding,
        max_tokens=max_tokens,
        tokenizer=tokenizer,
        preprocessing=preprocessing_of(folder, family.pictures, model.config.vision_config.image_size),
        library_rows=library_rows,
        package="transformers",
    )


def _model(folder: Path, family: _Family) -> Any:
    kind = getattr(transformers, family.model)
    model, loaded = kind.from_pretrained(
        folder, local_files_only=True, weights_only=True, dtype=torch.float32, output_loading_info=True
    )
    # The library fills in random numbers for weights that are not there, and only warns.
    for trouble in ("missing_keys", "mismatched_keys"):
        if names := sorted(map(str, loaded[trouble])):
            what = trouble.replace("_", " ")
            raise CheckpointError(f"{folder}: {len(names)} {what} of {family.model}, such as {names[0]}")
    return model.eval()


def _tokenizer(folder: Path, own: Any, padding: Padding, max_tokens: int) -> Tokenizer:
    check_vocabulary(folder, own)
    if own.truncation_side != "right":
        raise CheckpointError(f"{folder}: a tokenizer that cuts long texts on the left is not supported")
    if hasattr(own, "backend_tokenizer"):
        plain = own.backend_tokenizer
    elif isinstance(own, transformers.SiglipTokenizer):
        plain = siglip_pieces(Path(own.vocab_file), end_id=own.eos_token_id, lower=own.do_lower_case)
    else:
        raise CheckpointError(f"{folder}: {type(own).__name__} has no form that serving could run")
    return fitted(plain, padding, max_tokens, own.pad_token_id or 0, own.padding_side)


def preprocessing_of(folder: Path, defaults: dict[str, Any], image_size: int) -> Preprocessing:
    """The picture rule of a folder; raises CheckpointError where it does not end in squares of image_size."""
    usual: dict[str, Any] = {"do_resize": True, "do_rescale": True, "do_normalize": True}
    usual |= {"resample": 3, "rescale_factor": 1 / 255}
    given = {key: value for key, value in _picture_settings(folder).items() if value is not None}
    rule = usual | defaults | given
    size = rule["size"] if isinstance(rule["size"], dict) else {"shortest_edge": rule["size"]}
    shortest = size.get("shortest_edge")
    resized = shortest or _square(size)
    cropped = _square(rule["crop_size"]) if rule["do_center_crop"] else None if shortest else resized
    if not rule["do_resize"] or not resized or cropped != image_size or cropped > resized:
        raise CheckpointError(
            f"{folder}: pictures resized to {rule['size']} and cropped to {rule.get('crop_size')} are not the"
            f" {image_size} pixel squares that the image side reads"
        )
    if rule["resample"] not in _FILTERS:
        raise CheckpointError(f"{folder}: resample {rule['resample']} is none of {_FILTERS}")
    none = [0.0] * 3, [1.0] * 3
    mean, std = (rule["image_mean"], rule["image_std"]) if rule["do_normalize"] else none
    return Preprocessing(
        image_size=image_size,
        resize="crop" if shortest else "squash",
        interpolation=_FILTERS[rule["resample"]],
        crop_fraction=cropped / resized,
        **pixel_scale(mean, std, rule["rescale_factor"] if rule["do_rescale"] else 1.0),
    )


def _picture_settings(folder: Path) -> dict[str, Any]:
    """Nested in processor_config.json, as newer versions write them, or in preprocessor_config.json."""
    newer = folder / "processor_config.json"
    if newer.is_file() and isinstance(found := read_json(newer).get("image_processor"), dict):
        return found
    return read_json(folder / "preprocessor_config.json")


def _square(size: Any) -> int | None:
    """The side, of one number or of an equal height and width; None for anything else."""
    if isinstance(size, int):
        return size
    side: int | None = size.get("height")
    return side if side == size.get("width") else None
