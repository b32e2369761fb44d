"""What runs on the device: one forward pass of a bundle, and its latency.

    from edgellm.runtime import Session

    session = Session.open("bundle", format="onnx", threads=1)
    result = session("some text")

Importing this package loads numpy and tokenizers, and no engine: an engine is imported when a session opens it.
"""

from edgellm.runtime.bundle import Bundle
from edgellm.runtime.session import Result, Session, Timing

__all__ = ["Bundle", "Result", "Session", "Timing"]
