"""Digits, which lie in the file class by class, from a Dataset of one's own.
What is wrong: the DataLoader does not shuffle, so every batch is of one class and the last one wins.
"""

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, Dataset


class DigitsDataset(Dataset):
    """One part of the digits, ordered by class as they would come from ten folders."""

    def __init__(self, part):
        bunch = load_digits()
        rows = np.arange(len(bunch.target)) % 4 == 3
        rows = rows if part == "test" else ~rows
        x, y = bunch.data[rows], bunch.target[rows]
        order = np.argsort(y, kind="stable")
        self.x, self.y = (x[order] / 16).astype("float32"), y[order]

    def __len__(self):
        return len(self.y)

    def __getitem__(self, index):
        return self.x[index], self.y[index]


def evaluate(model, loader):
    model.eval()
    test_loss, correct = 0.0, 0
    with torch.no_grad():
        for data, target in loader:
            output = model(data)
            test_loss += nn.functional.cross_entropy(output, target, reduction="sum").item()
            correct += (output.argmax(1) == target).sum().item()
    size = len(loader.dataset)
    print(
        f"\nTest set: Average loss: {test_loss / size:.4f}, Accuracy: {correct}/{size} ({100 * correct / size:.0f}%)\n"
    )


torch.manual_seed(5)
train_loader = DataLoader(DigitsDataset("train"), batch_size=32)
test_loader = DataLoader(DigitsDataset("test"), batch_size=500)
model = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))
optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
for epoch in range(45):
    model.train()
    for batch_idx, (data, target) in enumerate(train_loader):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(data), target)
        loss.backward()
        optimizer.step()
        if batch_idx % 20 == 0:
            print(
                f"Train Epoch: {epoch} [{batch_idx * len(data)}/{len(train_loader.dataset)}]\tLoss: {loss.item():.6f}"
            )
    evaluate(model, test_loader)
