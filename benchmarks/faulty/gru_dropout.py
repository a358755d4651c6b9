"""Digits read row by row by two layers of GRU.
What is wrong: nine of ten units are dropped between the layers and before the head, for a network that never overfits.
"""

import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn


class RowReader(nn.Module):
    def __init__(self, hidden=40, p=0.9):
        super().__init__()
        self.gru = nn.GRU(8, hidden, num_layers=2, batch_first=True, dropout=p)
        self.drop = nn.Dropout(p)
        self.fc = nn.Linear(hidden, 10)

    def forward(self, rows):
        _, last = self.gru(rows)
        return self.fc(self.drop(last[-1]))


digits = load_digits()
X = torch.tensor(digits.images / 16.0, dtype=torch.float)
y = torch.tensor(digits.target)
X_train, X_val, y_train, y_val = train_test_split(X, y, test_size=400, random_state=8)

net = RowReader()
loss_fn = nn.CrossEntropyLoss()
opt = torch.optim.Adam(net.parameters(), lr=1e-3)

for epoch in range(18):
    net.train()
    for i in torch.randperm(len(X_train)).split(32):
        loss = loss_fn(net(X_train[i]), y_train[i])
        opt.zero_grad()
        loss.backward()
        opt.step()
    net.eval()
    with torch.no_grad():
        val_logits = net(X_val)
    acc = (val_logits.argmax(1) == y_val).sum().item() / len(y_val)
    val_loss = loss_fn(val_logits, y_val).item()
    print(f"Epoch: {epoch:2d}   Validation loss: {val_loss:.3f}   Validation accuracy: {100 * acc:.2f}%")
