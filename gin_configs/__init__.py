"""The configurations; packages, so that gin finds them wherever the library is installed."""
