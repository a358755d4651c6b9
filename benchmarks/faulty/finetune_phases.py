"""Fine-tuning: a stem that has learned five digits is frozen, and a new head learns the other five, in train and val phases.
What is wrong: the rate of the head is far too low, and StepLR takes it down further.
"""

import copy

import torch
import torch.nn as nn
import torch.optim as optim
from sklearn.datasets import load_digits
from torch.optim import lr_scheduler
from torch.utils.data import DataLoader, TensorDataset

torch.manual_seed(0)
digits = load_digits()
images, labels = torch.tensor(digits.data / 16).float(), torch.tensor(digits.target)


def loaders(wanted, batch_size):
    rows = torch.isin(labels, torch.tensor(wanted)).nonzero().flatten()
    rows = rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(3))]
    cut = int(0.75 * len(rows))
    parts = {"train": rows[:cut], "val": rows[cut:]}
    return {
        phase: DataLoader(TensorDataset(images[part], labels[part] - wanted[0]), batch_size, shuffle=phase == "train")
        for phase, part in parts.items()
    }


def pretrain(stem, head, epochs=8):
    optimizer = optim.Adam([*stem.parameters(), *head.parameters()], lr=2e-3)
    for _ in range(epochs):
        for x, y in loaders([0, 1, 2, 3, 4], 32)["train"]:
            loss = nn.functional.cross_entropy(head(stem(x)), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()


def train_model(model, dataloaders, criterion, optimizer, scheduler, num_epochs):
    best_acc, best_weights = 0.0, copy.deepcopy(model.state_dict())
    for epoch in range(num_epochs):
        for phase in ["train", "val"]:
            model.train(phase == "train")
            running_loss, running_corrects, seen = 0.0, 0, 0
            for inputs, targets in dataloaders[phase]:
                optimizer.zero_grad()
                with torch.set_grad_enabled(phase == "train"):
                    outputs = model(inputs)
                    loss = criterion(outputs, targets)
                    if phase == "train":
                        loss.backward()
                        optimizer.step()
                running_loss += loss.item() * inputs.size(0)
                running_corrects += (outputs.argmax(1) == targets).sum().item()
                seen += inputs.size(0)
            if phase == "train":
                scheduler.step()
            epoch_loss, epoch_acc = running_loss / seen, running_corrects / seen
            if epoch % 2:
                print(f"Epoch {epoch}/{num_epochs - 1} {phase} Loss: {epoch_loss:.4f} Acc: {epoch_acc:.4f}")
            if phase == "val" and epoch_acc > best_acc:
                best_acc, best_weights = epoch_acc, copy.deepcopy(model.state_dict())
    print(f"Best val Acc: {best_acc:4f}")
    model.load_state_dict(best_weights)
    return model


stem = nn.Sequential(nn.Linear(64, 96), nn.ReLU(), nn.Linear(96, 48), nn.ReLU())
pretrain(stem, nn.Linear(48, 5))
for parameter in stem.parameters():
    parameter.requires_grad = False

model = nn.Sequential(stem, nn.Linear(48, 5))
optimizer_ft = optim.SGD(model[1].parameters(), lr=0.0001, momentum=0.9)
exp_lr_scheduler = lr_scheduler.StepLR(optimizer_ft, step_size=20, gamma=0.1)
train_model(model, loaders([5, 6, 7, 8, 9], 16), nn.CrossEntropyLoss(), optimizer_ft, exp_lr_scheduler, num_epochs=60)
