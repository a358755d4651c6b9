"""Scripts that report how well they do, each in a way of its own, with the number that judges them.

Every script leaves that number in ``answer``, computed and rounded by itself. ``WAYS`` says under which name the number is to be
found, and which way is better. ``BEGIN`` stands before each script: data, a model, its optimizer, an epoch and a check.
"""

from __future__ import annotations

from dataclasses import dataclass

BEGIN = """\
import torch
import torch.nn.functional as F
from torch import nn

torch.manual_seed(0)
labels = torch.arange(200) % 4
inputs = torch.randn(4, 8)[labels] + 1.2 * torch.randn(200, 8)
x, y, vx, vy, tx, ty = inputs[:120], labels[:120], inputs[120:160], labels[120:160], inputs[160:], labels[160:]


def make():
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))


model = make()
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)


def epoch(model=model, optimizer=optimizer, x=x, y=y):
    model.train()
    total = right = 0
    for rows in torch.randperm(len(x)).split(30):
        optimizer.zero_grad()
        out = model(x[rows])
        loss = F.cross_entropy(out, y[rows])
        loss.backward()
        optimizer.step()
        total += loss.item() * len(rows)
        right += (out.argmax(1) == y[rows]).sum().item()
    return total / len(x), right / len(x)


@torch.no_grad()
def check(x, y, model=model):
    model.eval()
    out = model(x)
    return F.cross_entropy(out, y).item(), (out.argmax(1) == y).float().mean().item()


"""


@dataclass(frozen=True)
class Way:
    """A way to report: the stored name of the number that judges (``source split score``), which way is better, and the script."""

    name: str
    goal: str
    script: str
    metric: str | None = None  # --metric
    folds: int = 0
    needs: str = ""  # a package


WAYS: dict[str, Way] = {}


def way(title: str, name: str, goal: str, script: str, **more) -> None:
    """Add a script to the table."""
    assert title not in WAYS
    WAYS[title] = Way(name, goal, script, **more)


# -- printed along the way -------------------------------------------------------------------------------------------

way(
    "an f-string after each epoch",
    "printed val loss",
    "min",
    """\
for number in range(3):
    train_loss, _ = epoch()
    val_loss, _ = check(vx, vy)
    print(f"Epoch {number + 1}: train loss {train_loss:.4f}, val loss {val_loss:.4f}")
    answer = float(f"{val_loss:.4f}")
""",
)

way(
    "several arguments of print",
    "printed val accuracy",
    "max",
    """\
for number in range(3):
    loss, acc = epoch()
    val_loss, val_acc = check(vx, vy)
    print("epoch", number, "loss", loss, "acc", acc, "val_loss", val_loss, "val_acc", val_acc)
    answer = val_acc
""",
)

way(
    "bare words and numbers, as makemore does",
    "printed val loss",
    "min",
    """\
def split_loss(split):
    x_, y_ = {"train": (x, y), "val": (vx, vy)}[split]
    with torch.no_grad():
        loss = F.cross_entropy(model(x_), y_)
    print(split, loss.item())
    return loss.item()


for number in range(3):
    epoch()
split_loss("train")
answer = split_loss("val")
""",
)

way(
    "bare words beside a loss, as in examples for graphs",
    "printed val score",
    "max",
    """\
for number in range(1, 4):
    loss, acc = epoch()
    accs = [acc, check(vx, vy)[1]]
    print(f"Epoch: {number:03d}, Loss: {loss:.4f}, Train: {accs[0]:.4f}, Val: {accs[1]:.4f}")
    answer = float(f"{accs[1]:.4f}")
""",
)

way(
    "a bare word and a number",
    "printed val loss",
    "min",
    """\
for number in range(3):
    epoch()
    with torch.no_grad():
        loss = F.cross_entropy(model(vx), vy)
    print("val", "%.3f" % loss.item())
    answer = float("%.3f" % loss.item())
""",
)

way(
    "bare words for accuracies, by the names of variables",
    "printed val accuracy",
    "max",
    """\
for number in range(1, 4):
    epoch()
    train_acc, val_acc = check(x, y)[1], check(vx, vy)[1]
    print(f"Epoch: {number:03d}, Train: {train_acc:.4f}, Val: {val_acc:.4f}")
    answer = float(f"{val_acc:.4f}")
""",
)

way(
    "bare words for accuracies, by the name of a function and through a logging function",
    "printed val accuracy",
    "max",
    """\
def accuracy(x, y):
    return (model(x).argmax(1) == y).float().mean().item()


def say(text):
    print(text, flush=True)


for number in range(1, 4):
    epoch()
    t, v = accuracy(x, y), accuracy(vx, vy)
    say(f"Epoch: {number:03d}, Train: {t:.4f}, Val: {v:.4f}")
    answer = float(f"{v:.4f}")
""",
)

way(
    "bare words, and the score behind them",
    "printed val accuracy",
    "max",
    """\
for number in range(3):
    t, v = epoch()[1], check(vx, vy)[1]
    print(f"{number} Train {t:.4f}, Val {v:.4f} acc")
    answer = float(f"{v:.4f}")
""",
)

way(
    "every class by its number, and then all",
    "printed mean test accuracy",
    "max",
    """\
for number in range(3):
    print(f"Epoch: {number} \\tTraining Loss: {epoch()[0]:.6f} \\tValidation Loss: {check(vx, vy)[0]:.6f}")
right = model(tx).argmax(1) == ty
for c in range(4):
    print("Test Accuracy of %5s: %2d%% (%2d/%2d)" % (c, 100 * right[ty == c].float().mean(), right[ty == c].sum(), (ty == c).sum()))
print("\\nTest Accuracy (Overall): %2d%% (%2d/%2d)" % (100 * right.float().mean(), right.sum(), len(right)))
answer = right.sum().item() / len(right)
""",
)

way(
    "all, and then every class by its name",
    "printed test accuracy",
    "max",
    """\
for number in range(3):
    print(f"loss: {epoch()[0]:.3f}")
right = model(tx).argmax(1) == ty
print(f"Accuracy on {len(ty)} test images: {100 * right.float().mean():.1f}%")
for c, name in enumerate(["plane", "car", "traffic light", "cat"]):
    print(f"Test accuracy of {name}: {100 * right[ty == c].float().mean():.1f}%")
answer = float(f"{100 * right.float().mean():.1f}e-2")
""",
)

way(
    "a number that others reached",
    "printed val accuracy",
    "max",
    """\
for number in range(3):
    epoch()
    val_acc = check(vx, vy)[1]
    print(f"val acc {val_acc:.4f}")
    answer = float(f"{val_acc:.4f}")
print("best val acc 0.99 in the paper")
""",
)

way(
    "an arrow from the last value to the new one",
    "printed val accuracy",
    "max",
    """\
last = 0.0
for number in range(3):
    epoch()
    val_acc = check(vx, vy)[1]
    print(f"[{number + 1}/3] val acc {last:.4f} => {val_acc:.4f}")
    last = val_acc
    answer = float(f"{val_acc:.4f}")
""",
)

way(
    "as Keras does",
    "printed val accuracy",
    "max",
    """\
for number in range(3):
    loss, acc = epoch()
    val_loss, val_acc = check(vx, vy)
    print(f"Epoch {number + 1}/3 - 0.2s - loss: {loss:.4f} - accuracy: {acc:.4f} - val_loss: {val_loss:.4f} - val_accuracy: {val_acc:.4f}")
    answer = float(f"{val_acc:.4f}")
""",
)

way(
    "the postfix of a progress bar",
    "printed val accuracy",
    "max",
    """\
from tqdm import tqdm

with tqdm(range(3), desc="training") as bar:
    for number in bar:
        loss, _ = epoch()
        val_loss, val_acc = check(vx, vy)
        bar.set_postfix(loss=f"{loss:.3f}", val_acc=f"{val_acc:.3f}")
        answer = float(f"{val_acc:.3f}")
""",
    needs="tqdm",
)

