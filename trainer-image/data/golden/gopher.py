"""Writes gopher.jsonl: texts with the verdict of datatrove's GopherRepetitionFilter, words split at white space.

pip install datatrove==0.10.1; python gopher.py > gopher.jsonl
"""
import json
import random

from datatrove.data import Document
from datatrove.pipeline.filters import gopher_repetition_filter as gopher

gopher.split_into_words = lambda text, language: text.split()
# datatrove counts the first n-gram of a short text even when it occurs once; nothing repeats there, so we do not.
once = gopher.find_top_duplicate
gopher.find_top_duplicate = lambda grams: 0 if len(set(grams)) == len(grams) else once(grams)
check = gopher.GopherRepetitionFilter()
draw = random.Random(1)
seen = {}
for n in range(60_000):
    words = [draw.choice(["iron", "a", "ab", "b", "été", "鋼"]) + str(draw.randrange(draw.choice([3, 30, 3000]))) for _ in range(draw.randrange(1, 120))]
    if draw.random() < 0.6:  # repeat a stretch
        at, size = draw.randrange(len(words)), draw.randrange(2, 16)
        for _ in range(draw.randrange(1, 4)):
            words[draw.randrange(len(words)) :0] = words[at : at + size]
    breaks = draw.choice([0, 0.02, 0.1, 0.4])
    text = "".join(w + (draw.choice(["\n", "\n\n", "\n\n\n"]) if draw.random() < breaks else " ") for w in words)
    if draw.random() < 0.3:  # repeat lines and paragraphs
        lines = text.split("\n")
        text += draw.choice(["\n", "\n\n"]).join(draw.choice(lines) for _ in range(draw.randrange(1, 6)))
    text = draw.choice([str.strip, str])(text)
    verdict = check.filter(Document(text=text, id=""))
    verdict = None if verdict is True else verdict[1]
    if verdict == "empty":
        continue
    seen.setdefault(verdict, []).append(text)
for verdict, texts in sorted(seen.items(), key=lambda pair: str(pair[0])):
    for text in texts[:25]:
        print(json.dumps({"text": text, "verdict": verdict}, ensure_ascii=False))
