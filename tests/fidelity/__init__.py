"""The fidelity gates: how true ccm's translations are, as figures that `scripts/fidelity` prints.

`judge` plays recorded traffic (gates 1-3), `servers` and `readers` bring in servers and readers that nobody here wrote
(gate 4), `claude` lets Claude Code do a task through every dialect and every fault (gate 5). Each gate gives `Row`s;
`__main__` prints them and decides. Nothing here knows how ccm works inside: it is a process with a base URL.
"""
