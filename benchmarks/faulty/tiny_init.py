"""Tumours by a five-layer network told through the logging module.
What is wrong: all weights start at a thousandth, so that nothing gets through and the loss rests at ln 2.
"""

import logging

import numpy as np
import torch
from sklearn.datasets import load_breast_cancer
from sklearn.preprocessing import StandardScaler
from torch import nn

logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
log = logging.getLogger("tumours")


def small_weights(module):
    if isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, std=0.001)
        nn.init.zeros_(module.bias)


def build(width=48, depth=5):
    layers, size = [], 30
    for _ in range(depth):
        layers += [nn.Linear(size, width), nn.ReLU()]
        size = width
    return nn.Sequential(*layers, nn.Linear(size, 1), nn.Flatten(0)).apply(small_weights)


def run(epochs=100, batch=16, lr=0.05, seed=3):
    torch.manual_seed(seed)
    np.random.seed(seed)
    x, y = load_breast_cancer(return_X_y=True)
    order = np.random.RandomState(0).permutation(len(x))
    train, valid = order[:400], order[400:]
    scaler = StandardScaler().fit(x[train])
    x = torch.as_tensor(scaler.transform(x), dtype=torch.float32)
    y = torch.as_tensor(y, dtype=torch.float32)
    net, criterion = build(), nn.BCEWithLogitsLoss()
    optimizer = torch.optim.SGD(net.parameters(), lr=lr, momentum=0.9)
    for epoch in range(epochs):
        np.random.shuffle(train)
        net.train()
        for start in range(0, len(train), batch):
            rows = train[start : start + batch]
            loss = criterion(net(x[rows]), y[rows])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
        net.eval()
        with torch.no_grad():
            logits = net(x[valid])
            hit = ((logits > 0).float() == y[valid]).float().mean()
        log.info("epoch %d valid loss: %.4f valid accuracy: %.4f", epoch, criterion(logits, y[valid]), hit)


if __name__ == "__main__":
    run()
