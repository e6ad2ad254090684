"""The HTTP door: listener, worker pool, handler, guard, routes."""