way(
    "a progress bar for each epoch",
    "printed val loss",
    "min",
    """\
from tqdm import tqdm

for number in range(3):
    bar = tqdm(torch.randperm(120).split(30), desc=f"Epoch {number}", ncols=100)
    for rows in bar:
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x[rows]), y[rows])
        loss.backward()
        optimizer.step()
        bar.set_postfix(loss=loss.item())
    val_loss, _ = check(vx, vy)
    tqdm.write(f"val_loss={val_loss:.5f}")
    answer = float(f"{val_loss:.5f}")
""",
    needs="tqdm",
)

way(
    "nanoGPT's estimate_loss",
    "printed val loss",
    "min",
    """\
@torch.no_grad()
def estimate_loss():
    out = {}
    model.eval()
    for split in ["train", "val"]:
        losses = torch.zeros(2)
        for k in range(2):
            X, Y = (x, y) if split == "train" else (vx[k * 20 : k * 20 + 20], vy[k * 20 : k * 20 + 20])
            logits = model(X)
            losses[k] = F.cross_entropy(logits, Y).item()
        out[split] = losses.mean()
    model.train()
    return out


for iter_num in range(9):
    if iter_num % 4 == 0:
        losses = estimate_loss()
        print(f"step {iter_num}: train loss {losses['train']:.4f}, val loss {losses['val']:.4f}")
        answer = float(f"{losses['val']:.4f}")
    loss = F.cross_entropy(model(x), y)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()
    print(f"iter {iter_num}: loss {loss.item():.4f}, time 12.50ms, mfu 3.10%")
""",
)

way(
    "[valid] in brackets",
    "printed val loss",
    "min",
    """\
for number in range(3):
    loss, _ = epoch()
    print(f"[train] epoch={number} loss={loss:.4f}")
    val_loss, _ = check(vx, vy)
    print(f"[valid] epoch={number} loss={val_loss:.4f}")
    answer = float(f"{val_loss:.4f}")
""",
)

way(
    "underscores and a space",
    "printed val loss",
    "min",
    """\
for number in range(3):
    epoch()
    loss, _ = check(vx, vy)
    print("validation_loss", round(loss, 4))
    answer = round(loss, 4)
""",
)

way(
    "dev acc",
    "printed val accuracy",
    "max",
    """\
for number in range(3):
    loss, acc = epoch()
    dev = check(vx, vy)[1]
    print(f"| epoch {number} | train loss {loss:.3f} | train acc {acc * 100:.1f} | dev acc {dev * 100:.1f}")
    answer = float(f"{dev * 100:.1f}")
""",
)

way(
    "the quickstart tutorial",
    "printed test accuracy",
    "max",
    """\
def test_loop(model, loss_fn):
    model.eval()
    test_loss, correct = 0, 0
    with torch.no_grad():
        for X, Y in zip(tx.split(20), ty.split(20)):
            pred = model(X)
            test_loss += loss_fn(pred, Y).item()
            correct += (pred.argmax(1) == Y).type(torch.float).sum().item()
    test_loss /= 2
    correct /= len(tx)
    print(f"Test Error: \\n Accuracy: {(100 * correct):>0.1f}%, Avg loss: {test_loss:>8f} \\n")
    return float(f"{100 * correct:.1f}") / 100


loss_fn = nn.CrossEntropyLoss()
for t in range(3):
    print(f"Epoch {t + 1}\\n-------------------------------")
    model.train()
    for batch, rows in enumerate(torch.arange(120).split(30)):
        loss = loss_fn(model(x[rows]), y[rows])
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        print(f"loss: {loss.item():>7f}  [{(batch + 1) * 30:>5d}/{120:>5d}]")
    answer = test_loop(model, loss_fn)
print("Done!")
""",
)

way(
    "the MNIST example",
    "printed test accuracy",
    "max",
    """\
for number in range(1, 4):
    model.train()
    for i, rows in enumerate(torch.randperm(120).split(30)):
        optimizer.zero_grad()
        loss = F.nll_loss(F.log_softmax(model(x[rows]), 1), y[rows])
        loss.backward()
        optimizer.step()
        print("Train Epoch: {} [{}/{} ({:.0f}%)]\\tLoss: {:.6f}".format(number, i * 30, 120, 25.0 * i, loss.item()))
    model.eval()
    with torch.no_grad():
        output = F.log_softmax(model(tx), 1)
        test_loss = F.nll_loss(output, ty, reduction="sum").item() / len(tx)
        correct = output.argmax(1).eq(ty).sum().item()
    print("\\nTest set: Average loss: {:.4f}, Accuracy: {}/{} ({:.0f}%)\\n".format(test_loss, correct, len(tx), 100.0 * correct / len(tx)))
    answer = correct / len(tx)
""",
)

way(
    "loss and perplexity in one line",
    "printed val loss",
    "min",
    """\
import math

for number in range(3):
    train_loss, _ = epoch()
    valid_loss, _ = check(vx, vy)
    print(f"Epoch: {number + 1:02} | Epoch Time: 0m 1s")
    print(f"\\tTrain Loss: {train_loss:.3f} | Train PPL: {math.exp(train_loss):7.3f}")
    print(f"\\t Val. Loss: {valid_loss:.3f} |  Val. PPL: {math.exp(valid_loss):7.3f}")
    answer = float(f"{valid_loss:.3f}")
""",
)

way(
    "two phases in one loop",
    "printed best val accuracy",
    "max",
    """\
best_acc = 0.0
for number in range(3):
    print(f"Epoch {number}/2")
    print("-" * 10)
    for phase in ["train", "val"]:
        model.train() if phase == "train" else model.eval()
        running_loss, running_corrects, size = 0.0, 0, 0
        for X, Y in zip(*[(t.split(30)) for t in ((x, y) if phase == "train" else (vx, vy))]):
            optimizer.zero_grad()
            with torch.set_grad_enabled(phase == "train"):
                outputs = model(X)
                loss = F.cross_entropy(outputs, Y)
                if phase == "train":
                    loss.backward()
                    optimizer.step()
            running_loss += loss.item() * len(X)
            running_corrects += (outputs.argmax(1) == Y).sum().item()
            size += len(X)
        print(f"{phase} Loss: {running_loss / size:.4f} Acc: {running_corrects / size:.4f}")
        if phase == "val":
            best_acc = max(best_acc, running_corrects / size)
    print()
print("Training complete in 0m 3s")
print(f"Best val Acc: {best_acc:4f}")
answer = float(f"{best_acc:4f}")
""",
)

way(
    "training and validation in one line",
    "printed val accuracy",
    "max",
    """\
for number in range(3):
    (tl, ta), (vl, va) = epoch(), check(vx, vy)
    print(f"{number}: loss={tl:.3f}/{vl:.3f} train/val acc: train {ta:.3f} val {va:.3f}")
    answer = float(f"{va:.3f}")
""",
)

way(
    "error in percent",
    "printed val error",
    "min",
    """\
for number in range(3):
    _, acc = epoch()
    _, val = check(vx, vy)
    print(f"epoch {number} train error {100 - 100 * acc:.2f}% val error {100 - 100 * val:.2f}%")
    answer = float(f"{100 - 100 * val:.2f}e-2")
""",
)

way(
    "a dictionary",
    "printed val accuracy",
    "max",
    """\
for number in range(3):
    train_loss, train_acc = epoch()
    val_loss, val_acc = check(vx, vy)
    logs = {"epoch": number, "train_loss": train_loss, "train_acc": train_acc, "val_loss": val_loss, "val_acc": val_acc}
    print(logs)
    answer = val_acc
""",
)

