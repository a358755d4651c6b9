"""Handwritten digits, read two pixels at a time by a recurrent net. What is wrong: the gradient explodes in time."""

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F


class PixelReader(nn.Module):
    """Reads an image as a sequence of 32 steps of 2 pixels and classifies it by the last state."""

    def __init__(self, hidden=64):
        super().__init__()
        self.hidden = hidden
        self.read = nn.Linear(2, hidden)
        self.recur = nn.Linear(hidden, hidden, bias=False)
        self.classify = nn.Linear(hidden, 10)
        nn.init.normal_(self.recur.weight, std=2.0 / hidden**0.5)

    def forward(self, pixels):
        state = pixels.new_zeros(len(pixels), self.hidden)
        for step in range(pixels.shape[1]):
            state = torch.tanh(self.read(pixels[:, step]) + self.recur(state))
        return self.classify(state)


torch.manual_seed(0)
digits = load_digits()
images = torch.tensor(digits.images.reshape(-1, 32, 2) / 8 - 1, dtype=torch.float32)
labels = torch.tensor(digits.target)
shuffled = torch.randperm(len(labels))
train, test = shuffled[:1347], shuffled[1347:]

model = PixelReader()
optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9)
for epoch in range(1, 21):
    total = 0.0
    for batch in train[torch.randperm(len(train))].split(32):
        loss = F.cross_entropy(model(images[batch]), labels[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        total += loss.item() * len(batch)
    with torch.no_grad():
        output = model(images[test])
        val_loss = F.cross_entropy(output, labels[test]).item()
        accuracy = (output.argmax(dim=1) == labels[test]).float().mean().item()
    train_loss = total / len(train)
    print(f"epoch {epoch:2d}  train loss {train_loss:.3f}  val loss {val_loss:.3f}  test accuracy {accuracy:.3f}")
