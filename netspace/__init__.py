"""What all parts of Netspace share, and nothing else: words, values and the skeletons of I/O."""

__version__ = "0.1.0"
