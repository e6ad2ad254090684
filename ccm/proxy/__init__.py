"""The mechanism: the only room that sees dialects, routing and upstream together."""
