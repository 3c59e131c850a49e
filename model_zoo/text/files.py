"""Tokenizers from files: Hugging Face's `tokenizer.json` and SentencePiece models."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from fedemb.errors import NotAvailable, UserError
from model_zoo.text.tokenizer import Tokenizer

_PAD = ("<pad>", "[PAD]", "<|padding|>")
_BOS = ("<s>", "<bos>", "[CLS]", "<|startoftext|>", "<start_of_text>")
_EOS = ("</s>", "<eos>", "[SEP]", "<|endoftext|>", "<end_of_text>")


@dataclass(frozen=True, kw_only=True)
class FileTokenizer:
    """A tokenizer read from a file, with the special ids found in it.

    Attributes:
        file: where it came from; it is read again in other processes.
        vocab_size: number of ids.
        pad: fills the end of short texts.
        bos: begins a text.
        eos: ends a text.
        split: text to ids, without special ones.
        join: ids to text.
    """

    file: Path
    vocab_size: int
    pad: int
    bos: int
    eos: int
    split: Callable[[str], list[int]]
    join: Callable[[list[int]], str]

    def pieces(self, text: str) -> list[int]:
        """Ids of a text of any length, without special ones."""
        return self.split(text)

    def text(self, ids: Sequence[int]) -> str:
        """The text of ids; special ones are left out."""
        special = {self.pad, self.bos, self.eos}
        return self.join([int(i) for i in ids if int(i) not in special])

    def __reduce__(self) -> tuple[Callable[[Path], Tokenizer], tuple[Path]]:
        return open_tokenizer, (self.file,)


def open_tokenizer(file: Path) -> Tokenizer:
    """A tokenizer from `*.json` (Hugging Face) or `*.model` (SentencePiece).

    Needs the extra `text`. Where a file names no padding, the end of text pads; where
    it names no beginning, the end of text begins.

    Raises:
        NotAvailable: no such file, or the package that reads it is missing.
        UserError: another kind of file, a damaged one, or one without an end of text.
    """
    file = Path(file)
    if not file.is_file():
        raise NotAvailable(f"{file} does not exist; give a tokenizer's file.")
    readers = {".json": _hugging_face, ".model": _sentencepiece}
    if file.suffix not in readers:
        raise UserError(f"{file} is neither a tokenizer.json nor a *.model file.")
    try:
        return readers[file.suffix](file)
    except ImportError as error:
        raise NotAvailable(
            f"{error.name} is needed to read {file.name}; pip install 'fedemb[text]'."
        ) from error
    except UserError:
        raise
    except Exception as error:  # the readers raise plain exceptions of many kinds
        reason = (str(error).splitlines() or [type(error).__name__])[0][:80]
        raise UserError(f"{file} cannot be read as a tokenizer: {reason}") from error


def _hugging_face(file: Path) -> FileTokenizer:
    from tokenizers import Tokenizer as Reader

    reader = Reader.from_file(str(file))
    reader.no_padding()
    reader.no_truncation()

    def split(text: str) -> list[int]:
        return list(reader.encode(text, add_special_tokens=False).ids)

    def find(names: tuple[str, ...]) -> int | None:
        found = (reader.token_to_id(name) for name in names)
        return next((i for i in found if i is not None), None)

    eos = _needed(find(_EOS), file)
    pad, bos = find(_PAD), find(_BOS)
    return FileTokenizer(
        file=file,
        vocab_size=reader.get_vocab_size(),
        pad=eos if pad is None else pad,
        bos=eos if bos is None else bos,
        eos=eos,
        split=split,
        join=reader.decode,
    )


def _sentencepiece(file: Path) -> FileTokenizer:
    from sentencepiece import SentencePieceProcessor

    reader = SentencePieceProcessor(model_file=str(file))
    eos = _needed(reader.eos_id() if reader.eos_id() >= 0 else None, file)
    return FileTokenizer(
        file=file,
        vocab_size=reader.vocab_size(),
        pad=reader.pad_id() if reader.pad_id() >= 0 else eos,
        bos=reader.bos_id() if reader.bos_id() >= 0 else eos,
        eos=eos,
        split=reader.encode,
        join=reader.decode,
    )


def _needed(eos: int | None, file: Path) -> int:
    if eos is None:
        raise UserError(
            f"{file} has no end of text (one of {', '.join(_EOS)}); add one."
        )
    return eos
