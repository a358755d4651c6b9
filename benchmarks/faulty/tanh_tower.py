"""Digits by ten layers of tanh in functional style, weights in a list and no module at all.
What is wrong: weights are drawn from N(0, 1), so every layer is saturated from the start.
"""

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits

DEPTH, WIDTH, STEPS = 10, 64, 2400


def init(sizes, generator):
    params = []
    for fan_in, fan_out in zip(sizes[:-1], sizes[1:], strict=True):
        params.append(torch.randn(fan_out, fan_in, generator=generator).requires_grad_())
        params.append(torch.zeros(fan_out, requires_grad=True))
    return params


def predict(params, x):
    *hidden, w, b = params
    for weight, bias in zip(hidden[::2], hidden[1::2], strict=True):
        x = torch.tanh(F.linear(x, weight, bias))
    return F.linear(x, w, b)


def accuracy(params, x, y):
    with torch.no_grad():
        return (predict(params, x).argmax(-1) == y).float().mean().item()


def main():
    torch.manual_seed(0)
    x, y = (torch.tensor(a) for a in load_digits(return_X_y=True))
    x = x.float() / 8 - 1
    x_train, y_train, x_val, y_val = x[:1300], y[:1300], x[1300:], y[1300:]
    params = init([64, *[WIDTH] * (DEPTH - 1), 10], torch.default_generator)
    opt = torch.optim.SGD(params, lr=0.02, momentum=0.9)
    for step in range(1, STEPS + 1):
        rows = torch.randint(len(x_train), (64,))
        loss = F.cross_entropy(predict(params, x_train[rows]), y_train[rows])
        opt.zero_grad()
        loss.backward()
        opt.step()
        if step % 80 == 0:
            print(f"{step=} loss={loss.item():.3f} val_accuracy={accuracy(params, x_val, y_val):.3f}")


main()
