"""Bytes to frames and back. Pure, standard library only; nothing here knows a provider."""
