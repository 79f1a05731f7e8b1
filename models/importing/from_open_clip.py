"""Dual encoders of open_clip, from a folder with open_clip_config.json, weights and perhaps a tokenizer."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

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
from models.importing.texts import byte_pairs, cleaned
from models.preprocess import Preprocessing

open_clip = load("open_clip")
CONFIG = "open_clip_config.json"


def read(folder: Path) -> Checkpoint:
    """Load a checkpoint without any network or remote code; raises CheckpointError."""
    config = read_json(folder / CONFIG).get("model_cfg")
    if not isinstance(config, dict) or not {"embed_dim", "vision_cfg", "text_cfg"} <= config.keys():
        raise CheckpointError(f"{folder / CONFIG}: no model_cfg with embed_dim, vision_cfg and text_cfg")
    if name := config["text_cfg"].get("hf_model_name"):
        raise CheckpointError(f"{folder}: its text side is {name!r} of another library: not supported")
    options = config["text_cfg"].get("tokenizer_kwargs") or {}
    if config["text_cfg"].get("tokenizer_mode") or options.keys() - {"clean"}:
        raise CheckpointError(f"{folder}: of the options of a tokenizer only 'clean' is supported")
    source = f"local-dir:{folder}"
    with one_line(str(folder)):
        # With force_custom_text every architecture has its text tower in one place.
        model = open_clip.create_model(source, force_custom_text=True, require_pretrained=True).eval()
        own = open_clip.get_tokenizer(source)
        padding = _padding(model.text)
        tokenizer = _tokenizer(folder, own, options.get("clean"), padding)
        preprocessing = preprocessing_of(folder, open_clip.get_model_preprocess_cfg(model))

    def short_text(input_ids: torch.Tensor) -> torch.Tensor:
        # The tower itself reads full length only: it does not cut its causal mask to a shorter text.
        length = input_ids.shape[1]
        mask = {"attn_mask": model.text.attn_mask[:length, :length]}
        rows: torch.Tensor = torch.func.functional_call(model.text, mask, (input_ids,))
        return rows

    def library_rows(texts: Sequence[str]) -> torch.Tensor:
        rows: torch.Tensor = model.encode_text(own(list(texts)))
        return rows

    return Checkpoint(
        text=Tower(model, short_text if padding == "bucket" else model.encode_text),
        image=Tower(model, model.encode_image),
        masked=False,
        padding=padding,
        max_tokens=own.context_length,
        tokenizer=tokenizer,
        preprocessing=preprocessing,
        library_rows=library_rows,
        package="open_clip_torch",
    )


def _padding(tower: Any) -> Padding:
    """A causal tower that answers from its end token does not see what follows; any other one may."""
    ends = tower.pool_type in ("argmax", "eos") and tower.attn_mask is not None and tower.cls_emb is None
    return "bucket" if ends else "fixed"


def _tokenizer(folder: Path, own: Any, clean: str | None, padding: Padding) -> Tokenizer:
    if isinstance(own, open_clip.SimpleTokenizer):
        start, end = (own.decoder[token] for token in (own.sot_token_id, own.eot_token_id))
        merges = sorted(own.bpe_ranks, key=own.bpe_ranks.__getitem__)
        plain = cleaned(byte_pairs(own.encoder, merges, start=start, end=end), clean or "lower")
        return fitted(plain, padding, own.context_length, 0, "right")
    inner = own.tokenizer
    check_vocabulary(folder, inner)
    plain = cleaned(inner.backend_tokenizer, clean or "whitespace")
    return fitted(plain, padding, own.context_length, inner.pad_token_id, inner.padding_side)


def preprocessing_of(folder: Path, config: dict[str, Any]) -> Preprocessing:
    """open_clip's picture rule; raises CheckpointError."""
    size, mode = config["size"], config["resize_mode"]
    width, height = (size, size) if isinstance(size, int) else size
    if width != height or mode not in ("shortest", "squash"):
        raise CheckpointError(f"{folder}: pictures of {width}x{height}, resize mode {mode!r}: not supported")
    return Preprocessing(
        image_size=width,
        resize="squash" if mode == "squash" else "crop",
        interpolation="bilinear" if config["interpolation"] == "bilinear" else "bicubic",
        **pixel_scale(config["mean"], config["std"], 1 / 255),
    )
