"""How fast does tiktoken encode with the same ranks? python tokenizer.py DIRECTORY that the benchmark filled."""
import json
import sys
import time

import tiktoken

visible = list(range(33, 127)) + list(range(161, 173)) + list(range(174, 256))
byte_of = {chr(byte): byte for byte in visible}
for extra, byte in enumerate(byte for byte in range(256) if byte not in visible):
    byte_of[chr(256 + extra)] = byte
model = json.load(open(sys.argv[1] + "/tokenizer.json"))
special = {token["content"] for token in model["added_tokens"]}
ranks = {bytes(byte_of[c] for c in token): id for token, id in model["model"]["vocab"].items() if token not in special}
pattern = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
encoding = tiktoken.Encoding("own", pat_str=pattern, mergeable_ranks=ranks, special_tokens={})
text = open(sys.argv[1] + "/text", newline="").read()
started = time.perf_counter()
ids = encoding.encode_ordinary(text)
seconds = time.perf_counter() - started
print(f"tiktoken {tiktoken.__version__}: {len(text.encode()) / 1e6 / seconds:.1f} MB/s, {len(ids)} ids")
