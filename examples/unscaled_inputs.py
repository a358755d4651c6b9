"""Cultivars of wine from 13 chemical measurements. What is wrong: the features come in raw units, from 0.1 to 1680."""

import torch
from sklearn.datasets import load_wine
from torch import nn

torch.manual_seed(0)
wine = load_wine()
features = torch.tensor(wine.data, dtype=torch.float32)
labels = torch.tensor(wine.target)
order = torch.randperm(len(labels))
train, test = order[:134], order[134:]

model = nn.Sequential(
    nn.Linear(13, 32),
    nn.ReLU(),
    nn.Linear(32, 32),
    nn.ReLU(),
    nn.Linear(32, 3),
)
loss_function = nn.CrossEntropyLoss()
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)

for epoch in range(1, 501):
    model.train()
    train_loss = 0.0
    for batch in train[torch.randperm(len(train))].split(16):
        optimizer.zero_grad()
        loss = loss_function(model(features[batch]), labels[batch])
        loss.backward()
        optimizer.step()
        train_loss += loss.item() * len(batch) / len(train)

    if epoch % 20 == 0:
        model.eval()
        with torch.no_grad():
            output = model(features[test])
            val_loss = loss_function(output, labels[test]).item()
            accuracy = (output.argmax(1) == labels[test]).float().mean().item()
        print(f"epoch {epoch:3d}  train loss {train_loss:.3f}  val loss {val_loss:.3f}  test accuracy {accuracy:.3f}")
