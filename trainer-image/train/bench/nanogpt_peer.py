"""The peer of nanogpt.rs: nanoGPT's CPU recipe (config/train_shakespeare_char.py) in plain PyTorch eager.

    python nanogpt_peer.py TEXT DIRECTORY STEPS THREADS

Writes the initial weights (as a Hugging Face GPT-2 file) and the start of every sequence to DIRECTORY, so that
the other side trains the same model on the same batches; trains; prints one JSON line with the seconds of the
training steps alone and the validation loss over 200 batches. The model is nanoGPT's with the tanh form of GELU.
"""

import json
import math
import pathlib
import struct
import sys
import time

import torch
import torch.nn as nn
import torch.nn.functional as F

LAYERS, HEADS, WIDTH, CONTEXT, BATCH = 4, 4, 128, 64, 12
RATE, MIN_RATE, WARMUP, BETAS, DECAY, CLIP, SEED = 1e-3, 1e-4, 100, (0.9, 0.99), 0.1, 1.0, 1337
EVALUATION_BATCHES = 200


class LayerNorm(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x):
        return F.layer_norm(x, self.weight.shape, self.weight, None, 1e-5)


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.c_attn = nn.Linear(WIDTH, 3 * WIDTH, bias=False)
        self.c_proj = nn.Linear(WIDTH, WIDTH, bias=False)

    def forward(self, x):
        b, t, c = x.size()
        q, k, v = (part.view(b, t, HEADS, c // HEADS).transpose(1, 2) for part in self.c_attn(x).split(WIDTH, dim=2))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.c_proj(y.transpose(1, 2).contiguous().view(b, t, c))


class FeedForward(nn.Module):
    def __init__(self):
        super().__init__()
        self.c_fc = nn.Linear(WIDTH, 4 * WIDTH, bias=False)
        self.c_proj = nn.Linear(4 * WIDTH, WIDTH, bias=False)

    def forward(self, x):
        return self.c_proj(F.gelu(self.c_fc(x), approximate="tanh"))


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.ln_1, self.attn, self.ln_2, self.mlp = LayerNorm(WIDTH), Attention(), LayerNorm(WIDTH), FeedForward()

    def forward(self, x):
        x = x + self.attn(self.ln_1(x))
        return x + self.mlp(self.ln_2(x))


class Gpt(nn.Module):
    def __init__(self, vocabulary):
        super().__init__()
        self.transformer = nn.ModuleDict(dict(
            wte=nn.Embedding(vocabulary, WIDTH), wpe=nn.Embedding(CONTEXT, WIDTH),
            h=nn.ModuleList(Block() for _ in range(LAYERS)), ln_f=LayerNorm(WIDTH)))
        self.lm_head = nn.Linear(WIDTH, vocabulary, bias=False)
        self.transformer.wte.weight = self.lm_head.weight
        for name, weight in self.named_parameters():
            if weight.dim() == 2:
                nn.init.normal_(weight, 0.0, 0.02 / math.sqrt(2 * LAYERS) if name.endswith("c_proj.weight") else 0.02)

    def forward(self, ids, targets):
        x = self.transformer.wte(ids) + self.transformer.wpe(torch.arange(ids.size(1), device=ids.device))
        for block in self.transformer.h:
            x = block(x)
        logits = self.lm_head(self.transformer.ln_f(x))
        return F.cross_entropy(logits.view(-1, logits.size(-1)), targets.view(-1), ignore_index=-1)


def save(model, path):
    """Writes safetensors by hand: no package but torch is needed."""
    header, chunks, offset = {}, [], 0
    for name, weight in sorted(model.state_dict().items()):
        if name == "lm_head.weight":
            continue
        weight = weight.t() if ".attn." in name or ".mlp." in name else weight
        data = weight.contiguous().numpy().tobytes()
        header[name] = {"dtype": "F32", "shape": list(weight.shape), "data_offsets": [offset, offset + len(data)]}
        chunks.append(data)
        offset += len(data)
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"".join(chunks))


def rate(step, steps):
    if step < WARMUP:
        return RATE * (step + 1) / (WARMUP + 1)
    share = (step - WARMUP) / max(1, steps - WARMUP)
    return MIN_RATE + 0.5 * (1.0 + math.cos(math.pi * share)) * (RATE - MIN_RATE)


def main(text, directory, steps, threads):
    torch.set_num_threads(threads)
    torch.manual_seed(SEED)
    text, directory = pathlib.Path(text).read_text(), pathlib.Path(directory)
    letters = sorted(set(text))
    ids = torch.tensor([letters.index(letter) for letter in text])
    cut = int(len(ids) * 0.9)
    train, held_out = ids[:cut], ids[cut:]
    model = Gpt(len(letters))
    save(model, directory / "model.safetensors")
    starts = torch.stack([torch.randint(len(train) - CONTEXT, (BATCH,)) for _ in range(steps)])
    held_starts = torch.stack([torch.randint(len(held_out) - CONTEXT, (BATCH,)) for _ in range(EVALUATION_BATCHES)])
    (directory / "starts").write_bytes(torch.cat([starts, held_starts]).numpy().tobytes())

    def batch(source, begins):
        begins = begins.tolist()
        return (torch.stack([source[i:i + CONTEXT] for i in begins]),
                torch.stack([source[i + 1:i + 1 + CONTEXT] for i in begins]))

    groups = [{"params": [p for p in model.parameters() if p.dim() >= 2], "weight_decay": DECAY},
              {"params": [p for p in model.parameters() if p.dim() < 2], "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=RATE, betas=BETAS)
    begin = time.perf_counter()
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = rate(step, steps)
        loss = model(*batch(train, starts[step]))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        loss.item()
    seconds = time.perf_counter() - begin
    with torch.no_grad():
        losses = [model(*batch(held_out, begins)).item() for begins in held_starts]
    print(json.dumps({"seconds": seconds, "loss": sum(losses) / len(losses), "torch": torch.__version__}))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
