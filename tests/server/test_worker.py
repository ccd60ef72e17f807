"""The worker by itself: many at once, some of which go away, and steps that fail."""

import asyncio
import random

import pytest

import gguf_jax as gj
from gguf_jax.errors import GGUFJaxError
from gguf_jax.generation import Scheduler
from gguf_jax.server.worker import Worker

GREEDY = gj.SamplingParams.greedy()
WORDS = "It was the year 1802, and the people of the town stood before the old house, for the sea was calm and they had"


@pytest.fixture(scope="module")
def model():
    return gj.load()


@pytest.fixture(scope="module")
def worker(model):
    found = Worker(lambda told: (model, Scheduler(model, slots=4, ctx_size=96)))
    found.start()
    while found.status == "loading":
        pass
    yield found
    found.stop(10)


async def text_of(worker, prompt, most, leave=None):
    stream, text, count = worker.batches(prompt, GREEDY, max_tokens=most), "", 0
    try:
        async for pieces in stream:
            text, count = text + "".join(piece.text for piece in pieces), count + len(pieces)
            if leave is not None and count >= leave:
                return None
    finally:
        await stream.aclose()
    return text


async def until_idle(worker):
    async with asyncio.timeout(30):
        while worker.active or worker.scheduler.busy:
            await asyncio.sleep(0.01)


def test_property_many_at_once_get_what_each_gets_alone(model, worker):
    ids = model.tokenizer.encode(WORDS)
    mixed = random.Random(0)
    requests = [(ids[: mixed.choice([3, 9, 17, len(ids)])], mixed.choice([2, 7, 20])) for _ in range(60)]

    async def all_of_them():
        alone = {each: await text_of(worker, list(each[0]), each[1]) for each in {(tuple(p), n) for p, n in requests}}
        leaving = [i % 10 == 3 for i in range(len(requests))]
        found = await asyncio.gather(
            *(
                text_of(worker, prompt, most, 2 if leaves else None)
                for (prompt, most), leaves in zip(requests, leaving, strict=True)
            )
        )
        await until_idle(worker)
        return alone, leaving, found

    alone, leaving, found = asyncio.run(all_of_them())
    for (prompt, most), leaves, text in zip(requests, leaving, found, strict=True):
        assert text == (None if leaves else alone[tuple(prompt), most])
    assert worker.scheduler.free == 4
    assert worker.scheduler.waiting == 0


def test_a_step_that_fails_ends_those_it_was_for(model, worker, monkeypatch):
    ids = model.tokenizer.encode(WORDS)
    expected = asyncio.run(text_of(worker, ids, 5))
    step, left = worker.scheduler.step, [True]

    def failing():
        if worker.scheduler.free == 3 and left:
            left.pop()
            worker.scheduler._cache = None  # as when a program has failed that it was donated to
            raise RuntimeError("out of memory\nand more")
        return step()

    monkeypatch.setattr(worker.scheduler, "step", failing)

    async def again():
        with pytest.raises(GGUFJaxError, match="engine: out of memory"):
            await text_of(worker, ids, 20)
        found = await text_of(worker, ids, 5)
        await until_idle(worker)
        return found

    assert asyncio.run(again()) == expected
    assert not left