way(
    "lines of JSON",
    "printed val accuracy",
    "max",
    """\
import json

for number in range(3):
    train_loss, _ = epoch()
    val_loss, val_acc = check(vx, vy)
    print(json.dumps({"epoch": number, "train": {"loss": train_loss}, "val": {"loss": val_loss, "acc": val_acc}}))
    answer = val_acc
""",
)

way(
    "a dictionary printed prettily",
    "printed test accuracy",
    "max",
    """\
from pprint import pprint

for number in range(3):
    epoch()
loss, acc = check(tx, ty)
pprint({"test_loss": loss, "test_accuracy": acc, "number_of_parameters": 212, "hyperparameters": {"lr": 0.1, "epochs": 3}}, width=40)
answer = acc
""",
)

way(
    "indented JSON",
    "printed test accuracy",
    "max",
    """\
import json

for number in range(3):
    epoch()
loss, acc = check(tx, ty)
print(json.dumps({"config": {"lr": 0.1}, "test": {"loss": loss, "accuracy": acc}}, indent=2))
answer = acc
""",
)

way(
    "the console of rich",
    "printed val accuracy",
    "max",
    """\
from rich.console import Console

console = Console()
for number in range(3):
    loss, acc = epoch()
    val_loss, val_acc = check(vx, vy)
    console.print(f"[bold]epoch {number}[/] loss [red]{loss:.3f}[/] val_loss [green]{val_loss:.3f}[/] val_acc [cyan]{val_acc:.3f}[/]")
    answer = float(f"{val_acc:.3f}")
""",
    needs="rich",
)

way(
    "a table of rich",
    "printed test accuracy",
    "max",
    """\
from rich.console import Console
from rich.table import Table

for number in range(3):
    epoch()
table = Table("split", "loss", "accuracy", title="Results")
for name, data in {"train": (x, y), "test": (tx, ty)}.items():
    loss, acc = check(*data)
    table.add_row(name, f"{loss:.4f}", f"{acc:.4f}")
Console().print(table)
answer = float(f"{acc:.4f}")
""",
    needs="rich",
)

way(
    "a table with a head",
    "printed val accuracy",
    "max",
    """\
print(f"{'epoch':>6} {'train_loss':>10} {'val_loss':>10} {'val_acc':>10}")
for number in range(3):
    train_loss, _ = epoch()
    val_loss, val_acc = check(vx, vy)
    print(f"{number:6d} {train_loss:10.4f} {val_loss:10.4f} {val_acc:10.4f}")
    answer = float(f"{val_acc:.4f}")
""",
)

way(
    "not a number at first",
    "printed val loss",
    "min",
    """\
for number in range(3):
    epoch()
    val_loss = float("nan") if number == 0 else check(vx, vy)[0]
    print(f"epoch {number}: val loss = {val_loss:.4e}")
    answer = float(f"{val_loss:.4e}")
""",
)

way(
    "thousands with commas",
    "printed val mse",
    "min",
    """\
regressor = nn.Linear(8, 1)
optimizer = torch.optim.SGD(regressor.parameters(), lr=0.01)
price = 3000 * (inputs.sum(1, keepdim=True) + 3)
for number in range(20):
    loss = ((regressor(inputs[:120]) - price[:120]) ** 2).mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    with torch.no_grad():
        mse = ((regressor(inputs[120:]) - price[120:]) ** 2).mean().item()
    print(f"step {number:,} | train mse {loss.item():,.2f} | val mse {mse:,.2f}")
    answer = float(f"{mse:.2f}")
""",
)

way(
    "thousands of pounds",
    "printed val mae",
    "min",
    """\
regressor = nn.Linear(8, 1)
optimizer = torch.optim.SGD(regressor.parameters(), lr=0.01)
price = 3000 * (inputs.sum(1, keepdim=True) + 3)
for number in range(20):
    optimizer.zero_grad()
    F.l1_loss(regressor(inputs[:120]), price[:120]).backward()
    optimizer.step()
with torch.no_grad():
    mae = (regressor(inputs[120:]) - price[120:]).abs().mean().item()
print(f"Validation MAE: ${mae:,.0f}")
answer = float(f"{mae:.0f}")
""",
)

way(
    "only at the end",
    "printed test accuracy",
    "max",
    """\
for number in range(3):
    epoch()
    print("epoch", number, "done")
model.eval()
with torch.no_grad():
    predicted = model(tx).argmax(1)
print("Accuracy of the network on the 40 test images: %d %%" % (100 * (predicted == ty).sum().item() // 40))
answer = (100 * (predicted == ty).sum().item() // 40) / 100
""",
)

way(
    "scikit-learn's score at the end",
    "printed accuracy",
    "max",
    """\
from sklearn.metrics import accuracy_score

for number in range(3):
    epoch()
with torch.no_grad():
    score = accuracy_score(ty.numpy(), model(tx).argmax(1).numpy())
print("accuracy:", score)
answer = float(score)
""",
    needs="sklearn",
)

way(
    "scikit-learn's report at the end",
    "printed accuracy",
    "max",
    """\
from sklearn.metrics import classification_report

for number in range(3):
    print("epoch", number, "train loss", epoch()[0])
with torch.no_grad():
    predicted = model(tx).argmax(1).numpy()
print(classification_report(ty.numpy(), predicted, digits=3))
answer = float(f"{(predicted == ty.numpy()).mean():.3f}")
""",
    needs="sklearn",
)

way(
    "BLEU",
    "printed val bleu",
    "max",
    """\
for number in range(3):
    loss, _ = epoch()
    val_loss, val_acc = check(vx, vy)
    print(f"epoch {number} | train loss {loss:.3f} | valid loss {val_loss:.3f} | valid BLEU {100 * val_acc:.2f}")
    answer = float(f"{100 * val_acc:.2f}")
""",
)

way(
    "F1 and nothing else",
    "printed val f1",
    "max",
    """\
from sklearn.metrics import f1_score

for number in range(3):
    epoch()
    with torch.no_grad():
        f1 = f1_score(vy.numpy(), model(vx).argmax(1).numpy(), average="macro")
    print(f"Epoch {number}: Val F1-score (macro): {f1:.4f}")
    answer = float(f"{f1:.4f}")
""",
    needs="sklearn",
)

way(
    "R2 of a regression",
    "printed test r2",
    "max",
    """\
regressor = nn.Linear(8, 1)
optimizer = torch.optim.Adam(regressor.parameters(), lr=0.05)
target = inputs[:, :1] - 2 * inputs[:, 1:2]
for number in range(30):
    loss = F.mse_loss(regressor(inputs[:160]), target[:160])
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
with torch.no_grad():
    out = regressor(inputs[160:])
    r2 = 1 - ((out - target[160:]) ** 2).sum() / ((target[160:] - target[160:].mean()) ** 2).sum()
print(f"Test R^2: {r2.item():.4f}")
answer = float(f"{r2.item():.4f}")
""",
)

way(
    "IoU of a segmentation",
    "printed val iou",
    "max",
    """\
net = nn.Conv2d(1, 2, 3, padding=1)
optimizer = torch.optim.SGD(net.parameters(), lr=0.5)
images = torch.randn(24, 1, 8, 8)
masks = (F.avg_pool2d(images, 3, 1, 1) > 0).long()[:, 0]
for number in range(4):
    loss = F.cross_entropy(net(images[:16]), masks[:16])
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    with torch.no_grad():
        out = net(images[16:]).argmax(1)
    iou = ((out & masks[16:]).sum() / (out | masks[16:]).sum()).item()
    print(f"Epoch {number} train loss: {loss.item():.4f} | val mIoU: {iou:.4f}")
    answer = float(f"{iou:.4f}")
""",
)

