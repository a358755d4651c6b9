"""What optimizers of torch lack: penalties, constraints, decay, averages of weights, and when to stop."""

__all__: list[str] = []
