"""What the world looks like, as data, and the strict loaders of that data."""
