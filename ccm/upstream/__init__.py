"""I/O to providers: sessions and pools, one call, authentication."""
