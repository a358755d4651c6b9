"""Benign or malignant tumours from 30 measurements. What is wrong: the learning rate is some hundred times too low."""

import torch
import torch.nn.functional as F
from sklearn.datasets import load_breast_cancer
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler
from torch import nn

EPOCHS = 100
BATCH_SIZE = 16
LEARNING_RATE = 3e-5


class TumourNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1 = nn.Linear(30, 256)
        self.fc2 = nn.Linear(256, 256)
        self.fc3 = nn.Linear(256, 1)

    def forward(self, x):
        x = F.relu(self.fc1(x))
        x = F.relu(self.fc2(x))
        return self.fc3(x).squeeze(1)


def load_data():
    features, labels = load_breast_cancer(return_X_y=True)
    x_train, x_val, y_train, y_val = train_test_split(features, labels, test_size=0.3, random_state=42)
    scaler = StandardScaler().fit(x_train)
    arrays = scaler.transform(x_train), scaler.transform(x_val), y_train, y_val
    return [torch.tensor(array, dtype=torch.float32) for array in arrays]


def validate(net, x, y):
    net.eval()
    with torch.no_grad():
        logits = net(x)
        loss = F.binary_cross_entropy_with_logits(logits, y)
        accuracy = ((logits > 0) == (y > 0.5)).float().mean()
    net.train()
    return loss.item(), accuracy.item()


torch.manual_seed(0)
x_train, x_val, y_train, y_val = load_data()
net = TumourNet()
optimizer = torch.optim.SGD(net.parameters(), lr=LEARNING_RATE)

for epoch in range(1, EPOCHS + 1):
    running = 0.0
    for batch in torch.randperm(len(x_train)).split(BATCH_SIZE):
        optimizer.zero_grad()
        loss = F.binary_cross_entropy_with_logits(net(x_train[batch]), y_train[batch])
        loss.backward()
        optimizer.step()
        running += loss.item() * len(batch)
    if epoch % 5 == 0:
        val_loss, accuracy = validate(net, x_val, y_val)
        train_loss = running / len(x_train)
        print(f"epoch {epoch:3d}  train loss {train_loss:.3f}  val loss {val_loss:.3f}  test accuracy {accuracy:.3f}")
