"""What a library knows about a checkpoint, in the words of a bundle."""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from tokenizers import Tokenizer

from models.importing.errors import CheckpointError
from models.preprocess import Preprocessing

Padding = Literal["bucket", "fixed"]


class Tower(torch.nn.Module):
    """One side of a model: run makes (n, dim) of a batch's inputs, and the rows come out with length one."""

    def __init__(self, model: torch.nn.Module, run: Callable[..., torch.Tensor]) -> None:
        super().__init__()
        self.model = model  # run uses it; here its weights are found
        self.run = run

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.normalize(self.run(*inputs), dim=-1)


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A dual encoder and all that comes before it."""

    text: Tower  # input_ids int64 (n, L), and attention_mask if masked
    image: Tower  # pixels float32 (n, 3, S, S)
    masked: bool
    padding: Padding
    max_tokens: int
    tokenizer: Tokenizer  # cleaning, cutting and, where it is fixed, padding included
    preprocessing: Preprocessing
    library_rows: Callable[[Sequence[str]], torch.Tensor]  # (n, dim) by the library alone, of any length
    package: str  # the library, by the name it is installed under

    @property
    def dim(self) -> int:
        """Numbers in a row."""
        side = self.preprocessing.image_size
        with torch.no_grad():
            rows: torch.Tensor = self.image(torch.zeros(1, 3, side, side))
        return rows.shape[1]


@contextmanager
def one_line(about: str) -> Iterator[None]:
    """Whatever a library raises becomes a CheckpointError of one line that begins with `about`."""
    try:
        yield
    except CheckpointError:
        raise
    except Exception as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()] or ["no reason given"]
        raise CheckpointError(f"{about}: {type(error).__name__}: {lines[0]:.300}") from error


def read_json(file: Path) -> dict[str, Any]:
    """A JSON object; raises CheckpointError."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CheckpointError(f"{file.parent}: there is no {file.name}") from error
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{file}: {error}") from error
    if not isinstance(found, dict):
        raise CheckpointError(f"{file}: not a JSON object")
    return found


def pixel_scale(mean: Sequence[float], std: Sequence[float], factor: float) -> dict[str, Any]:
    """Mean and std of pixel values 0 to 255 that do what scaling by factor and normalising did."""
    if len(mean) != 3 or len(std) != 3:
        raise CheckpointError(f"pictures of {len(mean)} channels are not supported, only RGB")
    return {"mean": tuple(m / factor for m in mean), "std": tuple(s / factor for s in std)}


def check_vocabulary(folder: Path, tokenizer: Any) -> None:
    """Raise CheckpointError where the transformers library, for lack of files, made up an empty tokenizer."""
    files = {"tokenizer.json", *tokenizer.vocab_files_names.values()}
    if not any((folder / name).is_file() for name in files):
        raise CheckpointError(f"{folder}: there is no tokenizer: none of {', '.join(sorted(files))}")


def fitted(tokenizer: Tokenizer, padding: Padding, max_tokens: int, pad_id: int, side: str) -> Tokenizer:
    """A copy that cuts at max_tokens and, for fixed padding, fills up to it with pad_id."""
    copy = Tokenizer.from_str(tokenizer.to_str())
    copy.enable_truncation(max_tokens)
    copy.no_padding()
    if padding == "fixed":
        token = copy.id_to_token(pad_id) or ""
        copy.enable_padding(direction=side, length=max_tokens, pad_id=pad_id, pad_token=token)
    return copy
