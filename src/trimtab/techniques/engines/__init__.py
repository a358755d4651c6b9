"""What several techniques share: how parts are put into a model, optimizers turned into others, batches changed. No technique is in here."""
