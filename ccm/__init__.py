"""claude-code-mux: the local gateway between Claude Code and every AI provider."""

__version__ = "1.0.0"