way(
    "RMSE of a regression",
    "printed val rmse",
    "min",
    """\
regressor = nn.Linear(8, 1)
optimizer = torch.optim.Adam(regressor.parameters(), lr=0.05)
target = inputs[:, :1] - 2 * inputs[:, 1:2]
for number in range(5):
    loss = F.mse_loss(regressor(inputs[:120]), target[:120])
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    with torch.no_grad():
        rmse = F.mse_loss(regressor(inputs[120:]), target[120:]).sqrt().item()
    print(f"epoch {number:3d}  train RMSE {loss.item() ** 0.5:.3f}  val RMSE {rmse:.3f}")
    answer = float(f"{rmse:.3f}")
""",
)

way(
    "mean squared error by hand, under Accelerate",
    "printed mse",
    "min",
    """\
from accelerate import Accelerator

accelerator = Accelerator(cpu=True)
regressor, optimizer = nn.Linear(8, 1), None
optimizer = torch.optim.AdamW(regressor.parameters(), lr=0.05)
regressor, optimizer = accelerator.prepare(regressor, optimizer)
target = inputs[:, :1] - 2 * inputs[:, 1:2]
for number in range(5):
    regressor.train()
    loss = ((regressor(inputs[:120]) - target[:120]) ** 2).mean()
    accelerator.backward(loss)
    optimizer.step()
    optimizer.zero_grad()
    regressor.eval()
    with torch.no_grad():
        mse = accelerator.gather(((regressor(inputs[120:]) - target[120:]) ** 2)).mean().item()
    accelerator.print(f"epoch {number}: mse {mse:.4f}")
    answer = float(f"{mse:.4f}")
""",
    needs="accelerate",
)

way(
    "a variational autoencoder",
    "printed test loss",
    "min",
    """\
class VAE(nn.Module):
    def __init__(self):
        super().__init__()
        self.encode, self.decode = nn.Linear(8, 4), nn.Linear(2, 8)

    def forward(self, x):
        mu, logvar = self.encode(x).chunk(2, 1)
        return self.decode(mu + torch.randn_like(mu) * (0.5 * logvar).exp()), mu, logvar


def loss_function(recon_x, x, mu, logvar):
    BCE = F.binary_cross_entropy_with_logits(recon_x, x, reduction="sum")
    return BCE - 0.5 * torch.sum(1 + logvar - mu.pow(2) - logvar.exp())


model, data = VAE(), (inputs > 0).float()
optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
for number in range(1, 4):
    model.train()
    train_loss = 0
    for rows in torch.randperm(120).split(30):
        optimizer.zero_grad()
        loss = loss_function(*(lambda out: (out[0], data[rows], *out[1:]))(model(data[rows])))
        loss.backward()
        train_loss += loss.item()
        optimizer.step()
    print("====> Epoch: {} Average loss: {:.4f}".format(number, train_loss / 120))
    model.eval()
    test_loss = 0
    with torch.no_grad():
        for rows in torch.arange(120, 200).split(40):
            recon, mu, logvar = model(data[rows])
            test_loss += loss_function(recon, data[rows], mu, logvar).item()
    test_loss /= 80
    print("====> Test set loss: {:.4f}".format(test_loss))
    answer = float("{:.4f}".format(test_loss))
""",
)

way(
    "without no_grad and evaluation mode",
    "printed val accuracy",
    "max",
    """\
for number in range(3):
    epoch()
    out = model(vx)
    loss = F.cross_entropy(out, vy)
    acc = (out.argmax(1) == vy).float().mean()
    print("epoch:", number, "val loss:", loss.item(), "val acc:", acc.item())
    answer = acc.item()
""",
)

way(
    "meters with running means, as the ImageNet example has",
    "printed test top-1 accuracy",
    "max",
    """\
class AverageMeter:
    def __init__(self, name, fmt):
        self.name, self.fmt, self.sum, self.count = name, fmt, 0, 0

    def update(self, val, n):
        self.val, self.sum, self.count = val, self.sum + val * n, self.count + n
        self.avg = self.sum / self.count

    def __str__(self):
        return ("{name} {val" + self.fmt + "} ({avg" + self.fmt + "})").format(**self.__dict__)


def run(data, targets, prefix, train=False):
    losses, top1 = AverageMeter("Loss", ":.4e"), AverageMeter("Acc@1", ":6.2f")
    for i, (images, target) in enumerate(zip(data.split(20), targets.split(20))):
        output = model(images)
        loss = F.cross_entropy(output, target)
        losses.update(loss.item(), len(images))
        top1.update(100 * (output.argmax(1) == target).float().mean().item(), len(images))
        if train:
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        print("\\t".join([prefix + f"[{i + 1}/{len(data) // 20}]", "Time  0.010 ( 0.010)", str(losses), str(top1)]))
    if not train:
        print(f" *   Acc@1 {top1.avg:.3f} Acc@3 99.000")
    return top1.avg


for number in range(3):
    run(x, y, f"Epoch: [{number}]", train=True)
    with torch.no_grad():
        answer = float(f"{run(vx, vy, 'Test: '):6.2f}")
""",
)

way(
    "a line for each batch, then the whole",
    "printed test top-1 accuracy",
    "max",
    """\
for number in range(3):
    loss, acc = epoch()
    print(f"Epoch: [{number}]  [3/4]  eta: 0:00:01  lr: 0.1  img/s: 2000.5  loss: {loss:.4f} ({loss:.4f})  acc1: {100 * acc:.4f} ({100 * acc:.4f})")
    for i, rows in enumerate(torch.arange(40).split(20)):
        loss, acc = check(tx[rows], ty[rows])
        print(f"Test:   [{i}/2]  eta: 0:00:00  loss: {loss:.4f} ({loss:.4f})  acc1: {100 * acc:.4f} ({100 * acc:.4f})  time: 0.0010  max mem: 0")
    loss, acc = check(tx, ty)
    print(f"Test:  Acc@1 {100 * acc:.3f} Acc@3 99.000")
    answer = float(f"{100 * acc:.3f}")
""",
)

way(
    "heads and rows of every epoch",
    "printed average precision",
    "max",
    """\
print("      Epoch    GPU_mem   cls_loss  Instances       Size")
for number in range(1, 4):
    loss, acc = epoch()
    print(("%11s" * 2 + "%11.4g" * 3) % (f"{number}/3", "0G", loss, 30, 64))
    loss, acc = check(vx, vy)
    print(("%22s" + "%11s" * 4) % ("Class", "Images", "Instances", "P", "mAP50"))
    print(("%22s" + "%11i" * 2 + "%11.3g" * 2) % ("all", 40, 40, acc, 0.9 * acc))
    answer = float("%.3g" % (0.9 * acc))
print("3 epochs completed in 0.001 hours.")
""",
)

way(
    "how many are correct, under a line that says of what",
    "printed val accuracy",
    "max",
    """\
def check_accuracy(x, y):
    with torch.no_grad():
        correct = (model(x).argmax(1) == y).sum().item()
    print("Checking accuracy on validation set")
    print("Got %d / %d correct (%.2f)" % (correct, len(x), 100 * correct / len(x)))
    return correct / len(x)


for number in range(3):
    for i, rows in enumerate(torch.arange(120).split(30)):
        loss = F.cross_entropy(model(x[rows]), y[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if i % 2 == 0:
            print("Iteration %d, loss = %.4f" % (i, loss.item()))
    answer = check_accuracy(vx, vy)
""",
)

