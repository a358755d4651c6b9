"""A smooth function of six inputs from noisy samples, by plain SGD.
What is wrong: two samples a batch at a rate for hundreds: the weights never settle.
"""

import torch
import torch.nn as nn


def target(x):
    return torch.sin(2 * x[:, 0]) + x[:, 1] * x[:, 2] - 0.5 * x[:, 3].abs()


class Surrogate(nn.Module):
    def __init__(self, d_in, d_hidden):
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(d_in, d_hidden), nn.SiLU(), nn.Linear(d_hidden, d_hidden), nn.SiLU(), nn.Linear(d_hidden, 1)
        )

    def forward(self, x):
        return self.net(x).squeeze(-1)


def r2_score(prediction, truth):
    return 1 - ((prediction - truth) ** 2).sum() / ((truth - truth.mean()) ** 2).sum()


rng = torch.Generator().manual_seed(5)
x_all = torch.randn(1400, 6, generator=rng)
y_all = target(x_all) + 0.4 * torch.randn(1400, generator=rng)
x_train, y_train, x_valid, y_valid = x_all[:1000], y_all[:1000], x_all[1000:], y_all[1000:]

torch.manual_seed(0)
model = Surrogate(6, 48)
optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
losses = []
for _ in range(16):
    for pair in torch.randperm(1000).split(2):
        model.zero_grad()
        loss = nn.functional.mse_loss(model(x_train[pair]), y_train[pair])
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        if len(losses) % 200 == 0:
            with torch.no_grad():
                score = r2_score(model(x_valid), y_valid).item()
            print(f"iter {len(losses):5d}  loss {sum(losses[-200:]) / 200:.3f}  valid R2 {score:.3f}")
