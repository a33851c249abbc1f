"""The peer of concurrency.rs on a GPU: transformers generates from the same model, batches of 1 and 4 prompts.

    python concurrency_gpu_peer.py DIRECTORY PROMPT TOKENS

Prints a line a batch: tokens per second of the best of three rounds after one that warms up.
"""

import sys
import time

import torch
import transformers


def main(directory, prompt, tokens):
    model = transformers.AutoModelForCausalLM.from_pretrained(directory, dtype=torch.bfloat16).to("cuda").eval()
    for batch in (1, 4):
        rates = []
        for _ in range(4):
            ids = torch.randint(500, 31500, (batch, prompt), device="cuda")
            begin = time.perf_counter()
            out = model.generate(ids, min_new_tokens=tokens, max_new_tokens=tokens, do_sample=True, top_k=40, pad_token_id=0)
            torch.cuda.synchronize()
            rates.append(batch * (out.shape[1] - prompt) / (time.perf_counter() - begin))
        print(f"transformers {transformers.__version__}, GPU, batch of {batch}: {max(rates[1:]):.1f} tokens/s")


main(sys.argv[1], *map(int, sys.argv[2:]))