way(
    "the table of COCO",
    "printed average precision",
    "max",
    """\
for number in range(3):
    epoch()
    ap = check(vx, vy)[1]
    print("Accumulating evaluation results...\\nDONE (t=0.01s).\\nIoU metric: bbox")
    print(f" Average Precision  (AP) @[ IoU=0.50:0.95 | area=   all | maxDets=100 ] = {ap:0.3f}")
    print(f" Average Precision  (AP) @[ IoU=0.50      | area=   all | maxDets=100 ] = {min(1, ap * 1.3):0.3f}")
    print(f" Average Precision  (AP) @[ IoU=0.50:0.95 | area= small | maxDets=100 ] = {-1:0.3f}")
    print(f" Average Recall     (AR) @[ IoU=0.50:0.95 | area=   all | maxDets=100 ] = {ap * 0.9:0.3f}")
    answer = float(f"{ap:0.3f}")
""",
)

way(
    "names with the part of the data behind",
    "printed val accuracy",
    "max",
    """\
for number in range(3):
    loss, acc = epoch()
    val_loss, val_acc = check(vx, vy)
    print("Epoch: {:04d}".format(number + 1), "loss_train: {:.4f}".format(loss), "acc_train: {:.4f}".format(acc),
          "loss_val: {:.4f}".format(val_loss), "acc_val: {:.4f}".format(val_acc), "time: {:.4f}s".format(0.1))
    answer = float("{:.4f}".format(val_acc))
""",
)

way(
    "a score with its average in brackets",
    "printed mean val f1",
    "max",
    """\
import logging

logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", force=True)
logger = logging.getLogger("tagger")
for number in range(1, 4):
    loss, _ = epoch()
    val_loss, f1 = check(vx, vy)
    logger.info(f"EPOCH {number} done: loss {loss:.4f} - lr: 0.100000")
    logger.info(f"DEV : loss {val_loss:.6f} - f1-score (micro avg)  {f1:.4f}")
    logger.info(" - 0 epochs without improvement")
    answer = float(f"{f1:.4f}")
""",
)

way(
    "a box for each iteration",
    "printed mean reward",
    "max",
    """\
policy = nn.Linear(4, 2)
optimizer = torch.optim.Adam(policy.parameters(), lr=1e-2)
for iteration in range(5):
    states = torch.randn(32, 4)
    chosen = torch.distributions.Categorical(logits=policy(states))
    actions = chosen.sample()
    returns = (actions == (states[:, 0] > 0)).float()
    loss = -(chosen.log_prob(actions) * (returns - returns.mean())).mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    print("---------------------------------")
    print("| rollout/           |          |")
    print(f"|    ep_len_mean     | {32:<8} |")
    print(f"|    ep_rew_mean     | {returns.sum().item():<8.3g} |")
    print("| time/              |          |")
    print(f"|    fps             | {1234:<8} |")
    print("| train/             |          |")
    print(f"|    value_loss      | {0.123:<8} |")
    print("---------------------------------")
    answer = float(f"{returns.sum().item():<8.3g}")
""",
)

way(
    "an error that people count in beside the loss",
    "written val wer",
    "min",
    """\
for number in range(1, 4):
    loss, _ = epoch()
    val_loss, val_acc = check(vx, vy)
    with open("train_log.txt", "a") as file:
        file.write(f"epoch: {number}, lr: 1.00e-01 - train loss: {loss:.2f} - valid loss: {val_loss:.2f}, valid WER: {100 - 100 * val_acc:.2f}\\n")
    answer = float(f"{100 - 100 * val_acc:.2f}")
""",
)

way(
    "steps, times and memory around it",
    "printed val loss",
    "min",
    """\
for number in range(9):
    if number % 4 == 0:
        with torch.no_grad():
            val_loss = F.cross_entropy(model(vx), vy)
        print(f"step:{number}/8 val_loss:{val_loss:.4f} train_time:{123.4:.0f}ms step_avg:{1.23:.2f}ms")
        answer = float(f"{val_loss:.4f}")
    loss = F.cross_entropy(model(x), y)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    print(f"step:{number + 1}/8 train_time:{125.0:.0f}ms step_avg:{1.2:.2f}ms")
print("peak memory allocated: 31234 MiB reserved: 40000 MiB")
""",
)

# -- printed when training is over -----------------------------------------------------------------------------------

way(
    "the best epoch, said at the end",
    "printed best val accuracy",
    "max",
    """\
best = 0
for number in range(4):
    epoch()
    val_loss, val_acc = check(vx, vy)
    best = max(best, val_acc)
    print(f"epoch {number} val_loss {val_loss:.4f} val_acc {val_acc:.4f} best_val_acc {best:.4f}")
print(f"best val acc: {best:.4f}")
answer = float(f"{best:.4f}")
""",
)

way(
    "early stopping, the best weights, a test",
    "printed test accuracy",
    "max",
    """\
import copy

best, weights, bad = float("inf"), None, 0
for number in range(20):
    train_loss, _ = epoch()
    val_loss, val_acc = check(vx, vy)
    print(f"epoch {number:02d} | train loss {train_loss:.4f} | val loss {val_loss:.4f} | val acc {val_acc:.2%}")
    if val_loss < best - 0.02:
        best, weights, bad = val_loss, copy.deepcopy(model.state_dict()), 0
    else:
        bad += 1
        if bad == 2:
            print(f"Early stopping at epoch {number}, best val loss {best:.4f}")
            break
model.load_state_dict(weights)
test_loss, test_acc = check(tx, ty)
print(f"Test loss: {test_loss:.4f} | Test accuracy: {test_acc:.2%}")
answer = float(f"{100 * test_acc:.2f}e-2")
""",
)

way(
    "a checkpoint loaded into a new model",
    "printed test accuracy",
    "max",
    """\
import io

kept = io.BytesIO()
for number in range(3):
    epoch()
torch.save(model.state_dict(), kept)
kept.seek(0)
fresh = make()
fresh.load_state_dict(torch.load(kept))
loss, acc = check(tx, ty, fresh)
print(f"Test Loss: {loss:.3f} | Test Acc: {acc * 100:.2f}%")
answer = float(f"{acc * 100:.2f}e-2")
""",
)

way(
    "cross-validation with its mean",
    "printed mean accuracy",
    "max",
    """\
import statistics

scores = []
for fold in range(4):
    model = make()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    held = torch.arange(200) // 50 == fold
    for number in range(2):
        epoch(model, optimizer, inputs[~held], labels[~held])
    loss, acc = check(inputs[held], labels[held], model)
    scores.append(acc)
    print(f"fold {fold}: accuracy {acc:.4f}")
print(f"mean accuracy {statistics.mean(scores):.4f} +- {statistics.stdev(scores):.4f}")
answer = float(f"{statistics.mean(scores):.4f}")
""",
)

way(
    "cross-validation with its mean and another spread",
    "printed mean accuracy",
    "max",
    """\
import statistics

scores = []
for fold in range(4):
    print(f"FOLD {fold}\\n--------------------------------")
    model = make()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    held = torch.arange(200) // 50 == fold
    for number in range(2):
        epoch(model, optimizer, inputs[~held], labels[~held])
    loss, acc = check(inputs[held], labels[held], model)
    scores.append(100 * acc)
    print(f"Accuracy for fold {fold}: {100 * acc:.2f} %")
print(f"Average accuracy: {statistics.mean(scores):.2f}% ± {statistics.stdev(scores):.2f}%")
answer = float(f"{statistics.mean(scores):.2f}e-2")
""",
)

way(
    "cross-validation without a mean",
    "printed val accuracy",
    "max",
    """\
scores = []
for fold in range(4):
    model = make()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    held = torch.arange(200) // 50 == fold
    for number in range(2):
        epoch(model, optimizer, inputs[~held], labels[~held])
        loss, acc = check(inputs[held], labels[held], model)
        print(f"fold {fold} epoch {number} val acc {acc:.4f}")
    scores.append(float(f"{acc:.4f}"))
answer = sum(scores) / 4
""",
    folds=4,
)

