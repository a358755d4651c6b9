"""Diabetes progression from ten measurements of 200 patients. What is wrong: the network learns them by heart."""

import torch
import torch.nn as nn
from sklearn.datasets import load_diabetes


class Regressor(nn.Module):
    def __init__(self, width=256):
        super().__init__()
        self.hidden1 = nn.Linear(10, width)
        self.hidden2 = nn.Linear(width, width)
        self.output = nn.Linear(width, 1)

    def forward(self, x):
        x = torch.relu(self.hidden1(x))
        x = torch.relu(self.hidden2(x))
        return self.output(x)


def load_data(n_train=200):
    """Features and targets, standardised with the mean and deviation of the training patients."""
    data = load_diabetes()
    features = torch.tensor(data.data, dtype=torch.float32)
    targets = torch.tensor(data.target, dtype=torch.float32).unsqueeze(1)
    order = torch.randperm(len(features))
    train, test = order[:n_train], order[n_train:]
    features = (features - features[train].mean(0)) / features[train].std(0)
    targets = (targets - targets[train].mean()) / targets[train].std()
    return features[train], targets[train], features[test], targets[test]


def train(epochs=300, learning_rate=0.05, batch_size=20):
    x_train, y_train, x_test, y_test = load_data()
    model = Regressor()
    criterion = nn.MSELoss()
    optimizer = torch.optim.SGD(model.parameters(), lr=learning_rate)

    for epoch in range(1, epochs + 1):
        model.train()
        losses = []
        for batch in torch.randperm(len(x_train)).split(batch_size):
            loss = criterion(model(x_train[batch]), y_train[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())

        if epoch % 5 == 0:
            model.eval()
            with torch.no_grad():
                val_loss = criterion(model(x_test), y_test).item()
            print(f"epoch {epoch:3d}  train loss {sum(losses) / len(losses):.3f}  val loss {val_loss:.3f}")


if __name__ == "__main__":
    torch.manual_seed(0)
    train()
