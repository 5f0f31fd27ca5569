"""What people write for a picture: weights, long prompts, wildcards, and adapters named in the prompt.

The language is A1111's, so that prompts written for it mean the same here:

- `(word)` is 1.1 times as strong, `[word]` as many times weaker, `(word:1.2)` what the number says;
  brackets nest, unclosed ones reach to the end, `\\(` and `\\)`, `\\[` and `\\]` are brackets themselves;
- a prompt longer than the encoder's length goes on in further chunks, parted at a comma where one is near;
  `BREAK` begins a chunk, within brackets too (where A1111 itself takes it for a word);
- `<lora:name:0.8>` names an adapter (`split_tags`), `{a|b}` chooses by the seed (`resolve_wildcards`).

Prompt editing `[from:to:0.5]`, alternation `[a|b]` and composition `AND` need another prompt at some
steps, which isn't supported: they are refused by one line. `#` begins no comment here. `literal` writes
text so that it means itself.
"""

from pipelines.prompts.encoding import count_chunks, encode, encode_literal
from pipelines.prompts.literal import literal, without_choices
from pipelines.prompts.tags import Tag, split_tags
from pipelines.prompts.wildcards import resolve_wildcards

__all__ = [
    "Tag",
    "count_chunks",
    "encode",
    "encode_literal",
    "literal",
    "resolve_wildcards",
    "split_tags",
    "without_choices",
]
