"""A worker that answers what a script says, for what no model can be made to say."""

import asyncio
import math

from gguf_jax.generation import Piece, Scheduler
from gguf_jax.server.worker import Worker


class Scripted(Worker):
    """Answers `text`, with probabilities, a token each `pause` seconds."""

    def __init__(self, model, text, pause=0.0):
        super().__init__(lambda told: (model, Scheduler(model, slots=2, ctx_size=64)))
        self.text, self.pause, self.prompts = text, pause, []

    async def batches(self, prompt, params, *, top=None, **options):
        self._check_ready()
        tokenizer = self.model.tokenizer
        self.prompts.append(tokenizer.decode(prompt))
        ids = tokenizer.encode(self.text, add_special=False)
        stream = tokenizer.stream()
        for i, token in enumerate(ids):
            await asyncio.sleep(self.pause)
            share = (0.99, 0.7, 0.4, 0.15, 0.02)[i * 7 % 5]
            rest = [(other, math.log((1 - share) * 0.5 ** (1 + n))) for n, other in enumerate((11, 284, 290, 13))]
            best = sorted([(token, math.log(share)), *rest], key=lambda pair: -pair[1])[:top]
            finish = "stop" if i == len(ids) - 1 else None
            scores = None if top is None else (math.log(share), best)
            yield [Piece(0, stream.put(token), token, finish, log_probs=scores)]
