"""bayesgen: why does narrow finetuning generalise broadly? Start with `bayesgen/pipeline.py`."""

__version__ = "0.1.0"
