"""Writes a tokenizer of single bytes into a Hugging Face cache: AIPerf loads one even where it counts by the server's usage.

python tokenizer.py CACHE NAME
"""

from __future__ import annotations

import sys
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

REVISION = "0" * 40

if __name__ == "__main__":
    cache, name = Path(sys.argv[1]), sys.argv[2]
    folder = cache / f"models--{name.replace('/', '--')}"
    tokens = {token: index for index, token in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    tokenizer = Tokenizer(models.BPE(vocab=tokens, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer).save_pretrained(folder / "snapshots" / REVISION)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text(REVISION)
