"""The network: a GPT-2-shaped transformer and its low-rank adapters."""
