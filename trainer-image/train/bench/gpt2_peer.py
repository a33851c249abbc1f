"""The peer of gpt2.rs: nanoGPT's GPT-2 124M in PyTorch on a GPU, BF16 autocast and fused AdamW.

    python gpt2_peer.py SEQUENCES eager|compiled

Prints one JSON line with the tokens per second of 30 steps after 10 that warm up.
"""

import json
import sys
import time

import torch

import nanogpt_peer as nanogpt

nanogpt.LAYERS, nanogpt.HEADS, nanogpt.WIDTH, nanogpt.CONTEXT = 12, 12, 768, 1024
VOCABULARY, STEPS, WARM = 50304, 40, 10


def main(sequences, form):
    torch.manual_seed(1337)
    torch.set_default_device("cuda")
    model = nanogpt.Gpt(VOCABULARY)
    step = torch.compile(model) if form == "compiled" else model
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.99), weight_decay=0.1, fused=True)
    for index in range(STEPS):
        if index == WARM:
            begin = time.perf_counter()
        ids, targets = torch.randint(VOCABULARY, (2, sequences, nanogpt.CONTEXT))
        with torch.autocast("cuda", torch.bfloat16):
            loss = step(ids, targets)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        loss.item()
    seconds = time.perf_counter() - begin
    print(json.dumps({"tokens_per_second": (STEPS - WARM) * sequences * nanogpt.CONTEXT / seconds}))


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
