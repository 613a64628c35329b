"""triptych: build, train, judge and serve large multimodal models over many images and rounds."""

__version__ = "0.1.0"
