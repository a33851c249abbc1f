#!/usr/bin/env python3
"""Writes peers.jsonl.gz: scores of sacrebleu 2.6.0 and rouge-score 0.1.2 for the test `peers`.

    python3 -m venv /tmp/peers && /tmp/peers/bin/pip install sacrebleu==2.6.0 rouge-score==0.1.2
    /tmp/peers/bin/python trainer-image/evaluate/tests/peers.py
"""
import gzip
import json
import pathlib
import random

import sacrebleu
from nltk.stem.porter import PorterStemmer
from rouge_score.rouge_scorer import RougeScorer
from sacrebleu.metrics import BLEU, CHRF

assert sacrebleu.__version__ == "2.6.0"
draw = random.Random(20260101)

SENTENCES = [
    "The quick brown fox jumps over the lazy dog.",
    "It cost $1,234.50 in 2019-2021, i.e. 3.5% more (see §4).",
    "Returns the number of elements in the vector, also referred to as its 'length'.",
    "Don't panic! \"Quoted\" text &amp; entities &lt;b&gt; &quot;x&quot;",
    "a <skipped> word-\nbreak and\ttabs  with   many spaces ",
    "The relational databases were generalized; their operators' conditional rationalities sensibly differed.",
    "Running, hopped, falling, agreed, happily, flies, dying, skies, controlled, apologies, 4-5, 3-x, a.b, .5, 5.",
    "Ein schönes Haus — „groß“ und weiß; 1.000,50 €.",
    "Les élèves étaient là : « bonjour » ! Ça va ?",
    "Быстрая коричневая лиса прыгает через ленивую собаку.",
    "今天天气很好，我们去公园吧。",
    "東京都は日本の首都です。人口は約1400万人。",
    "오늘은 날씨가 좋습니다.",
    "مرحبا بالعالم، كيف حالك؟",
    "שלום עולם! מה שלומך?",
    "यह एक परीक्षण वाक्य है।",
    "ภาษาไทยไม่มีช่องว่างระหว่างคำ",
    "Emoji 😀👍🏽 and math ∑x² ≤ ½, K (Kelvin), İstanbul, ﬁne.",
    "fn push(&mut self, value: T) -> Result<(), Error> { self.items.push(value)?; Ok(()) }",
    "one two three\nfour five six\nseven eight nine ten",
    "seven eight one two\n\nfour six five\nten three",
    "the the the the cat cat sat on on the mat",
    "A\u00a0non-breaking\u2003space\u3000here\u200bzero \x1cfile\x1d separators\x85end",
    "x", ".", " ", "", "\n", "12", "3.14", "...", "a b", "the",
]
WORDS = sorted({w for s in SENTENCES for w in s.split()})


def mutate(text):
    words = text.split(" ")
    for _ in range(draw.randint(0, 4)):
        kind = draw.randint(0, 6)
        at = draw.randint(0, len(words))
        if kind == 0 and words:
            del words[min(at, len(words) - 1)]
        elif kind == 1:
            words.insert(at, draw.choice(WORDS))
        elif kind == 2 and len(words) > 1:
            i, j = draw.randrange(len(words)), draw.randrange(len(words))
            words[i], words[j] = words[j], words[i]
        elif kind == 3 and words:
            i = min(at, len(words) - 1)
            words[i] = words[i].upper() if draw.random() < 0.5 else words[i] + draw.choice([",", ".", "ing", "ed", "s", "!", "\n", "”", "€"])
        elif kind == 4:
            words = words[: draw.randint(0, len(words))]
        elif kind == 5:
            words = words + [draw.choice(SENTENCES)]
    return " ".join(words)


def pair(references):
    base = draw.choice(SENTENCES)
    hypothesis = mutate(base) if draw.random() < 0.9 else draw.choice(SENTENCES)
    return hypothesis, [mutate(base) if draw.random() < 0.9 else draw.choice(SENTENCES) for _ in range(references)]


cases = []


