"""Decisions: which model, which target, what a failure means, what comes next. Pure but for the locked boards."""
