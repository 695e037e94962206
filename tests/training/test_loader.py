"""Batches come in order, finished, and from the run's own order alone."""

import pytest
import torch
from tiny import Points

from d2v.data.sampler import GlobalBatches
from d2v.training import loader


class Finished(Points):
    """Doubles its input where the model is."""

    def finish(self, batch, device):
        assert device == torch.device("cpu")
        return {**batch, "x": 2 * batch["x"]}


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_are_finished_and_in_order(workers):
    points = Finished()
    order = GlobalBatches(len(points), batch=4, micro_batch=4, seed=3)
    batches = loader.batches(points, order, workers, torch.device("cpu"))
    wanted = iter(order)
    for _ in range(7):  # more than an epoch
        examples = [points[key] for key in next(wanted)]
        batch = next(batches)
        assert batch["ids"] == [e["id"] for e in examples]
        assert torch.equal(batch["x"], 2 * torch.stack([e["x"] for e in examples]))


def test_loading_draws_nothing_from_the_run():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    points = Points()
    next(loader.batches(points, GlobalBatches(20, 4, 4), 0, torch.device("cpu")))
    assert torch.equal(torch.get_rng_state(), before)
