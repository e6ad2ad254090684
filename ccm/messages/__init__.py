"""The canonical form: Anthropic Messages JSON as plain dicts, its stream grammar and its token figures. Pure."""
