"""A small training script, over in a second, for benches that run hundreds."""

SCRIPT = """import torch
from sklearn.datasets import load_{data}
from torch import nn

torch.manual_seed(0)
rate = {rate}
width = {width}
epochs = 4
x, y = load_{data}(return_X_y=True)
x = torch.tensor(x, dtype=torch.float32)
y = torch.tensor(y)
x = (x - x.mean(0)) / (x.std(0) + 1e-6)
order = torch.randperm(len(x), generator=torch.Generator().manual_seed(1))
train = order[: len(x) // 3]
held_out = order[len(x) // 3 :]
model = nn.Sequential(nn.Linear(x.shape[1], width), nn.ReLU(), nn.Linear(width, int(y.max()) + 1))
criterion = nn.CrossEntropyLoss()
optimizer = torch.optim.SGD(model.parameters(), lr=rate, momentum=0.9)
for epoch in range(epochs):
    for batch in train[torch.randperm(len(train))].split(16):
        optimizer.zero_grad()
        loss = criterion(model(x[batch]), y[batch])
        loss.backward()
        optimizer.step()
with torch.no_grad():
    print("val loss", criterion(model(x[held_out]), y[held_out]).item())
"""
