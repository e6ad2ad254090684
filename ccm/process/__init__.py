"""The life of the process: signals, the watch over its files, handing over to a successor, the service's own notes."""
