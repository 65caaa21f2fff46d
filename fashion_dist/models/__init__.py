"""Networks: a backbone that turns images into features, and heads on it; nothing here knows of ranks.

A file with a `build` is a network, found by its name; `registry` says what `model.name` takes, without importing torch.
"""
