"""The embedded base's tokenizer: a small BPE over all 256 bytes in CLIP's class."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from pathlib import Path

from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import CLIPTokenizer

from trainers.base.backgrounds import PATTERNS, SCENES
from trainers.base.subjects import CLASS_WORDS, COLOURS, HELD_OUT, SUBJECTS

START, END = "<|startoftext|>", "<|endoftext|>"
MAX_LENGTH = 77
_WORDS = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"


def training_text() -> Iterator[str]:
    """Lines to learn merges from: the corpus' own words, often, and the names of all Unicode symbols."""
    own = (
        [s.name for s in SUBJECTS + HELD_OUT]
        + list(COLOURS)
        + list(PATTERNS)
        + [p for p, _ in SCENES.values()]
    )
    own += [word for words in CLASS_WORDS.values() for word in words]
    own += [
        "a photo of a",
        "a drawing of an",
        "a picture of",
        "an emoji of",
        "on a background",
        "gradient to",
    ]
    own += [
        "striped and checkered",
        "with dots",
        "small",
        "big",
        "large",
        "on the left",
        "on the right",
        "style",
    ]
    for line in own:
        yield from [line] * 20
    for code in (*range(0x2190, 0x2BFF), *range(0x1F300, 0x1FAFF)):
        if name := unicodedata.name(chr(code), ""):
            yield name.lower()


def build(folder: Path, size: int = 3485) -> CLIPTokenizer:
    """Learn the merges and save a CLIPTokenizer of up to `size` entries in `folder`."""
    bpe = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    bpe.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_WORDS), "removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=size - 2 - 256,
        initial_alphabet=letters,
        end_of_word_suffix="</w>",
        show_progress=False,
    )
    bpe.train_from_iterator(training_text(), trainer)
    learned = sorted(bpe.get_vocab().items(), key=lambda row: row[1])
    # Every byte stands alone and at a word's end, so that any text encodes.
    entries = dict.fromkeys(
        letters + [f"{c}</w>" for c in letters] + [token for token, _ in learned] + [START, END]
    )
    merges = bpe_merges(bpe)
    tokenizer = CLIPTokenizer(
        vocab={token: i for i, token in enumerate(entries)},
        merges=merges,
        bos_token=START, eos_token=END, unk_token=END, pad_token=END,
        model_max_length=MAX_LENGTH,
    )  # fmt: skip
    tokenizer.save_pretrained(folder)
    return tokenizer


def bpe_merges(bpe: Tokenizer) -> list[tuple[str, str]]:
    """The learned merges in order, as pairs."""
    import json

    return [tuple(pair) for pair in json.loads(bpe.to_str())["model"]["merges"]]
