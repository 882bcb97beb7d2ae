"""The laboratory: base models trained from scratch, and experiments over seeds with intervals."""
