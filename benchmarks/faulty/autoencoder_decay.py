"""An autoencoder of digits through a bottleneck of eight, under AdamW.
What is wrong: weight_decay=20, copied from where rates are a hundred times smaller, pulls all weights to nothing.
"""

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

BATCH, EPOCHS, LATENT = 48, 70, 8


class AutoEncoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(64, 96), nn.GELU(), nn.Linear(96, LATENT))
        self.decoder = nn.Sequential(nn.Linear(LATENT, 96), nn.GELU(), nn.Linear(96, 64), nn.Sigmoid())

    def forward(self, x):
        return self.decoder(self.encoder(x))


def main():
    torch.manual_seed(2024)
    x = torch.tensor(load_digits().data / 16, dtype=torch.float32)
    x = x[torch.randperm(len(x), generator=torch.Generator().manual_seed(0))]
    train, val = TensorDataset(x[:1440]), x[1440:]
    model = AutoEncoder()
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=20)
    criterion = nn.MSELoss()
    loader = DataLoader(train, batch_size=BATCH, shuffle=True, drop_last=True)
    for epoch in range(EPOCHS):
        model.train()
        total = 0.0
        for (batch,) in loader:
            loss = criterion(model(batch), batch)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.item()
        model.eval()
        with torch.inference_mode():
            val_loss = criterion(model(val), val)
        print({"epoch": epoch, "train_loss": round(total / len(loader), 5), "val_loss": round(val_loss.item(), 5)})


main()
