"""Payments of which one in thirty is fraud, from two categories, embedded, and four amounts.
What is wrong: nothing weighs the rare class, and Adam's eps of 0.1 leaves steps so small that it never stands out.
"""

import json

import numpy as np
import torch
import torch.nn as nn
from sklearn.metrics import average_precision_score

SHOPS, COUNTRIES = 40, 12


def payments(n, seed=0):
    rng = np.random.default_rng(seed)
    shop, country = rng.integers(SHOPS, size=n), rng.integers(COUNTRIES, size=n)
    amounts = rng.normal(size=(n, 4)).astype("float32")
    risk = rng.normal(size=SHOPS)[shop] + rng.normal(size=COUNTRIES)[country]
    score = risk + 1.5 * amounts[:, 0] * amounts[:, 1] + amounts[:, 2] + 0.5 * rng.normal(size=n)
    fraud = score > np.quantile(score, 29 / 30)
    return [torch.from_numpy(part) for part in (shop, country, amounts, fraud.astype("float32"))]


class FraudModel(nn.Module):
    def __init__(self, dim=8, width=64):
        super().__init__()
        self.shop = nn.Embedding(SHOPS, dim)
        self.country = nn.Embedding(COUNTRIES, dim)
        self.mlp = nn.Sequential(
            nn.Linear(2 * dim + 4, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 1)
        )

    def forward(self, shop, country, amounts):
        return self.mlp(torch.cat([self.shop(shop), self.country(country), amounts], dim=1)).squeeze(1)


def batches(columns, size):
    for rows in torch.randperm(len(columns[0])).split(size):
        yield [column[rows] for column in columns]


columns = payments(8000)
train_columns, valid_columns = [c[:6000] for c in columns], [c[6000:] for c in columns]
model = FraudModel()
optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, eps=0.1)
loss_function = nn.BCEWithLogitsLoss()
for epoch in range(32):
    model.train()
    for shop, country, amounts, fraud in batches(train_columns, 64):
        loss = loss_function(model(shop, country, amounts), fraud)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.eval()
    with torch.no_grad():
        *features, fraud = valid_columns
        logits = model(*features)
    precision = average_precision_score(fraud, logits)
    print(json.dumps({"epoch": epoch, "valid_loss": loss_function(logits, fraud).item(), "valid_ap": precision}))
