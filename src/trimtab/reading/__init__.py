"""What a model is: its norms, its layers, and the order in which it calls them. Nothing here changes it."""
