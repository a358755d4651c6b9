"""Which token comes most often in a sequence, by eight attention blocks from scratch.
What is wrong: the residual stream has no normalization anywhere, and at this depth and rate nothing holds it.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn as nn
from torch.nn import functional as F


@dataclass
class Config:
    vocab: int = 6
    length: int = 12
    dim: int = 32
    heads: int = 4
    layers: int = 8
    batch: int = 32
    steps: int = 300
    lr: float = 1e-2


class Attention(nn.Module):
    def __init__(self, cfg):
        super().__init__()
        self.heads = cfg.heads
        self.qkv = nn.Linear(cfg.dim, 3 * cfg.dim)
        self.proj = nn.Linear(cfg.dim, cfg.dim)

    def forward(self, x):
        B, T, C = x.shape
        q, k, v = self.qkv(x).view(B, T, 3, self.heads, C // self.heads).permute(2, 0, 3, 1, 4)
        weights = F.softmax(q @ k.transpose(-2, -1) / math.sqrt(C // self.heads), dim=-1)
        return self.proj((weights @ v).transpose(1, 2).reshape(B, T, C))


class Block(nn.Module):
    def __init__(self, cfg):
        super().__init__()
        self.attention = Attention(cfg)
        self.mlp = nn.Sequential(nn.Linear(cfg.dim, 4 * cfg.dim), nn.ReLU(), nn.Linear(4 * cfg.dim, cfg.dim))

    def forward(self, x):
        x = x + self.attention(x)
        return x + self.mlp(x)


class Transformer(nn.Module):
    def __init__(self, cfg):
        super().__init__()
        self.token = nn.Embedding(cfg.vocab, cfg.dim)
        self.position = nn.Parameter(torch.randn(cfg.length, cfg.dim) * 0.1)
        self.blocks = nn.ModuleList(Block(cfg) for _ in range(cfg.layers))
        self.head = nn.Linear(cfg.dim, cfg.vocab)

    def forward(self, tokens, targets=None):
        x = self.token(tokens) + self.position
        for block in self.blocks:
            x = block(x)
        logits = self.head(x.mean(1))
        return logits, None if targets is None else F.cross_entropy(logits, targets)


def get_batch(data, size):
    rows = torch.randint(len(data), (size,))
    return data[rows], F.one_hot(data[rows], 6).sum(1).argmax(1)


@torch.no_grad()
def estimate(model, data):
    model.eval()
    targets = F.one_hot(data, 6).sum(1).argmax(1)
    logits, loss = model(data, targets)
    model.train()
    return loss.item(), (logits.argmax(1) == targets).float().mean().item()


cfg = Config()
data = torch.randint(cfg.vocab, (4000, cfg.length), generator=torch.Generator().manual_seed(0))
train_data, val_data = data[:3600], data[3600:]
torch.manual_seed(1337)
model = Transformer(cfg)
optimizer = torch.optim.AdamW(model.parameters(), lr=cfg.lr)
for it in range(1, cfg.steps + 1):
    _, loss = model(*get_batch(train_data, cfg.batch))
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()
    if it % 30 == 0:
        val_loss, val_acc = estimate(model, val_data)
        print(f"step {it}: train loss {loss.item():.4f}, val loss {val_loss:.4f}, val acc {val_acc:.4f}")
