"""Digits with gradients accumulated over eight small batches.
What is wrong: they are summed and never divided, at momentum 0.99: eight hundred times the step that was meant.
"""

from itertools import count

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset, random_split

ACCUMULATION_STEPS = 8
MAX_UPDATES = 1200

torch.manual_seed(12)
digits = load_digits()
dataset = TensorDataset(torch.tensor(digits.data, dtype=torch.float32) / 16, torch.tensor(digits.target))
train_set, test_set = random_split(dataset, [0.8, 0.2], generator=torch.Generator().manual_seed(12))
train_loader = DataLoader(train_set, batch_size=8, shuffle=True)
test_loader = DataLoader(test_set, batch_size=len(test_set))

model = nn.Sequential(nn.Linear(64, 80), nn.ReLU(), nn.Linear(80, 80), nn.ReLU(), nn.Linear(80, 10))
criterion = nn.CrossEntropyLoss()
optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.99)

updates = micro = 0
for epoch in count():
    model.train()
    for inputs, targets in train_loader:
        criterion(model(inputs), targets).backward()
        micro += 1
        if micro % ACCUMULATION_STEPS == 0:
            optimizer.step()
            optimizer.zero_grad()
            updates += 1
    model.eval()
    with torch.no_grad():
        for inputs, targets in test_loader:
            outputs = model(inputs)
            accuracy = (outputs.argmax(1) == targets).float().mean().item()
            print(
                f"epoch {epoch} updates {updates} eval_loss {criterion(outputs, targets):.4f} eval_accuracy {accuracy:.4f}"
            )
    if updates >= MAX_UPDATES:
        break
