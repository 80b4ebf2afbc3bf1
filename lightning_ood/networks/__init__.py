"""Networks by name or by class path, their weights and the preprocessing that belongs to them."""
