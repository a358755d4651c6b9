"""A product of two inputs, learned by a tiny network in a bare loop with a squared error by hand.
What is wrong: the rate is a thousand times too low; the weights hardly move.
"""

import torch

g = torch.Generator().manual_seed(11)
X = torch.randn(1200, 8, generator=g)
Y = X[:, :1] * X[:, 1:2] + 0.05 * torch.randn(1200, 1, generator=g)
Xv, Yv, X, Y = X[900:], Y[900:], X[:900], Y[:900]

net = torch.nn.Sequential(
    torch.nn.Linear(8, 64), torch.nn.ReLU(), torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 1)
)
opt = torch.optim.SGD(net.parameters(), lr=5e-5)

for i in range(8000):
    j = torch.randint(900, (32,))
    loss = ((net(X[j]) - Y[j]) ** 2).mean()
    opt.zero_grad()
    loss.backward()
    opt.step()
    if i % 200 == 199:
        with torch.no_grad():
            mse = ((net(Xv) - Yv) ** 2).mean()
        print("step", i + 1, "val mse", round(mse.item(), 5))
