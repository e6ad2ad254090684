"""What `ccmctl COMMAND --help` says beside the options: a paragraph where one sentence is not enough, and examples."""

from __future__ import annotations

from collections.abc import Mapping

MORE: Mapping[str, str] = {
    "status": "What runs where, who is first, how every provider and its key are, what went wrong lately. WELL is the\n"
    "share of its answers that were good, p50 and p95 the time to first content, both of the last 15 minutes.",
    "switch": "From the next request on; running ones end where they are. A provider that is not well is passed over,\n"
    "so a switch never costs a request. It survives restarts and ends with --for, --auto or another switch.",
    "disable": "Running requests end where they are. It survives restarts.",
    "drain": "Unlike disable it is asked all the same where no other provider is left. It survives restarts.",
    "requests": "Youngest first. With -f the oldest comes first and every further one follows as it ends: none twice,\n"
    "none left out.",
    "explain": "Class and rule, every candidate with its scores or with what ruled it out, every attempt with its times.\n"
    "A dry run reads a Messages request from standard input, sends nothing and changes nothing.",
    "models": "Names are those of the configuration and Claude's tiers; with MODEL just that one. Where a request goes\n"
    "depends on the state of the providers at this moment; `ccmctl explain --dry-run` tells why.",
    "top": "On a terminal in place: q ends it, the space bar asks at once. In a pipe, with TERM=dumb and with --plain one\n"
    "block after the other. Figures are those of the last minute.",
    "config": "In the file's own form, with the line behind every value. Keys and header values are not shown.",
    "reload": "A faulty file is refused whole, with every fault, and changes nothing. Running requests keep the\n"
    "configuration they began with.",
    "drill": "Every request of the drill meets the fault in each of its attempts at that provider, so that you see what\n"
    "your clients would. What health and breaker learn of it is real: `ccmctl reset PROVIDER` forgets it afterwards. A\n"
    "drill ends by itself, after its requests or its time, whichever comes first, and never outlives a restart.",
    "completions": "Made of the same table as this help. Names of providers are asked of the running ccm.",
    "reset": "Their next requests are tried as if nothing had happened. Counters stay.",
    "stop": "Running requests may end first, for as long as [proxy] drain_timeout_s says.",
}

EXAMPLES: Mapping[str, tuple[tuple[str, str], ...]] = {
    "status": (
        ("ccmctl status", ""),
        ("ccmctl status --watch 5", "again every 5 seconds"),
        ("ccmctl status --json | jq .providers[].state", ""),
    ),
    "providers": (("ccmctl providers", ""), ("ccmctl providers --json", "with addresses and every endpoint")),
    "models": (("ccmctl models", ""), ("ccmctl models claude-opus-5-5", "where that name goes now")),
    "switch": (
        ("ccmctl switch openai", "until further notice"),
        ("ccmctl switch openai --for 30m", "and back by itself"),
        ("ccmctl switch gemini --class think", "only for requests that think"),
        ("ccmctl switch --auto", "the strategy decides again"),
    ),
    "enable": (("ccmctl enable groq", ""),),
    "disable": (("ccmctl disable groq", ""),),
    "drain": (("ccmctl drain groq", "then `ccmctl status` until NOW is 0"),),
    "reset": (("ccmctl reset groq", ""), ("ccmctl reset", "all of them")),
    "metrics": (("ccmctl metrics", ""), ("ccmctl metrics --prometheus", "for a scraper")),
    "requests": (
        ("ccmctl requests --limit 5", ""),
        ("ccmctl requests -f", "a line for each as it ends"),
        ("ccmctl requests -f --json", "one JSON object a line"),
    ),
    "explain": (
        ("ccmctl explain last", ""),
        ("ccmctl explain req_0123456789abcdef01234567", "the request-id of an answer"),
        ("ccmctl explain --dry-run < request.json", ""),
        ("ccmctl explain --dry-run --header x-claude-code-session-id:abc < request.json", ""),
    ),
    "top": (("ccmctl top", ""), ("ccmctl top --plain --count 1", "one block")),
    "reload": (("ccmctl reload", ""), ("ccmctl reload --dry-run", "only what would change")),
    "config": (("ccmctl config", ""), ("ccmctl config --json", "")),
    "log-level": (("ccmctl log-level debug", ""),),
    "drill": (
        ("ccmctl drill anthropic 529", "the next request to anthropic finds it overloaded"),
        ("ccmctl drill anthropic cut --after 3 --requests 5", "five streams break after three events"),
        ("ccmctl drill openai slow --delay 20s --for 10m", "every first content comes 20 s late"),
        ("ccmctl drill", "what is on, and what the last drills showed"),
        ("ccmctl drill --off", "end them all"),
    ),
    "completions": (
        ('eval "$(ccmctl completions bash)"', "in ~/.bashrc"),
        ('eval "$(ccmctl completions zsh)"', "in ~/.zshrc"),
        ("ccmctl completions fish > ~/.config/fish/completions/ccmctl.fish", ""),
    ),
    "health": (("ccmctl health", "a word; the exit code is 3 where no ccm runs"),),
    "stop": (("ccmctl stop", ""), ("ccmctl stop --now", "")),
    "version": (("ccmctl version", ""),),
}


def description(name: str, help: str) -> str:
    """The first lines of a command's help."""
    first = help[:1].upper() + help[1:] + "."
    return f"{first}\n\n{MORE[name]}" if name in MORE else first


def examples(name: str, own: tuple[str, ...] = ()) -> str:
    """The examples of a command, aligned; "" where there are none."""
    rows = EXAMPLES.get(name, ())
    wide = max((len(line) for line, _ in rows), default=0)
    lines = [f"  {line:<{wide}}  {told}".rstrip() for line, told in rows] + [f"  {line}" for line in own]
    return "examples:\n" + "\n".join(lines) + "\n\n" if lines else ""
