"""Methods of retrieval, each switched on and off, measured on several benchmarks."""