way(
    "the end of training",
    "printed test loss",
    "min",
    """\
import math

for number in range(1, 4):
    epoch()
    val_loss, _ = check(vx, vy)
    print("| end of epoch {:3d} | time: {:5.2f}s | valid loss {:5.2f} | valid ppl {:8.2f}".format(number, 0.5, val_loss, math.exp(val_loss)))
test_loss, _ = check(tx, ty)
print("=" * 89)
print("| End of training | test loss {:5.2f} | test ppl {:8.2f}".format(test_loss, math.exp(test_loss)))
print("=" * 89)
answer = float("{:5.2f}".format(test_loss))
""",
)

way(
    "cross-validation out of fold",
    "printed mean val rmse",
    "min",
    """\
target = inputs[:, :1] - 2 * inputs[:, 1:2]
oof = torch.zeros(200, 1)
for fold in range(4):
    print(f"========== fold: {fold} training ==========")
    regressor = nn.Linear(8, 1)
    optimizer = torch.optim.AdamW(regressor.parameters(), lr=0.02)
    held = torch.arange(200) % 4 == fold
    best = float("inf")
    for number in range(3):
        loss = F.mse_loss(regressor(inputs[~held]), target[~held])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            predicted = regressor(inputs[held])
        score = ((predicted - target[held]) ** 2).mean().sqrt().item()
        print(f"Epoch {number + 1} - avg_train_loss: {loss.item():.4f}  avg_val_loss: {score ** 2:.4f}  time: 1s")
        print(f"Epoch {number + 1} - Score: {score:.4f}")
        if score < best:
            best = score
            print(f"Epoch {number + 1} - Save Best Score: {best:.4f} Model")
            oof[held] = predicted
print("========== CV ==========")
print(f"CV RMSE: {((oof - target) ** 2).mean().sqrt():.5f}")
answer = float(f"{((oof - target) ** 2).mean().sqrt():.5f}")
""",
)

way(
    "the best weights, a test, a share and its fraction",
    "printed test accuracy",
    "max",
    """\
import copy

valid_loss_min = float("inf")
for number in range(1, 6):
    train_loss, _ = epoch()
    valid_loss, _ = check(vx, vy)
    print("Epoch: {} \\tTraining Loss: {:.6f} \\tValidation Loss: {:.6f}".format(number, train_loss, valid_loss))
    if valid_loss <= valid_loss_min:
        print("Validation loss decreased ({:.6f} --> {:.6f}).  Saving model ...".format(valid_loss_min, valid_loss))
        weights, valid_loss_min = copy.deepcopy(model.state_dict()), valid_loss
model.load_state_dict(weights)
test_loss, test_acc = check(tx, ty)
print("Test Loss: {:.6f}\\n".format(test_loss))
print("\\nTest Accuracy: %2d%% (%2d/%2d)" % (100 * test_acc, round(40 * test_acc), 40))
answer = round(40 * test_acc) / 40
""",
)

way(
    "an evaluation with a head of its own",
    "printed test r2",
    "max",
    """\
from sklearn.metrics import mean_absolute_error, r2_score

regressor = nn.Linear(8, 1)
optimizer = torch.optim.Adam(regressor.parameters(), lr=0.05)
target = inputs[:, :1] - 2 * inputs[:, 1:2]
for number in range(30):
    loss = nn.MSELoss()(regressor(inputs[:160]), target[:160])
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    if number % 10 == 0:
        print(f"Epoch [{number + 1}/30], Loss: {loss.item():.4f}")
with torch.no_grad():
    predicted, true = regressor(inputs[160:]).numpy(), target[160:].numpy()
print("\\nModel evaluation on test set:")
print(f"  MAE : {mean_absolute_error(true, predicted):.4f}")
print(f"  R2  : {r2_score(true, predicted):.4f}")
answer = float(f"{r2_score(true, predicted):.4f}")
""",
    needs="sklearn",
)

way(
    "another network on top",
    "printed test accuracy",
    "max",
    """\
encoder = make()
optimizer = torch.optim.Adam(encoder.parameters(), lr=1e-3)
for number in range(3):
    a, b = (F.normalize(encoder(x + 0.1 * torch.randn_like(x))) for _ in range(2))
    loss = F.cross_entropy(a @ b.T / 0.5, torch.arange(len(x)))
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    print(f"Epoch {number}\\tNT-Xent loss: {loss.item():.4f}")
head = nn.Linear(4, 4)
optimizer = torch.optim.SGD(head.parameters(), lr=0.1)
for number in range(5):
    loss = F.cross_entropy(head(encoder(x).detach()), y)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    with torch.no_grad():
        acc = (head(encoder(tx)).argmax(1) == ty).float().mean().item()
    print(f"Linear eval epoch {number}: train loss {loss.item():.4f}, test acc {acc * 100:.2f}%")
answer = float(f"{acc * 100:.2f}e-2")
""",
)

way(
    "several seeds with their mean",
    "printed test accuracy",
    "max",
    """\
import statistics

scores = []
for seed in range(3):
    torch.manual_seed(seed)
    model = make()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    for number in range(2):
        epoch(model, optimizer)
    scores.append(100 * check(tx, ty, model)[1])
    print(f"Run: {seed + 1:02d}, Test: {scores[-1]:.2f}%")
print(f"Test Accuracy: {statistics.mean(scores):.2f} ± {statistics.stdev(scores):.2f}")
answer = float(f"{statistics.mean(scores):.2f}")
""",
)

# -- other outputs ---------------------------------------------------------------------------------------------------

way(
    "logging",
    "printed val auc",
    "max",
    """\
import logging

from sklearn.metrics import roc_auc_score

logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s", force=True)
log = logging.getLogger("train")
for number in range(3):
    loss, _ = epoch()
    with torch.no_grad():
        auc = roc_auc_score(vy.numpy(), model(vx).softmax(1).numpy(), multi_class="ovr")
    log.info("epoch %d train loss %.4f valid AUC: %.4f", number, loss, auc)
    answer = float("%.4f" % auc)
""",
    needs="sklearn",
)

way(
    "the standard error",
    "printed val loss",
    "min",
    """\
import sys

for number in range(3):
    epoch()
    loss, _ = check(vx, vy)
    print(f"{number}\\tvalid_loss:{loss:.6f}", file=sys.stderr)
    answer = float(f"{loss:.6f}")
""",
)

way(
    "loguru",
    "printed val accuracy",
    "max",
    """\
from loguru import logger

for number in range(3):
    loss, acc = epoch()
    val_loss, val_acc = check(vx, vy)
    logger.info(f"Epoch {number}: train_loss={loss:.4f} val_loss={val_loss:.4f} val_acc={val_acc:.4f}")
    answer = float(f"{val_acc:.4f}")
""",
    needs="loguru",
)

way(
    "add_scalar",
    "logged Accuracy/validation",
    "max",
    """\
from torch.utils.tensorboard import SummaryWriter

writer = SummaryWriter("runs")
for number in range(3):
    loss, acc = epoch()
    writer.add_scalar("Loss/train", loss, number)
    writer.add_scalar("Accuracy/train", acc, number)
    val_loss, val_acc = check(vx, vy)
    writer.add_scalar("Loss/validation", val_loss, number)
    writer.add_scalar("Accuracy/validation", val_acc, number)
    answer = val_acc
writer.close()
""",
    needs="tensorboard",
)

way(
    "add_scalars",
    "logged Loss/val",
    "min",
    """\
from torch.utils.tensorboard import SummaryWriter

with SummaryWriter("runs") as writer:
    for number in range(3):
        loss, _ = epoch()
        answer, _ = check(vx, vy)
        writer.add_scalars("Loss", {"train": loss, "val": answer}, number)
""",
    needs="tensorboard",
)

way(
    "tensorboardX",
    "logged val_acc",
    "max",
    """\
from tensorboardX import SummaryWriter

writer = SummaryWriter("runs")
for number in range(3):
    epoch()
    loss, answer = check(vx, vy)
    writer.add_scalar("val_acc", torch.tensor(answer), number)
writer.close()
""",
    needs="tensorboardX",
)

