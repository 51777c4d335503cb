"""Where the values of samples come from: memory, this machine's disk, or MongoDB."""
