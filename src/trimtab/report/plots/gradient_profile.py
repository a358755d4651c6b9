"""How much gradient reaches each layer: the norms of a layer's parameters taken together, in the order of the forward pass.

Runs record a norm for every parameter (profile ``grad_norms``); weights and biases as rows of their own would alternate and
hide the slope over depth that this picture is for. It is drawn as a heat map (``heatmap.draw_heatmap``).
"""

from __future__ import annotations

import numpy as np

from trimtab.records import Profile, TrainingRecord
from trimtab.report.plots.heatmap import HeatmapData, heatmap_data

NAMES = ("grad_norms", "grad_norm")  # per parameter; per layer


def gradient_profile_data(training: TrainingRecord, title: str = "Gradient profile") -> HeatmapData | None:
    """Gradient norm of each layer, first called at the top; ``None`` if the run sampled none."""
    profile = next((training.profiles[name] for name in NAMES if name in training.profiles), Profile())
    return heatmap_data(by_layer(profile, training), title)


def by_layer(profile: Profile, training: TrainingRecord) -> Profile:
    """Columns of one layer's parameters joined into the norm of them all; columns of no layer stay, at the end."""
    array = profile.array
    table = {name: array[:, column] for column, name in enumerate(profile.names)}
    rows: dict[str, np.ndarray] = {}
    for layer in training.layers:
        parts = [table.pop(name) for name in layer.parameters if name in table]
        if parts:
            rows[layer.name] = np.sqrt(np.square(parts).sum(axis=0))
    # A recording that is per layer already keeps the order of the layers too.
    rows |= {layer.name: table.pop(layer.name) for layer in training.layers if layer.name in table}
    rows |= table
    joined = np.stack(list(rows.values()), axis=1) if rows else np.empty((len(profile.steps), 0))
    return Profile(names=tuple(rows), steps=profile.steps, rows=tuple(tuple(row) for row in joined.tolist()))
