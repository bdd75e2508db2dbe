"""What a network's maps mean: one file per representation."""
