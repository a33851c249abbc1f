"""The peers' side of bench/peers.rs: the same segments, the same scores, their speed."""
import json
import sys
import time

from rouge_score.rouge_scorer import RougeScorer
from sacrebleu.metrics import BLEU, CHRF

segments = json.load(open(sys.argv[1]))
hyps, refs = [s[0] for s in segments], [[s[1][0] for s in segments]]


def timed(name, work):
    start = time.perf_counter()
    check = work()
    print(f"peer {name} {len(hyps) / (time.perf_counter() - start):.0f} {check:.9f}")


timed("bleu", lambda: BLEU().corpus_score(hyps, refs).score)
timed("chrf", lambda: CHRF().corpus_score(hyps, refs).score)
scorer = RougeScorer(["rouge1", "rouge2", "rougeL", "rougeLsum"], use_stemmer=True)
timed("rouge", lambda: sum(scorer.score(r, h)["rougeLsum"].fmeasure for h, r in zip(hyps, refs[0])) / len(hyps))
