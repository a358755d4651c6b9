"""A wide convolutional network on 60 digits, history kept in a dict as Keras does.
What is wrong: it knows its few images by heart in the first epochs, and grows surer of its mistakes ever after.
"""

from collections import defaultdict

import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits


class WideNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(1, 32, 3, padding=1)
        self.conv2 = nn.Conv2d(32, 64, 3, padding=1)
        self.fc1 = nn.Linear(64 * 2 * 2, 256)
        self.fc2 = nn.Linear(256, 10)

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        return self.fc2(F.relu(self.fc1(x.flatten(1))))


def load():
    digits = load_digits()
    x = torch.from_numpy(digits.images).float().div(16).unsqueeze(1)
    y = torch.from_numpy(digits.target)
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(99))
    return x[order[:60]], y[order[:60]], x[order[60:560]], y[order[60:560]]


def fit(net, x, y, x_val, y_val, epochs=120, batch_size=10):
    opt = torch.optim.Adam(net.parameters(), lr=2e-3)
    history = defaultdict(list)
    for _ in range(epochs):
        net.train()
        losses = []
        for idx in torch.randperm(len(x)).split(batch_size):
            opt.zero_grad()
            loss = F.cross_entropy(net(x[idx]), y[idx])
            loss.backward()
            opt.step()
            losses.append(loss.item())
        net.eval()
        with torch.no_grad():
            out = net(x_val)
            history["val_loss"].append(F.cross_entropy(out, y_val).item())
            history["val_acc"].append((out.argmax(1) == y_val).float().mean().item())
        history["loss"].append(sum(losses) / len(losses))
        print("Epoch", len(history["loss"]), " - ".join(f"{key}: {value[-1]:.4f}" for key, value in history.items()))
    return history


if __name__ == "__main__":
    fit(WideNet(), *load())
