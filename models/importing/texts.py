# mypy: disable-error-code="attr-defined"
"""Tokenizers that exist only as Python code, rebuilt for the tokenizers library.

What a library does to a text before its tokenizer sees it (cleaning, lower case, punctuation) becomes part of
the tokenizer, so that serving needs nothing but one tokenizer.json.
"""

import re
import string
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers, processors

from models.importing.errors import CheckpointError

_PUNCTUATION = Regex(f"[{re.escape(string.punctuation)}]")
_BLANKS = normalizers.Replace(Regex(r"\s+"), " ")
_TRIMMED: list[Any] = [_BLANKS, normalizers.Strip()]
# The part of ftfy.fix_text and html.unescape that queries meet; misdecoded bytes and full-width letters stay.
_MENDED: list[Any] = [
    normalizers.Replace(Regex("[\x00-\x08\x0b\x0e-\x1f\x7f\ufeff\ufff9-\ufffb\u206a-\u206f]"), ""),
    normalizers.Replace(Regex("[\u02bc\u2018-\u201b]"), "'"),
    normalizers.Replace(Regex("[\u201c-\u201f]"), '"'),
    *(
        normalizers.Replace(ligature, letters)
        for ligature, letters in zip("ﬃﬄﬀﬁﬂﬆ", ("ffi", "ffl", "ff", "fi", "fl", "st"), strict=True)
    ),
    normalizers.NFC(),
    *(
        normalizers.Replace(entity, character)
        for entity, character in (
            ("&amp;", "&"),
            ("&lt;", "<"),
            ("&gt;", ">"),
            ("&quot;", '"'),
            ("&#39;", "'"),
            ("&nbsp;", " "),
        )
    ),
]
_CLEANING: dict[str, list[Any]] = {
    "whitespace": [*_MENDED, *_TRIMMED],
    "lower": [*_MENDED, *_TRIMMED, normalizers.Lowercase()],
    "canonicalize": [
        *_MENDED,
        normalizers.Replace("_", " "),
        normalizers.Replace(_PUNCTUATION, ""),
        normalizers.Lowercase(),
        *_TRIMMED,
    ],
}


def cleaned(tokenizer: Tokenizer, clean: str) -> Tokenizer:
    """A copy with open_clip's cleaning of that name before its own normaliser; raises CheckpointError."""
    if clean not in _CLEANING:
        raise CheckpointError(f"the cleaning {clean!r} is none of {', '.join(_CLEANING)}")
    copy = Tokenizer.from_str(tokenizer.to_str())
    own = [copy.normalizer] if copy.normalizer is not None else []
    copy.normalizer = normalizers.Sequence([*_CLEANING[clean], *own])
    return copy


def byte_pairs(
    vocabulary: Mapping[str, int], merges: Sequence[tuple[str, str]], *, start: str, end: str
) -> Tokenizer:
    """CLIP's byte-pair tokenizer (Radford et al. 2021) without its cleaning."""
    tokenizer = Tokenizer(models.BPE(dict(vocabulary), list(merges), end_of_word_suffix="</w>"))
    words = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(words), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    marks = [(token, vocabulary[token]) for token in (start, end)]
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{start} $A {end}", special_tokens=marks)
    tokenizer.add_special_tokens([AddedToken(token, normalized=True) for token in (start, end)])
    return tokenizer


def siglip_pieces(model_file: Path, *, end_id: int, lower: bool) -> Tokenizer:
    """SigLIP's sentencepiece tokenizer: lower case, no ASCII punctuation, pieces, one end token.

    Follows SiglipTokenizer of the transformers library, which has no form for the tokenizers library. Special
    tokens spelled out in a text are words here.
    """
    from sentencepiece.sentencepiece_model_pb2 import ModelProto

    proto = ModelProto()
    proto.ParseFromString(model_file.read_bytes())
    if proto.trainer_spec.model_type != 1:
        raise CheckpointError(f"{model_file}: only unigram models of sentencepiece are supported")
    pieces = [(piece.piece, piece.score) for piece in proto.pieces]
    unigram = models.Unigram(pieces, proto.trainer_spec.unk_id, proto.trainer_spec.byte_fallback)
    tokenizer = Tokenizer(unigram)
    charsmap = proto.normalizer_spec.precompiled_charsmap
    tokenizer.normalizer = normalizers.Sequence(
        [
            *([normalizers.Lowercase()] if lower else []),
            normalizers.Replace(_PUNCTUATION, ""),
            *_TRIMMED,
            *([normalizers.Precompiled(charsmap)] if charsmap else []),
            normalizers.Replace(Regex(" {2,}"), " "),
        ]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    end = pieces[end_id][0]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"$A {end}", special_tokens=[(end, end_id)]
    )
    return tokenizer
