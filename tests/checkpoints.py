"""Checkpoint folders as the libraries write them: real architectures, tiny and random; real tokenizers."""

import io
import json
from pathlib import Path
from typing import Any

import sentencepiece
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

from models.importing.libraries import load

open_clip, transformers = load("open_clip"), load("transformers")

CORPUS = (
    "a photo of a red apple beside a blue cup",
    "two children in red shirts play with a ball on the beach while a brown dog watches them",
    "don't look: it's 12.5 m away, they're e-mailing naïve café owners in the Straße",
    "a very long text about a brown dog that runs along the sea",
    "日本の赤いりんご красное яблоко تفاحة",
)
SIDE = 32  # pixels
WORDS = 90  # pieces of the small vocabularies
_TOWER = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4}
_VISION = _TOWER | {"image_size": SIDE, "patch_size": 8, "projection_dim": 16}
_ZERO_TO_ONE = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}


def clip(folder: Path, *, end_in_config: int | None = None) -> Path:
    """CLIPModel; where its config names 2 as the end token, the library looks for the highest token."""
    letters, merges = _byte_pairs()
    start, end = len(letters), len(letters) + 1
    vocabulary = letters | {"<|startoftext|>": start, "<|endoftext|>": end}
    tokenizer = transformers.CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=77)
    text = {"vocab_size": len(vocabulary), "max_position_embeddings": 77, "projection_dim": 16}
    text |= {"bos_token_id": start, "eos_token_id": end_in_config or end}
    config = transformers.CLIPConfig(text_config=_TOWER | text, vision_config=_VISION, projection_dim=16)
    rule = {"size": {"shortest_edge": SIDE}, "crop_size": {"height": SIDE, "width": SIDE}}
    return _saved(folder, transformers.CLIPModel(config), tokenizer, rule)


def old_clip(folder: Path) -> Path:
    """CLIPModel as it was saved years ago."""
    clip(folder, end_in_config=2)
    rule = {"feature_extractor_type": "CLIPFeatureExtractor", "size": SIDE, "crop_size": SIDE}
    (folder / "preprocessor_config.json").write_text(json.dumps(rule))
    return folder


def siglip(folder: Path) -> Path:
    """SiglipModel with a sentencepiece tokenizer."""
    folder.mkdir(parents=True)
    pieces = io.BytesIO()
    ids: dict[str, Any] = {"pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1}
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS * 20), model_writer=pieces, vocab_size=WORDS, minloglevel=2, **ids
    )
    (folder / "spiece.model").write_bytes(pieces.getvalue())
    tokenizer = transformers.SiglipTokenizer(str(folder / "spiece.model"), model_input_names=["input_ids"])
    text = {"vocab_size": WORDS, "max_position_embeddings": 64, "projection_size": 32}
    text |= {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
    config = transformers.SiglipConfig(text_config=_TOWER | text, vision_config=_VISION)
    rule = _ZERO_TO_ONE | {"size": {"height": SIDE, "width": SIDE}}
    return _saved(folder, transformers.SiglipModel(config), tokenizer, rule)


def chinese_clip(folder: Path) -> Path:
    """ChineseCLIPModel: a BERT reads the texts, padding hidden by a mask."""
    words = sorted({word for text in CORPUS for word in (*text.lower().split(), *text.lower())} - {" "})
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    vocabulary = {token: i for i, token in enumerate([*special, *words])}
    tokenizer = transformers.BertTokenizer(vocab=vocabulary, model_max_length=52)
    text = {"vocab_size": len(vocabulary), "max_position_embeddings": 64}
    config = transformers.ChineseCLIPConfig(
        text_config=_TOWER | text, vision_config=_VISION, projection_dim=16
    )
    rule = {"size": {"height": SIDE, "width": SIDE}, "do_center_crop": False}
    return _saved(folder, transformers.ChineseCLIPModel(config), tokenizer, rule)


def open_clip_vit(folder: Path) -> Path:
    """A plain ViT with CLIP's own vocabulary, which comes with the library."""
    text = {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 4, "layers": 1}
    vision = {"image_size": SIDE, "layers": 1, "width": 32, "patch_size": 8, "head_width": 8}
    config = {"embed_dim": 16, "quick_gelu": True, "vision_cfg": vision, "text_cfg": text}
    return _saved_by_open_clip(folder, open_clip.CLIP(**config), config, {})


def open_clip_siglip(folder: Path) -> Path:
    """A custom text tower and a timm image tower, as open_clip holds SigLIP, with a tokenizer of its own."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    special = ["<pad>", "</s>", "<unk>"]
    trainer = trainers.UnigramTrainer(
        vocab_size=WORDS, special_tokens=special, unk_token="<unk>", show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS * 20, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    names = {"pad_token": "</s>", "eos_token": "</s>", "unk_token": "<unk>"}
    transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names).save_pretrained(folder)
    text: dict[str, Any] = {"context_length": 16, "vocab_size": WORDS, "width": 32, "heads": 4, "layers": 1}
    text |= {"no_causal_mask": True, "proj_bias": True, "pool_type": "last"}
    text |= {"hf_tokenizer_name": "tiny", "tokenizer_kwargs": {"clean": "canonicalize"}}
    vision = {"image_size": SIDE, "timm_model_name": "test_vit", "timm_pool": "map", "timm_proj": "none"}
    config = {"embed_dim": 64, "init_logit_bias": -10, "vision_cfg": vision, "text_cfg": text}
    pictures = {"mean": [0.5] * 3, "std": [0.5] * 3, "resize_mode": "squash"}
    model = open_clip.CustomTextCLIP(**config)
    return _saved_by_open_clip(folder, model, config | {"custom_text": True}, pictures)


def _saved(folder: Path, model: Any, tokenizer: Any, pictures: dict[str, Any]) -> Path:
    _stir(model).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(pictures))
    return folder


def _saved_by_open_clip(folder: Path, model: Any, config: dict[str, Any], pictures: dict[str, Any]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    save_file(_stir(model).state_dict(), folder / "open_clip_model.safetensors")
    whole = {"model_cfg": config, "preprocess_cfg": pictures}
    (folder / "open_clip_config.json").write_text(json.dumps(whole))
    return folder


def _byte_pairs() -> tuple[dict[str, int], Any]:
    tokenizer = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=700, initial_alphabet=letters, end_of_word_suffix="</w>", show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS * 5, trainer)
    learnt = json.loads(tokenizer.to_str())["model"]
    tokens = dict.fromkeys([*letters, *(letter + "</w>" for letter in letters), *learnt["vocab"]])
    return {token: i for i, token in enumerate(tokens)}, [tuple(pair) for pair in learnt["merges"]]


def _stir(model: Any) -> Any:
    """Matrices so large that every token and pixel shows in the rows."""
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn_like(parameter)
            parameter.copy_(0.3 * noise if parameter.ndim > 1 else parameter + 0.1 * noise)
    return model.eval()
