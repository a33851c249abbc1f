"""Writes the golden models of bessemer-model's tests with Hugging Face transformers.

Run by hand when a case is added (torch==2.11.0 and transformers from PyPI); the files are committed. Each
directory is a model as `save_pretrained` writes it, cut to what the tests read, plus golden.json: token ids,
logits of the whole sequence in FP32, and 8 greedily decoded ids.
"""

import json
import pathlib
import sys

import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM

HERE = pathlib.Path(__file__).parent
IDS = [[3, 14, 15, 9, 26, 5, 35, 8], [31, 41, 5, 9, 2, 6, 53, 58]]


def spread(model, seed):
    """Draws larger weights than the usual initialisation, so that every part of the model counts."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in sorted(model.named_parameters()):
            noise = torch.randn(weight.shape, generator=generator) * 0.2
            scale = weight.dim() == 1 and ("ln_" in name or "norm" in name) and name.endswith("weight")
            weight.copy_(noise + 1.0 if scale else noise)


def write(name, model, seed):
    model.eval()
    spread(model, seed)
    directory = HERE / name
    model.save_pretrained(directory)
    ids = torch.tensor(IDS)
    with torch.no_grad():
        logits = model(ids).logits
        greedy = ids[:1]
        for _ in range(8):
            following = model(greedy).logits[:, -1].argmax(-1, keepdim=True)
            greedy = torch.cat([greedy, following], dim=1)
    (directory / "golden.json").write_text(
        json.dumps({
            "transformers": __import__("transformers").__version__,
            "ids": IDS,
            "logits": [[[float(f"{x:.7g}") for x in row] for row in part] for part in logits.tolist()],
            "greedy": greedy[0, ids.shape[1]:].tolist(),
        })
    )


def main():
    torch.set_num_threads(1)
    write("gpt2", GPT2LMHeadModel(GPT2Config(vocab_size=64, n_positions=32, n_embd=16, n_layer=2, n_head=4,
                                              bos_token_id=0, eos_token_id=0)), 1)
    grouped = dict(vocab_size=64, hidden_size=16, intermediate_size=40, num_hidden_layers=2, num_attention_heads=4,
                   max_position_embeddings=32)
    write("llama", LlamaForCausalLM(LlamaConfig(num_key_value_heads=2, rope_theta=500.0, **grouped)), 2)
    write("llama-tied", LlamaForCausalLM(LlamaConfig(num_key_value_heads=1, head_dim=8, tie_word_embeddings=True,
                                                     **grouped)), 3)
    # Three tokens are fewer than those of the sequences, and than what a cache holds.
    write("mistral", MistralForCausalLM(MistralConfig(num_key_value_heads=2, sliding_window=3, **grouped)), 4)


if __name__ == "__main__":
    sys.exit(main())
