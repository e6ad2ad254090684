"""Steering a running ccm: one table of status and action functions, and the doors to it."""
