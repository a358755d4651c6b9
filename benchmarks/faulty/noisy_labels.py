"""Digits from labels of which four in ten are wrong.
What is wrong: a wide network learns the wrong labels too, if it is only given the time.
"""

import torch
from sklearn.datasets import load_digits
from torch import nn


class Net(nn.Module):
    def __init__(self, width=200):
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(64, width), nn.Linear(width, width)])
        self.out = nn.Linear(width, 10)

    def forward(self, x):
        for layer in self.layers:
            x = torch.relu(layer(x))
        return self.out(x)


def load(wrong=0.4):
    g = torch.Generator().manual_seed(31)
    x, y = map(torch.tensor, load_digits(return_X_y=True))
    order = torch.randperm(len(y), generator=g)
    x, y = x[order].float() / 16, y[order]
    flipped = torch.rand(700, generator=g) < wrong
    y[:700] = torch.where(flipped, torch.randint(10, (700,), generator=g), y[:700])
    return (x[:700], y[:700]), (x[700:], y[700:])


def epoch(net, data, optimizer=None, size=20):
    """One pass; returns mean loss and accuracy."""
    x, y = data
    rows = torch.randperm(len(x)) if optimizer else torch.arange(len(x))
    loss_sum = hits = 0.0
    for part in rows.split(size if optimizer else len(x)):
        with torch.set_grad_enabled(optimizer is not None):
            scores = net(x[part])
            loss = nn.functional.cross_entropy(scores, y[part])
        if optimizer:
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        loss_sum += loss.item() * len(part)
        hits += (scores.argmax(1) == y[part]).sum().item()
    return loss_sum / len(x), hits / len(x)


if __name__ == "__main__":
    train, test = load()
    net = Net()
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
    for number in range(1, 61):
        train_loss, train_acc = epoch(net, train, optimizer)
        if number % 3 == 0:
            test_loss, test_acc = epoch(net, test)
            print(
                f"{number:3d}: train {train_loss:.3f} / {train_acc:.1%}   test loss {test_loss:.3f}   test acc {test_acc:.1%}"
            )
