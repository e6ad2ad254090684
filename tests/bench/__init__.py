"""The bench: ccm beside a direct connection and nginx. Run by `scripts/bench`, never by the test suite."""
