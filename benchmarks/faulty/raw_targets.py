"""The progression of diabetes, 25 to 346, from measurements of the size of 0.05.
What is wrong: targets as they are under a squared error: the first steps kill most ReLUs, and hardly more than the mean is left.
"""

import torch
from sklearn.datasets import load_diabetes
from sklearn.metrics import mean_absolute_error
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

torch.set_default_dtype(torch.float32)


def get_data(seed=0):
    X, y = load_diabetes(return_X_y=True)
    X, y = torch.as_tensor(X).float(), torch.as_tensor(y).float()[:, None]
    shuffle = torch.randperm(len(X), generator=torch.Generator().manual_seed(seed))
    train, test = shuffle[:330], shuffle[330:]
    return TensorDataset(X[train], y[train]), X[test], y[test]


class Regressor:
    """fit and predict, as in scikit-learn."""

    def __init__(self, hidden=(64, 64), lr=0.003, max_epochs=250, verbose=True):
        self.hidden, self.lr, self.max_epochs, self.verbose = hidden, lr, max_epochs, verbose

    def fit(self, data, X_test, y_test):
        sizes = [10, *self.hidden]
        parts = [p for a, b in zip(sizes[:-1], sizes[1:], strict=True) for p in (nn.Linear(a, b), nn.ReLU())]
        self.module_ = nn.Sequential(*parts, nn.Linear(sizes[-1], 1))
        self.optimizer_ = torch.optim.SGD(self.module_.parameters(), lr=self.lr, momentum=0.9)
        loader = DataLoader(data, batch_size=22, shuffle=True)
        for epoch in range(self.max_epochs):
            for X, y in loader:
                loss = nn.functional.mse_loss(self.module_(X), y)
                self.optimizer_.zero_grad()
                loss.backward()
                self.optimizer_.step()
            if self.verbose and epoch % 5 == 4:
                mae = mean_absolute_error(y_test, self.predict(X_test))
                print(f"epoch {epoch + 1} train_mse {loss.item():.1f} test_mae {mae:.2f}")
        return self

    @torch.no_grad()
    def predict(self, X):
        return self.module_(X).numpy()


if __name__ == "__main__":
    Regressor().fit(*get_data())
