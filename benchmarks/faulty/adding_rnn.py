"""The adding problem: a recurrent network of ReLU units sums the two marked numbers of a sequence.
What is wrong: recurrent weights of norm above 1 under ReLU, and no clipping: state and gradient grow with time.
"""

import torch
from torch import nn


def make_batch(size, length, generator):
    values = torch.rand(size, length, generator=generator)
    marks = torch.zeros(size, length)
    first = torch.randint(length // 2, (size, 1), generator=generator)
    second = torch.randint(length // 2, length, (size, 1), generator=generator)
    marks.scatter_(1, first, 1.0)
    marks.scatter_(1, second, 1.0)
    return torch.stack([values, marks], dim=2), (values * marks).sum(1)


class Adder(nn.Module):
    def __init__(self, hidden=48):
        super().__init__()
        self.rnn = nn.RNN(2, hidden, nonlinearity="relu", batch_first=True)
        self.out = nn.Linear(hidden, 1)
        nn.init.normal_(self.rnn.weight_hh_l0, std=2.25 / hidden**0.5)

    def forward(self, x):
        states, _ = self.rnn(x)
        return self.out(states[:, -1]).squeeze(-1)


generator = torch.Generator().manual_seed(0)
x, y = make_batch(2048, 24, generator)
x_val, y_val = make_batch(512, 24, generator)
torch.manual_seed(1)
model = Adder()
mse = nn.MSELoss()
optimizer = torch.optim.RMSprop(model.parameters(), lr=1e-3)
for epoch in range(24):
    model.train()
    for rows in torch.randperm(len(x)).split(32):
        optimizer.zero_grad()
        loss = mse(model(x[rows]), y[rows])
        loss.backward()
        optimizer.step()
    model.eval()
    with torch.no_grad():
        print(f"epoch {epoch + 1:02d} | val mse {mse(model(x_val), y_val).item():.4f}")
