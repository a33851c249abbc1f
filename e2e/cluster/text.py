"""Writes the text and the pairs of the fixture chain below a directory, the same every time. usage: text.py DIRECTORY"""
import json
import pathlib
import random
import sys

WORDS = """alpha beta gamma delta omega river stone cloud light water field house garden window table paper letter number
colour summer winter morning evening mountain valley forest island harbour bridge market village castle silver copper yellow
purple orange little great silent early narrow distant gentle heavy simple ancient walks turns carries follows reaches leaves
enters opens closes finds""".split()


def document(number):
    chosen = random.Random(number)
    lines = "".join(f"the {' '.join(chosen.choice(WORDS) for _ in range(10))}.\n" for _ in range(6))
    # What the answers of the pairs are like, so that pretraining alone helps a little.
    return f"Document {number} tells of {lines}Say number {number}: the number is {number}. The number is {number * 7 % 400}.\n"


def write(path, rows):
    path = pathlib.Path(sys.argv[1]) / path
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


write("text/docs.jsonl", ({"text": document(n), "license": "MIT"} for n in range(400)))
write("pairs/items.jsonl", ({"prompt": f"Say number {n}", "response": f"The number is {n}.", "license": "MIT"} for n in range(200)))
