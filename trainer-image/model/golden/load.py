"""Loads a directory that bessemer-model wrote with Hugging Face transformers and prints the logits of a few ids.

    python load.py DIRECTORY
"""

import json
import sys

import torch
from transformers import AutoModelForCausalLM

IDS = [[3, 14, 15, 9, 26, 5, 35, 8]]

model, report = AutoModelForCausalLM.from_pretrained(sys.argv[1], output_loading_info=True)
wrong = {key: sorted(map(str, value)) for key, value in report.items() if value}
if wrong:
    sys.exit(f"transformers did not find the tensors it expects: {wrong}")
with torch.no_grad():
    print(json.dumps({"ids": IDS, "logits": model.eval()(torch.tensor(IDS)).logits.tolist()}))
