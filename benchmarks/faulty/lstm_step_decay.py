"""Waves of four shapes told apart by an LSTM, the learning rate taken down by hand.
What is wrong: it falls to a third every epoch, and the network stands still before it has learned anything.
"""

import math
import sys

import torch
from torch import nn

config = dict(hidden=32, epochs=16, batch=40, lr=5e-3, drop=0.33, length=24, seed=17)


def waves(count, length, generator):
    kind = torch.randint(4, (count,), generator=generator)
    time = torch.arange(length) * (0.3 + 0.2 * torch.rand(count, 1, generator=generator))
    phase = time + 2 * math.pi * torch.rand(count, 1, generator=generator)
    saw = (phase / (2 * math.pi)) % 1 * 2 - 1
    shapes = torch.stack([phase.sin(), phase.sin().sign(), saw, 2 * saw.abs() - 1], 1)
    x = shapes[torch.arange(count), kind] + 0.3 * torch.randn(count, length, generator=generator)
    return x.unsqueeze(-1), kind


class Classifier(nn.Module):
    def __init__(self, hidden):
        super().__init__()
        self.lstm = nn.LSTM(1, hidden, batch_first=True)
        self.head = nn.Linear(hidden, 4)

    def forward(self, x):
        out, _ = self.lstm(x)
        return self.head(out.mean(1))


def adjust_learning_rate(optimizer, epoch):
    for group in optimizer.param_groups:
        group["lr"] = config["lr"] * config["drop"] ** epoch


def main():
    generator = torch.Generator().manual_seed(4)
    x, y = waves(2400, config["length"], generator)
    x_test, y_test = waves(600, config["length"], generator)
    torch.manual_seed(config["seed"])
    model = Classifier(config["hidden"])
    optimizer = torch.optim.Adam(model.parameters(), lr=config["lr"])
    for epoch in range(config["epochs"]):
        adjust_learning_rate(optimizer, epoch)
        model.train()
        for rows in torch.randperm(len(x)).split(config["batch"]):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(x[rows]), y[rows])
            loss.backward()
            optimizer.step()
        model.eval()
        with torch.no_grad():
            test_acc = (model(x_test).argmax(1) == y_test).float().mean()
        sys.stdout.write(f"epoch={epoch} lr={optimizer.param_groups[0]['lr']:.1e} test_acc={test_acc:.4f}\n")


if __name__ == "__main__":
    main()
