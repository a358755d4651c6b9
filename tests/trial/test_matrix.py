"""Every technique in every way to train and to evaluate, and on every kind of model: it acts and is judged by the script's own number, or it
says why not and the run is the untreated one, number by number.

The table is ``WAYS`` and ``KINDS``; ``REFUSED`` is what no technique can do, with the reason that is given.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import io
import math
import re
import sys
import types
from dataclasses import dataclass

import pytest

from tests.techniques.test_every_technique import TEXTS
from tests.trial.test_techniques_in_scripts import DEFINE, SCRIPTS
from trimtab.recipe import Recipe
from trimtab.records import Trial
from trimtab.trial.run import Job, run_job
from trimtab.trial.session import unmoved
from trimtab.trial.subjects import subject_of

DATA = """\
import torch
from torch import nn
import torch.nn.functional as F
import held

torch.manual_seed(0)
y = torch.arange(128) % 4
x = (torch.randn(4, 64)[y] + torch.randn(128, 64)).tanh().view(128, {shape})
x_train, y_train, x_val, y_val = x[:96], y[:96], x[96:], y[96:]

def batches():
    return torch.randperm(96).split(32)

def evaluate(answers):  # by hand, for the test; and as people do
    chosen = answers.detach().log_softmax(1)
    held.losses.append(-chosen[torch.arange(len(y_val)), y_val].mean().item())
    held.hits.append((chosen.argmax(1) == y_val).float().mean().item())
    return F.cross_entropy(answers, y_val)
{define}
"""
MAKE = """\
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential({layers})
    def forward(self, x):
        return self.layers(x)

model = Net()
optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
held.models.append(model)
"""
PLAIN = """\
for epoch in range(3):
    model.train()
    for i in batches():
        optimizer.zero_grad()
        F.cross_entropy(model(x_train[i]), y_train[i]).backward()
        optimizer.step()
    model.eval()
    with torch.no_grad():
        print("val loss", evaluate(model(x_val)).item())
"""
WAYS = {
    "eval and no_grad": PLAIN,
    "nothing printed": """\
for epoch in range(3):
    model.train()
    for i in batches():
        optimizer.zero_grad()
        F.cross_entropy(model(x_train[i]), y_train[i]).backward()
        optimizer.step()
    model.eval()
    with torch.no_grad():
        evaluate(model(x_val))
""",
    "eval with gradients": """\
for epoch in range(3):
    model.train()
    for i in batches():
        optimizer.zero_grad()
        F.cross_entropy(model(x_train[i]), y_train[i]).backward()
        optimizer.step()
    model.eval()
    print("val loss", evaluate(model(x_val)).item())
""",
    "neither eval nor no_grad": """\
for epoch in range(3):
    for i in batches():
        optimizer.zero_grad()
        F.cross_entropy(model(x_train[i]), y_train[i]).backward()
        optimizer.step()
    print("val loss", evaluate(model(x_val)).item())
""",
    "no_grad in training mode": """\
for epoch in range(3):
    for i in batches():
        optimizer.zero_grad()
        F.cross_entropy(model(x_train[i]), y_train[i]).backward()
        optimizer.step()
    with torch.no_grad():
        print("val loss", evaluate(model(x_val)).item())
""",
    "phases in one loop": """\
for epoch in range(3):
    for phase in ["train", "val"]:
        model.train(phase == "train")
        data, target = (x_train, y_train) if phase == "train" else (x_val, y_val)
        for i in batches() if phase == "train" else [torch.arange(32)]:
            optimizer.zero_grad()
            with torch.set_grad_enabled(phase == "train"):
                outputs = model(data[i])
                loss = evaluate(outputs) if phase == "val" else F.cross_entropy(outputs, target[i])
                if phase == "train":
                    loss.backward()
                    optimizer.step()
        print(f"{phase} loss {loss.item()}")
""",
    "training in evaluation mode": """\
model.eval()
for epoch in range(3):
    for i in batches():
        optimizer.zero_grad()
        F.cross_entropy(model(x_train[i]), y_train[i]).backward()
        optimizer.step()
    with torch.no_grad():
        print("val loss", evaluate(model(x_val)).item())
""",
    "autograd.grad": """\
for epoch in range(3):
    model.train()
    for i in batches():
        parameters = [p for p in model.parameters() if p.requires_grad]
        loss = F.cross_entropy(model(x_train[i]), y_train[i])
        for p, g in zip(parameters, torch.autograd.grad(loss, parameters, allow_unused=True)):
            p.grad = g
        optimizer.step()
    model.eval()
    with torch.no_grad():
        print("val loss", evaluate(model(x_val)).item())
