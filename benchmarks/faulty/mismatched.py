"""Tumours by a small network, benign or malignant.
What is wrong: rows and labels are shuffled each on their own, a bug: there is nothing to learn, and no technique can help.
"""

import random

import numpy as np
import torch
from sklearn.datasets import load_breast_cancer
from torch import nn

SEED = 7
random.seed(SEED)
np.random.seed(SEED)
torch.manual_seed(SEED)

features, labels = load_breast_cancer(return_X_y=True)
features = (features - features.mean(0)) / features.std(0)
features = torch.from_numpy(np.random.permutation(features)).float()
labels = torch.from_numpy(np.random.permutation(labels))
train_x, train_y, valid_x, valid_y = features[:400], labels[:400], features[400:], labels[400:]


class TumourNet(nn.Module):
    def __init__(self, hidden=24):
        super().__init__()
        self.fc1 = nn.Linear(30, hidden)
        self.fc2 = nn.Linear(hidden, 2)

    def forward(self, x):
        return self.fc2(torch.relu(self.fc1(x)))


net = TumourNet()
optimizer = torch.optim.SGD(net.parameters(), lr=0.02)
for epoch in range(1, 121):
    net.train()
    for rows in torch.randperm(400).split(10):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(net(train_x[rows]), train_y[rows])
        loss.backward()
        optimizer.step()
    if epoch % 5 == 0:
        net.eval()
        with torch.no_grad():
            accuracy = (net(valid_x).argmax(1) == valid_y).float().mean().item()
        print(f"Epoch {epoch}: validation accuracy = {accuracy:.3f}")