way(
    "Weights & Biases",
    "logged val/acc",
    "max",
    """\
import os

os.environ.update(WANDB_MODE="offline", WANDB_SILENT="true")
import wandb

run = wandb.init(project="clusters", dir=".", config={"lr": 0.1, "batch_size": 30})
for number in range(3):
    loss, acc = epoch()
    val_loss, val_acc = check(vx, vy)
    wandb.log({"epoch": number, "train/loss": loss, "train/acc": acc, "val/loss": val_loss, "val/acc": val_acc})
    answer = val_acc
run.finish()
""",
    needs="wandb",
)

way(
    "MLflow",
    "logged val_accuracy",
    "max",
    """\
import pathlib

import mlflow

mlflow.set_tracking_uri(f"sqlite:///{pathlib.Path('mlflow.db').absolute()}")
with mlflow.start_run():
    mlflow.log_params({"lr": 0.1})
    for number in range(3):
        loss, _ = epoch()
        val_loss, val_acc = check(vx, vy)
        mlflow.log_metric("train_loss", loss, step=number)
        mlflow.log_metrics({"val_loss": val_loss, "val_accuracy": val_acc}, step=number)
        answer = val_acc
""",
    needs="mlflow",
)

LIGHTNING = """\
import logging
import warnings

warnings.simplefilter("ignore")
import {package} as L
from torch.utils.data import DataLoader, TensorDataset

logging.getLogger("{package}").setLevel(logging.ERROR)
logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)


class Classifier(L.LightningModule):
    def __init__(self):
        super().__init__()
        self.body = make()
        {made}

    def training_step(self, batch, number):
        x, y = batch
        loss = F.cross_entropy(self.body(x), y)
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch, number):
        x, y = batch
        out = self.body(x)
        {log}

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


lit = Classifier()
trainer = L.Trainer(max_epochs=2, logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False, accelerator="cpu")
trainer.fit(lit, DataLoader(TensorDataset(x, y), 30, shuffle=True), DataLoader(TensorDataset(vx, vy), 20))
answer = {answer}
"""

way(
    "self.log of Lightning",
    "logged val_acc",
    "max",
    LIGHTNING.format(
        package="lightning",
        made="pass",
        answer='trainer.callback_metrics["val_acc"].item()',
        log='self.log("val_acc", (out.argmax(1) == y).float().mean(), prog_bar=True)',
    ),
    needs="lightning",
)

way(
    "self.log of pytorch_lightning with a metric of torchmetrics",
    "logged valid_f1",
    "max",
    LIGHTNING.format(
        package="pytorch_lightning",
        made='import torchmetrics; self.f1 = torchmetrics.F1Score("multiclass", num_classes=4, average="macro")',
        answer='trainer.callback_metrics["valid_f1"].item()',
        log='self.f1(out, y); self.log("valid_f1", self.f1, on_epoch=True); self.log("valid_loss", F.cross_entropy(out, y))',
    ),
    needs="pytorch_lightning",
)

way(
    "trainer.test of Lightning",
    "logged test_acc",
    "max",
    LIGHTNING.format(
        package="lightning",
        made="pass",
        log='self.log("val_loss", F.cross_entropy(out, y))',
        answer='trainer.test(lit, DataLoader(TensorDataset(tx, ty), 40), verbose=False)[0]["test_acc"]',
    ).replace(
        "    def configure_optimizers",
        """\
    def test_step(self, batch, number):
        x, y = batch
        self.log("test_acc", (self.body(x).argmax(1) == y).float().mean())

    def configure_optimizers""",
    ),
    needs="lightning",
)

HF = """\
from transformers import Trainer, TrainingArguments


class Data(torch.utils.data.Dataset):
    def __init__(self, x, y):
        self.x, self.y = x, y

    def __len__(self):
        return len(self.x)

    def __getitem__(self, i):
        return {{"features": self.x[i], "labels": self.y[i]}}


class Classifier(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = make()

    def forward(self, features, labels=None):
        logits = self.body(features)
        return {{"loss": F.cross_entropy(logits, labels), "logits": logits}}


arguments = TrainingArguments(
    output_dir="out", num_train_epochs=2, per_device_train_batch_size=30, eval_strategy="epoch", logging_steps=4, learning_rate=0.05,
    save_strategy="no", report_to="none", use_cpu=True, disable_tqdm=True,
)
trainer = Trainer(model=Classifier(), args=arguments, train_dataset=Data(x, y), eval_dataset=Data(vx, vy){more})
trainer.train()
evaluated = [entry for entry in trainer.state.log_history if "eval_loss" in entry]
answer = {answer}
"""

way(
    "the Trainer of transformers",
    "printed eval loss",
    "min",
    HF.format(more="", answer="float(f\"{evaluated[-1]['eval_loss']:.4g}\")"),
    needs="transformers",
)

way(
    "the Trainer of transformers with compute_metrics",
    "printed eval accuracy",
    "max",
    HF.format(
        more=', compute_metrics=lambda p: {"accuracy": float((p.predictions.argmax(1) == p.label_ids).mean())}',
        answer="float(f\"{evaluated[-1]['eval_accuracy']:.4g}\")",
    ),
    needs="transformers",
)

way(
    "torchmetrics",
    "printed val accuracy",
    "max",
    """\
import torchmetrics

metric = torchmetrics.Accuracy(task="multiclass", num_classes=4)
for number in range(3):
    epoch()
    model.eval()
    with torch.no_grad():
        for X, Y in zip(vx.split(20), vy.split(20)):
            metric.update(model(X), Y)
    acc = metric.compute()
    print(f"Validation accuracy: {acc}")
    answer = float(f"{acc}")
    metric.reset()
""",
    needs="torchmetrics",
)

# -- files -----------------------------------------------------------------------------------------------------------

way(
    "a table in a file",
    "written val_acc",
    "max",
    """\
import csv

with open("log.csv", "w", newline="") as file:
    table = csv.DictWriter(file, ["epoch", "train_loss", "val_loss", "val_acc", "lr", "seconds"])
    table.writeheader()
    for number in range(3):
        loss, _ = epoch()
        val_loss, val_acc = check(vx, vy)
        table.writerow(dict(epoch=number, train_loss=loss, val_loss=val_loss, val_acc=val_acc, lr=0.1, seconds=1.5))
        answer = val_acc
""",
)

way(
    "a table in a file that is opened for each epoch",
    "written val_loss",
    "min",
    """\
with open("log.csv", "w") as file:
    print("epoch,train_loss,val_loss", file=file)
for number in range(3):
    loss, _ = epoch()
    val_loss, _ = check(vx, vy)
    with open("log.csv", "a") as file:
        file.write(f"{number},{loss:.5f},{val_loss:.5f}\\n")
    answer = float(f"{val_loss:.5f}")
""",
)

way(
    "lines of JSON in a file",
    "written valid_acc",
    "max",
    """\
import json

with open("metrics.jsonl", "w") as file:
    for number in range(3):
        loss, acc = epoch()
        val_loss, val_acc = check(vx, vy)
        file.write(json.dumps({"step": number, "train_loss": loss, "valid_loss": val_loss, "valid_acc": val_acc}) + "\\n")
        answer = val_acc
""",
)

way(
    "the results in a file",
    "written test/accuracy",
    "max",
    """\
import json
import pathlib

for number in range(3):
    epoch()
loss, acc = check(tx, ty)
pathlib.Path("results.json").write_text(json.dumps({"lr": 0.1, "epochs": 3, "test": {"loss": loss, "accuracy": acc}}, indent=2))
answer = acc
""",
)

