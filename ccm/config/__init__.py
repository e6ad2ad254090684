"""Configuration: where it is, what it may say, what it means."""
