"""Seeds of trials: seed 0 is the script as it stands, other seeds shift what it seeds, and arms stay paired."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch

import trimtab as tt
from trimtab.training import shifted
from trimtab.training.seeds import STRIDE

WAYS = {
    "torch": lambda: (torch.manual_seed(3), torch.rand(4).tolist())[1],
    "torch.random": lambda: (torch.random.manual_seed(3), torch.rand(4).tolist())[1],
    "generator": lambda: torch.rand(4, generator=torch.Generator().manual_seed(3)).tolist(),
    "random": lambda: (random.seed(3), [random.random() for _ in range(4)])[1],
    "numpy": lambda: (np.random.seed(3), np.random.rand(4).tolist())[1],
    "default_rng": lambda: np.random.default_rng(3).random(4).tolist(),
    "loader": lambda: [
        int(row) for row in torch.utils.data.DataLoader(
            range(16), shuffle=True, batch_size=None, generator=torch.Generator().manual_seed(3))
    ],
}  # fmt: skip
UNSEEDED = {
    "torch": lambda: torch.rand(4).tolist(),
    "random": lambda: [random.random() for _ in range(4)],
    "numpy": lambda: np.random.rand(4).tolist(),
    "default_rng": lambda: np.random.default_rng().random(4).tolist(),
    "random.seed": lambda: (random.seed(), random.random())[1],
    "numpy.seed": lambda: (np.random.seed(), np.random.rand(4).tolist())[1],
    "torch.seed": lambda: (torch.seed(), torch.rand(4).tolist())[1],
}


def under(seed, draw):
    with shifted(seed):
        return draw()


@pytest.mark.parametrize("way", WAYS)
def test_seed_0_is_the_script_as_it_stands(way):
    assert under(0, WAYS[way]) == WAYS[way]()


@pytest.mark.parametrize("way", WAYS)
def test_other_seeds_shift_what_the_script_seeds(way):
    drawn = [under(seed, WAYS[way]) for seed in range(4)]
    assert len({tuple(values) for values in drawn}) == 4
    assert drawn == [under(seed, WAYS[way]) for seed in range(4)]


@pytest.mark.parametrize("way", UNSEEDED)
def test_what_the_script_does_not_seed_is_seeded(way):
    drawn = [under(seed, UNSEEDED[way]) for seed in (0, 1, 0, 1)]
    assert drawn[:2] == drawn[2:]
    assert drawn[0] != drawn[1]


def test_two_unseeded_generators_differ():
    with shifted(1):
        first, second = np.random.default_rng().random(), np.random.default_rng().random()
    assert first != second


def test_equal_seeds_in_a_script_stay_equal():
    """A script that seeds twice, to draw the same twice, still does."""
    with shifted(5):
        assert WAYS["torch"]() == WAYS["torch"]()
        assert WAYS["default_rng"]() == WAYS["default_rng"]()


def test_splits_with_a_state_of_their_own_stay():
    """They are data: every trial must have the same test set."""
    from sklearn.model_selection import train_test_split

    rows = list(range(40))
    assert under(0, lambda: train_test_split(rows, random_state=0)) == under(
        7, lambda: train_test_split(rows, random_state=0)
    )


def test_everything_is_put_back():
    places = [
        (torch._C.Generator, "manual_seed"),
        (torch._C.Generator, "seed"),
        (random, "seed"),
        (np.random, "default_rng"),
        (np.random, "seed"),
    ]
    before = [getattr(owner, name) for owner, name in places]
    with pytest.raises(RuntimeError, match="in between"):
        with shifted(1):
            assert all(getattr(owner, name) is not old for (owner, name), old in zip(places, before, strict=True))
            raise RuntimeError("in between")
    assert all(getattr(owner, name) is old for (owner, name), old in zip(places, before, strict=True))
    assert torch.Generator().manual_seed(1).initial_seed() == 1


def test_generators_are_those_of_torch():
    kind = type(torch.default_generator)
    with shifted(1):
        made = torch.Generator("cpu")
        assert type(made) is kind and isinstance(made, torch.Generator)
        assert made.manual_seed(1).initial_seed() == 1
        state = made.get_state()
        torch.randperm(5, generator=made)
        made.set_state(state)
        compiled = torch.compile(lambda x: x + torch.rand(3, generator=made), backend="eager")
        assert compiled(torch.zeros(3)).shape == (3,)
    assert torch.rand(1, generator=made).shape == (1,)  # still usable outside


class Drawing(torch.utils.data.Dataset):
    """Draws from every generator in the processes of a loader."""

    def __len__(self):
        return 8

    def __getitem__(self, row):
        return torch.tensor([row, torch.rand(1).item(), random.random(), np.random.rand()])


def seed_the_others(worker):
    """As the notes on reproducibility of PyTorch have it."""
    np.random.seed(torch.initial_seed() % 2**32)
    random.seed(torch.initial_seed() % 2**32)


def test_seeds_that_are_made_of_seeds_are_shifted_once():
    """As accelerate seeds its samplers."""

    def draw(seed):
        torch.manual_seed(seed)
        np.random.seed(torch.initial_seed() % 2**32)
        own = torch.Generator().manual_seed(torch.random.initial_seed() + 1)
        return [torch.rand(1, generator=own).item(), np.random.rand()]

    assert under(2, lambda: draw(5)) == draw(5 + 2 * STRIDE)


def test_what_techniques_draw_is_that_of_the_script_with_a_higher_seed():
    def draw(seed):
        torch.manual_seed(seed)
        model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
        tt.attach(model, torch.optim.SGD(model.parameters(), lr=0.1)).apply("deep_ensemble(members=2), dropout, noise")
        return model(torch.randn(4, 4)).tolist(), [p.sum().item() for p in model.parameters()]

    assert under(2, lambda: draw(5)) == draw(5 + 2 * STRIDE) != draw(5)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_shifted_run_is_the_run_with_a_higher_seed(workers):
    """Also where PyTorch hands seeds on: to samplers, and to the processes of a loader."""

    def draw(seed):
        torch.manual_seed(seed), random.seed(seed), np.random.seed(seed)
        return torch.cat(
            list(
                torch.utils.data.DataLoader(
                    Drawing(), shuffle=True, batch_size=4, num_workers=workers, worker_init_fn=seed_the_others
                )
            )
        )

    for seed in (0, 2):
        assert torch.equal(under(seed, lambda: draw(5)), draw(5 + seed * STRIDE))


PARTS = {
    "init": {"weights", "seeded before"},
    "order": {"own", "default_rng", "order", "random", "numpy", "seeded again"},
}


@pytest.mark.parametrize("varies", PARTS)
def test_a_part_of_what_is_random_varies_alone(varies):
    def run():
        torch.manual_seed(3), np.random.seed(torch.initial_seed())
        model, own = torch.nn.Linear(2, 2), torch.Generator().manual_seed(torch.initial_seed())
        drawn = {"weights": model.weight.tolist(), "seeded before": np.random.rand()}
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        loader = torch.utils.data.DataLoader(range(16), shuffle=True, batch_size=None)
        drawn |= {"order": list(map(int, loader)), "random": random.random(), "numpy": np.random.rand()}
        torch.optim.SGD(model.parameters(), lr=0.1)  # the first one counts
        drawn |= {"own": torch.rand(2, generator=own).tolist(), "default_rng": np.random.default_rng(3).random()}
        torch.manual_seed(3)
        return drawn | {"seeded again": torch.rand(2).tolist()}, optimizer

    def under_part(seed):
        with shifted(seed, varies):
            return run()[0]

    before = torch.optim.Optimizer.__init__
    first, second = under_part(1), under_part(2)
    assert {name for name in first if first[name] != second[name]} == PARTS[varies]
    assert under_part(1) == first and torch.optim.Optimizer.__init__ is before


@pytest.mark.parametrize("seed", ["text", b"bytes", None])
def test_seeds_that_are_no_numbers_pass(seed):
    with shifted(2):
        random.seed(seed)
        first = random.random()
    with shifted(2):
        random.seed(seed)
        assert random.random() == first


def test_large_and_negative_seeds_pass():
    with shifted(3):
        torch.manual_seed(2**63 - 1)
        torch.manual_seed(-1)
        np.random.seed(2**32 - 1)
        np.random.default_rng(2**70)
        np.random.default_rng([1, 2, 3])
        np.random.default_rng(np.random.SeedSequence(5))
        random.seed(2**100)
        torch.Generator().manual_seed(2**63)