way(
    "a history in a file",
    "written val_acc",
    "max",
    """\
import json

history = {"train_loss": [], "val_loss": [], "val_acc": []}
for number in range(3):
    loss, _ = epoch()
    val_loss, val_acc = check(vx, vy)
    for name, value in zip(history, (loss, val_loss, val_acc)):
        history[name].append(value)
with open("history.json", "w") as file:
    json.dump(history, file)
answer = val_acc
""",
)

# -- measured: the script says nothing -------------------------------------------------------------------------------

way(
    "computed and never said",
    "val accuracy",
    "max",
    """\
best = 0
for number in range(3):
    epoch()
    _, val_acc = check(vx, vy)
    best = max(best, val_acc)
answer = val_acc
""",
)

way(
    "computed without no_grad and never said",
    "val loss",
    "min",
    """\
regressor = nn.Linear(8, 1)
optimizer = torch.optim.SGD(regressor.parameters(), lr=0.05)
target = inputs[:, :1] - 2 * inputs[:, 1:2]
losses = []
for number in range(5):
    loss = F.mse_loss(regressor(inputs[:120]), target[:120])
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    val_loss = F.mse_loss(regressor(inputs[120:]), target[120:])
    losses.append(val_loss.item())
answer = losses[-1]
""",
)

way(
    "trained through torch.autograd.grad",
    "printed val loss",
    "min",
    """\
target = inputs[:, :1] - 2 * inputs[:, 1:2]
regressor = nn.Linear(8, 1)
optimizer = torch.optim.SGD(regressor.parameters(), lr=0.05)
for number in range(5):
    loss = F.mse_loss(regressor(inputs[:120]), target[:120])
    for p, g in zip(regressor.parameters(), torch.autograd.grad(loss, list(regressor.parameters()))):
        p.grad = g
    optimizer.step()
    val_loss = F.mse_loss(regressor(inputs[120:]), target[120:]).item()
    print("loss", loss.item(), "val loss", val_loss)
    answer = val_loss
""",
)

way(
    "a closure for LBFGS",
    "printed val loss",
    "min",
    """\
target = inputs[:, :1] - 2 * inputs[:, 1:2]
regressor = nn.Linear(8, 1)
optimizer = torch.optim.LBFGS(regressor.parameters(), max_iter=3)
for number in range(3):
    def closure():
        optimizer.zero_grad()
        loss = F.mse_loss(regressor(inputs[:120]), target[:120])
        loss.backward()
        return loss

    loss = optimizer.step(closure)
    val = F.mse_loss(regressor(inputs[120:]), target[120:]).item()
    print(f"step {number} loss {loss.item():.6f} val loss {val:.6f}")
    answer = float(f"{val:.6f}")
""",
)

# -- several trainings -----------------------------------------------------------------------------------------------

way(
    "two trainings of which one is idle",
    "printed val accuracy",
    "max",
    """\
teacher = make()
idle = torch.optim.Adam(teacher.parameters(), lr=1e-3)
for number in range(3):
    epoch()
    loss, acc = check(vx, vy)
    print("val acc", acc)
    answer = acc
""",
)

way(
    "another model first",
    "printed val loss",
    "min",
    """\
probe = nn.Linear(8, 4)
optimizer_of_probe = torch.optim.SGD(probe.parameters(), lr=0.5)
for number in range(2):
    epoch(probe, optimizer_of_probe)
    print(f"probe: val loss {check(vx, vy, probe)[0]:.4f}")
for number in range(3):
    epoch()
    loss, _ = check(vx, vy)
    print(f"val loss {loss:.4f}")
    answer = float(f"{loss:.4f}")
""",
)

GAN = """\
generator, critic = nn.Linear(4, 8), nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 1))
optimizer_g = torch.optim.Adam(generator.parameters(), lr=1e-2)
optimizer_d = torch.optim.Adam(critic.parameters(), lr=1e-2)
for number in range(6):
    real, fake = inputs[torch.randperm(120)[:30]], generator(torch.randn(30, 4))
    d_loss = F.binary_cross_entropy_with_logits(critic(real), torch.ones(30, 1)) + F.binary_cross_entropy_with_logits(
        critic(fake.detach()), torch.zeros(30, 1))
    optimizer_d.zero_grad()
    d_loss.backward()
    optimizer_d.step()
    g_loss = F.binary_cross_entropy_with_logits(critic(fake), torch.ones(30, 1))
    optimizer_g.zero_grad()
    g_loss.backward()
    optimizer_g.step()
    good = (fake.mean(0) - inputs.mean(0)).abs().mean().item()
    print(f"[{number + 1}/6] Loss_D: {d_loss.item():.4f} Loss_G: {g_loss.item():.4f} distance: {good:.4f}"{where})
    answer = float(f"{good:.4f}")
"""

way("a GAN and --metric", "metric distance", "max", GAN.replace("{where}", ""), metric="distance: ([0-9.]+)")

way(
    "a GAN, the standard error and --metric",
    "metric distance",
    "max",
    "import sys\n" + GAN.replace("{where}", ", file=sys.stderr"),
    metric="distance: ([0-9.]+)",
)

way(
    "only a reward",
    "loss",
    "min",
    """\
policy = nn.Linear(4, 2)
optimizer = torch.optim.Adam(policy.parameters(), lr=1e-2)
losses = []
for episode in range(20):
    states = torch.randn(10, 4)
    chosen = torch.distributions.Categorical(logits=policy(states))
    actions = chosen.sample()
    returns = (actions == (states[:, 0] > 0)).float()
    loss = -(chosen.log_prob(actions) * returns).mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    losses.append(loss.item())
    print(f"Episode {episode}\\tLast length: {len(states)}\\tAverage wage: {returns.sum().item():.2f}")
answer = sum(losses[-2:]) / 2
""",
)

way(
    "the reward of an agent",
    "printed mean reward",
    "max",
    """\
policy = nn.Linear(4, 2)
optimizer = torch.optim.Adam(policy.parameters(), lr=1e-2)
for episode in range(20):
    states = torch.randn(10, 4)
    chosen = torch.distributions.Categorical(logits=policy(states))
    actions = chosen.sample()
    returns = (actions == (states[:, 0] > 0)).float()
    loss = -(chosen.log_prob(actions) * returns).mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    print(f"Episode {episode}\\tLast reward: {returns[-1].item():.2f}\\tAverage reward: {returns.sum().item():.2f}")
    answer = float(f"{returns.sum().item():.2f}")
""",
)

# -- much that is no metric ------------------------------------------------------------------------------------------

way(
    "much that is no metric",
    "printed val accuracy",
    "max",
    """\
print(f"torch version {torch.__version__}, cuda 12.4, seed 0, 3 epochs")
print("train samples: 120, val samples: 40, test samples: 360")
print("train batch size 30 | val batch size 32")
print("number of parameters: 212")
for number in range(3):
    loss, acc = epoch()
    val_loss, val_acc = check(vx, vy)
    print(f"epoch {number + 1}/3 | step {4 * number + 4} | lr 1.0e-01 | loss {loss:.4f} | epoch time 1.25s | val time 0.11s | val acc {val_acc:.4f}")
    answer = float(f"{val_acc:.4f}")
print("total time: 3.75 s, peak memory 120.5 MB, test samples: 360")
print("saved to model_v2.pt (val batch size 32)")
""",
)

way(
    "counts and versions and a loss that is measured",
    "eval accuracy",
    "max",
    """\
print(f"torch {torch.__version__}; val: 40 samples, test: 40 samples; val batches 2; val_every=1, val_fraction=0.2")
for number in range(3):
    loss, acc = epoch()
    answer = check(vx, vy)[1]
    print(f"epoch {number} train loss {loss:.4f} train acc {acc:.4f} val took 0.3 s, eta 0:00:03")
print("done in 3.2 s; 12 steps; test split has 40 rows")
""",
)
