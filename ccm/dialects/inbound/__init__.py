"""What clients may speak to ccm besides the Messages API, and that one too: see `base`."""
