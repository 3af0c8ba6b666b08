"""Image formats: from bytes to samples and back. Knows nothing of paths."""
