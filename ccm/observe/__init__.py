"""What ccm tells about itself: log and metrics."""