""",
    "closure": """\
for epoch in range(3):
    model.train()
    for i in batches():
        def closure():
            optimizer.zero_grad()
            loss = F.cross_entropy(model(x_train[i]), y_train[i])
            loss.backward()
            return loss
        optimizer.step(closure)
    model.eval()
    with torch.no_grad():
        print("val loss", evaluate(model(x_val)).item())
""",
    "the best into a new model": """\
best = float("inf")
for epoch in range(3):
    model.train()
    for i in batches():
        optimizer.zero_grad()
        F.cross_entropy(model(x_train[i]), y_train[i]).backward()
        optimizer.step()
    model.eval()
    with torch.no_grad():
        loss = F.cross_entropy(model(x_val), y_val).item()
    print("val loss", loss)
    if loss <= best:
        best, weights = loss, {name: value.clone() for name, value in model.state_dict().items()}
model = Net()
model.load_state_dict(weights)
model.eval()
with torch.no_grad():
    found = evaluate(model(x_val)).item()
assert abs(found - best) < 1e-5, (found, best)
print("test loss", found)
""",
    "folds": """\
def fold(number):
    model = Net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    held.models.append(model)
    for epoch in range(2):
        model.train()
        for i in batches():
            optimizer.zero_grad()
            F.cross_entropy(model(x_train[i]), y_train[i]).backward()
            optimizer.step()
        model.eval()
        with torch.no_grad():
            loss = evaluate(model(x_val)).item()
    print("fold", number, "val loss", loss)
    return loss

found = [fold(number) for number in range(3)]
held.losses.append(sum(found) / 3)
print("mean val loss", held.losses[-1])
""",
    "beside others": """\
idle = nn.Linear(3, 3)
waiting = torch.optim.Adam(idle.parameters())
scale = torch.zeros(1, requires_grad=True)
bare = torch.optim.SGD([scale], lr=0.1)
for epoch in range(3):
    model.train()
    for i in batches():
        optimizer.zero_grad()
        bare.zero_grad()
        F.cross_entropy(model(x_train[i]) * scale.exp(), y_train[i]).backward()
        optimizer.step()
        bare.step()
    model.eval()
    with torch.no_grad():
        print("val loss", evaluate(model(x_val)).item())
""",
    "through a method of the model": """\
class Owner(nn.Module):  # never called itself, like most modules of Lightning
    def __init__(self):
        super().__init__()
        self.net = Net()
    def loss(self, x, y):
        return F.cross_entropy(self.net(x), y)

model = Owner()
optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
held.models.append(model)
for epoch in range(3):
    model.train()
    for i in batches():
        optimizer.zero_grad()
        model.loss(x_train[i], y_train[i]).backward()
        optimizer.step()
    model.eval()
    with torch.no_grad():
        print("val loss", evaluate(model.net(x_val)).item())
""",
    "accumulation": """\
for epoch in range(3):
    model.train()
    for i in batches():
        optimizer.zero_grad()
        for part in i.split(16):
            (F.cross_entropy(model(x_train[part]), y_train[part]) / 2).backward()
        optimizer.step()
    model.eval()
    with torch.no_grad():
        print("val loss", evaluate(model(x_val)).item())
""",
}
BODY = {  # of a kind of model: what is made, and what it is called with
    "head before body": """\
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(16, 4)
        self.last = nn.Linear(16, 16)
        self.first = nn.Linear(64, 16)
        self.dropout = nn.Dropout(0.1)
    def forward(self, x):
        return self.head(self.dropout(torch.relu(self.last(torch.relu(self.first(x))))))
""",
    "two heads": """\
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU())
        self.one, self.other = nn.Linear(16, 4), nn.Linear(16, 4)
    def forward(self, x):
        x = self.body(x)
        return self.one(x), self.other(x)
""",
    "norms apart": """\
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.norms = nn.ModuleList([nn.BatchNorm1d(16), nn.BatchNorm1d(16)])
        self.layers = nn.ModuleList([nn.Linear(64, 16), nn.Linear(16, 16)])
        self.head = nn.Linear(16, 4)
    def forward(self, x):
        for layer, norm in zip(self.layers, self.norms):
            x = torch.relu(norm(layer(x)))
        return self.head(x)
""",
    "untraceable": """\
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(16, 4)
        self.layers = nn.ModuleList([nn.Linear(64, 16), nn.Linear(16, 16)])
    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
            if x.max().item() > 0:
                x = torch.relu(x)
        return self.head(x)
""",
    "frozen body": """\
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU()).requires_grad_(False)
        self.head = nn.Linear(16, 4)
    def forward(self, x):
        return self.head(self.body(x))