def bleu(hyps, refs, options):
    metric = BLEU(**options)
    score = metric.corpus_score(hyps, [list(column) for column in zip(*refs)])
    cases.append({"metric": "bleu", "options": options, "hyps": hyps, "refs": refs, "score": score.score,
                  "hypothesis": score.sys_len, "reference": score.ref_len, "signature": str(metric.get_signature())})


def chrf(hyps, refs, options):
    score = CHRF(**options).corpus_score(hyps, [list(column) for column in zip(*refs)])
    cases.append({"metric": "chrf", "options": options, "hyps": hyps, "refs": refs, "score": score.score})


SMOOTH = [("exp", None), ("floor", None), ("floor", 0.5), ("add-k", None), ("add-k", 2), ("none", None)]
for index in range(900):
    size = draw.choice([1, 1, 1, 2, 5, 12])
    references = draw.choice([1, 1, 2, 3])
    segments = [pair(references) for _ in range(size)]
    hyps, refs = [s[0] for s in segments], [s[1] for s in segments]
    method, value = SMOOTH[index % len(SMOOTH)]
    bleu(hyps, refs, {"tokenize": ["13a", "none", "char", "intl"][index // 6 % 4], "smooth_method": method, "smooth_value": value,
                      "effective_order": draw.random() < 0.4, "lowercase": draw.random() < 0.2})
    if index % 2 == 0:
        chrf(hyps, refs, {"word_order": draw.choice([0, 0, 2]), "char_order": draw.choice([6, 6, 6, 4]), "lowercase": draw.random() < 0.2})
for text in SENTENCES:  # equal, and against nothing
    for other in (text, ""):
        bleu([text], [[other]], {"tokenize": "13a", "smooth_method": "exp", "smooth_value": None, "effective_order": False, "lowercase": False})
        chrf([text], [[other]], {"word_order": 2, "char_order": 6, "lowercase": False})

TYPES = ["rouge1", "rouge2", "rougeL", "rougeLsum"]
for index in range(700):
    stemmer = index % 4 != 0
    prediction, references = pair(draw.choice([1, 1, 2, 3]))
    if index % 3 == 0:  # several lines with repetitions for the union of subsequences
        words = "the cat sat on a mat and ran after dogs quickly".split()
        line = lambda: " ".join(draw.choice(words) for _ in range(draw.randint(0, 9)))
        prediction = "\n".join(line() for _ in range(draw.randint(1, 4)))
        references = ["\n".join(line() for _ in range(draw.randint(1, 4))) for _ in references]
    scores = RougeScorer(TYPES, use_stemmer=stemmer).score_multi(references, prediction)
    cases.append({"metric": "rouge", "stemmer": stemmer, "hyps": [prediction], "refs": [references],
                  "scores": [list(map(float, scores[t])) for t in TYPES]})

# Every suffix that the stemmer knows, on stems of each measure.
SUFFIXES = """ s es sses ies ss ied eed ed ing y ational tional enci anci izer bli abli alli entli eli ousli ization ation
ator alism iveness fulness ousness aliti iviti biliti fulli logi icate ative alize iciti ical ful ness al ance ence er ic
able ible ant ement ment ent ion sion tion ou ism ate iti ous ive ize e ll lly ally ating bling izing sed zed led pped""".split() + [""]
STEMS = "b tr oat tree happ enjoy relat condit vietnam y yy syzyg hop fil wax snow bow 4x gener op ad irrit fee ag contro cann inn a be ll".split()
stem = PorterStemmer().stem
words = [s + x for s in STEMS for x in SUFFIXES] + [w for w in "sky skies dying lying tying news inning innings outing outings canning cannings howe proceed exceed succeed".split()]
cases.append({"metric": "stem", "words": words, "stems": [stem(w) if len(w) > 3 else w for w in words]})

target = pathlib.Path(__file__).parent / "peers.jsonl.gz"
with open(target, "wb") as raw, gzip.GzipFile("", "wb", 9, raw, mtime=0) as out:
    for case in cases:
        out.write((json.dumps(case, ensure_ascii=False) + "\n").encode())
print(len(cases), "cases,", target.stat().st_size, "bytes")