""",
}
KINDS = {
    kind: body
    + """\
model = Net()
optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.05, momentum=0.9)
held.models.append(model)
"""
    + (
        PLAIN.replace("model(x_train[i])", "sum(model(x_train[i]))").replace("model(x_val)", "sum(model(x_val))")
        if kind == "two heads"
        else PLAIN
    )
    for kind, body in BODY.items()
}
KINDS["two optimizers"] = """\
body = nn.Sequential(nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Dropout(0.1))
head = nn.Linear(16, 4)
held.models += [body, head]
optimizers = [torch.optim.SGD(body.parameters(), lr=0.05, momentum=0.9), torch.optim.Adam(head.parameters(), lr=0.01)]
for epoch in range(3):
    body.train(), head.train()
    for i in batches():
        for optimizer in optimizers:
            optimizer.zero_grad()
        F.cross_entropy(head(body(x_train[i])), y_train[i]).backward()
        for optimizer in optimizers:
            optimizer.step()
    body.eval(), head.eval()
    with torch.no_grad():
        print("val loss", evaluate(head(body(x_val))).item())
"""


@dataclass(frozen=True)
class Ran:
    trial: Trial
    metric: str
    losses: tuple[float, ...]
    hits: tuple[float, ...]
    weights: dict[str, float]
    flows: tuple

    def same(self, other: Ran) -> bool:
        """Whether two runs are the same, number by number; techniques may have added weights."""
        return self.losses == other.losses and all(
            self.weights.get(name, value) == value for name, value in other.weights.items()
        )

    def begins_as(self, other: Ran) -> bool:
        return self.losses == other.losses[: len(self.losses)]


def run(script: str, recipe: str, folder, flows: tuple = ()) -> Ran:
    held = types.ModuleType("held")
    held.losses, held.hits, held.models = [], [], []
    path = folder / "train.py"
    if not path.exists() or path.read_text() != script:
        path.write_text(script)
    sys.modules["held"] = held
    try:
        with contextlib.redirect_stdout(io.TextIOWrapper(io.BytesIO(), "utf-8")):
            result = run_job(Job(subject_of(path), recipe, 0, flows=flows, watch=not recipe))
    finally:
        del sys.modules["held"]
    weights = {
        f"{number}.{name}": value.double().sum().item()
        for number, model in enumerate(held.models)
        for name, value in model.state_dict().items()
        if value.is_floating_point()
    }
    name = result.run.metric.name if result.run.metric else ""
    seen = tuple(training.flow for training in result.run.trainings)
    return Ran(result.trial, name, tuple(held.losses), tuple(held.hits), weights, seen)


TEXTS = [{"sgd(lr=0.05)": "sgd(lr=0.02)"}.get(text, text) for text in TEXTS]


def scripts(text: str) -> dict[str, str]:
    (technique,) = Recipe.parse(text)
    kind = technique.suite.network or "mlp"
    shape, layers = SCRIPTS["images" if kind == "cnn" else kind]
    made = DATA.format(shape=shape, define=DEFINE) + MAKE.format(layers=layers)
    plain = DATA.format(shape="64", define="")
    return {
        **{way: made + script for way, script in WAYS.items()},
        **{kind: plain + script for kind, script in KINDS.items()},
    }


@functools.cache
def untreated(script: str, folder) -> Ran:
    return run(script, "", folder)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("matrix")
    for script in scripts("dropout").values():  # what is imported late
        run(script, "dropout", folder)
    gc.collect()
    gc.freeze()  # the models of a script are looked for among all objects: those of pytest and torch need not be
    yield folder
    gc.unfreeze()


def cell(text: str, way: str, script: str, folder) -> str:
    """What is wrong, or what it says."""
    plain = untreated(script, folder)
    ran = run(script, text, folder, plain.flows)
    assert plain.trial.status == "ok", (way, plain.trial.error)
    (trial,) = unmoved([ran.trial], {0: plain.trial})  # as an arm of this one trial counts
    ended = len(ran.losses) < len(plain.losses)  # by a technique that found in the middle that it cannot act
    unchanged = ran.begins_as(plain) if ended else ran.same(plain)
    if trial.status == "no_effect":
        return f"refused: {trial.error}" if unchanged else f"WRONG: no effect over a changed run: {trial.error}"
    if trial.status != "ok":
        return f"WRONG: {trial.status}: {trial.error}"
    if unchanged:
        return "WRONG: ok over an unchanged run"
    if ran.metric != plain.metric:
        return f"WRONG: judged by {ran.metric}, untreated by {plain.metric}"
    own = ran.losses[-1] if "loss" in ran.metric else ran.hits[-1]
    if not math.isclose(trial.value, own, rel_tol=1e-5, abs_tol=1e-6):  # two ways to compute it in float32
        return f"WRONG: judged at {trial.value}, the script's own is {own} ({ran.metric})"
    return "acts"


IMAGES = "affine cutout flip rand_augment rotate translate zoom"
NONE = "found nothing to act on"
BRANCHES = (
    "drop_block drop_path gn_ws zero_init_residual zoneout"  # these models have no convolution, no branch and no LSTM
)
NORMS = "convert_norm identity_init remove_redundant_bias"
UNMOVED = "every number of the run is that of the untreated one"
BOUNDS = ("early_stopping", "skip_spikes", "zclip", "fuse")  # may leave a run as it is: nothing reaches their bound
REFUSED: dict[str, dict[str, str]] = {  # in each way, and on each kind of model: which techniques say what
    "training in evaluation mode": {
        "the model is in evaluation mode while it trains": (
            "activity_penalty alpha_dropout bagging confidence_penalty cutmix deep_ensemble drop_block drop_connect drop_path dropout "
            "feature_masking feature_scaling gaussian_dropout identity_init jacobian_penalty l0 label_smoothing mixup noise r_drop sam "
            f"scale_inputs standardize_inputs surrogate_loss time_masking whiten_inputs z_loss {IMAGES}"
        )
    },
    "beside others": {
        "the loss is not computed from the model's output itself": "bagging deep_ensemble sam",
        "no loss was computed from the model's output itself": "r_drop",
    },
    **{
        kind: {"Images must have the shape": IMAGES, "takes images of shape": "cutmix", NONE: f"{BRANCHES} {more}"}
        for kind, more in {
            "head before body": NORMS,
            "two heads": f"{NORMS} fuse r_drop",
            "norms apart": "batch_norm group_norm layer_norm rms_norm r_drop",
            "untraceable": f"{NORMS} add_skips fuse r_drop",
            "frozen body": f"{NORMS} agc fuse muon r_drop",
            "two optimizers": f"{NORMS} add_skips muon",
        }.items()
    },
}
REFUSED["two heads"] |= {
    "the model does not give one tensor": "bagging deep_ensemble",
    "the loss is not computed from the model's output itself": "sam",
}
REFUSED["frozen body"] |= {"nothing in front of them is trained": "activity_penalty"}
REFUSED["two optimizers"] |= {
    "another model is called behind this one": "activity_penalty",
    "saw no loss whose targets it could mix": "mixup",
    "no loss was computed from the model's output itself": "r_drop",
    "its input has a gradient too": "sam",
}


@pytest.mark.parametrize("text", TEXTS)
def test_acts_and_is_judged_alike_or_says_why_not(text, folder):
    (technique,) = Recipe.parse(text)
    for way, script in scripts(text).items():
        said = cell(text, way, script, folder)
        why = next((why for why, names in REFUSED.get(way, {}).items() if technique.name in names.split()), None)
        if why is not None:
            assert said.startswith("refused: ") and why in said, (way, said)
        elif technique.name in BOUNDS:
            assert said == "acts" or said.startswith(f"refused: {UNMOVED}"), (way, said)
        else:
            assert said == "acts", (way, said)


def test_a_recipe_of_which_a_part_acted_is_judged_and_says_which_did_not(folder):
    script = scripts("dropout")["training in evaluation mode"]
    plain, part = (run(script, recipe, folder) for recipe in ("", "lr_scale(factor=3), dropout"))
    assert part.trial.status == "ok" and not part.same(plain)
    assert part.trial.error.startswith("never took effect: dropout") and "lr" not in part.trial.error
    assert part.losses == run(script, "lr_scale(factor=3)", folder).losses


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch's own compiler
@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("kind", ["head before body", "norms apart", "untraceable", "frozen body"])
@pytest.mark.parametrize("text", TEXTS)
def test_every_way_on_every_kind_of_model(text, kind, compiled, folder):
    """The product of both, where each cell may refuse with a reason; and compiled, which the way to evaluate must not notice either."""
    make = DATA.format(shape="64", define="") + KINDS[kind].removesuffix(PLAIN)
    ways = ["eval and no_grad", "neither eval nor no_grad", "phases in one loop"] if compiled else WAYS
    for way in ways:
        script = WAYS[way].replace("model(", "compiled(") if compiled else WAYS[way]
        more = 'compiled = torch.compile(model, backend="eager")\n' if compiled else ""
        said = cell(text, way, make + more + script, folder)
        assert said == "acts" or re.match(r"refused: .{20}", said), (way, said)
