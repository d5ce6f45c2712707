"""What is said to whoever watches. A terminal that is gone, or cannot show a letter, costs nothing."""
import os
import sys


def open_missing_streams() -> None:
    """
    Give the process the streams it was started without (`2>&-`, pythonw), and let no letter be one too many for them.

    Where a stream is closed, the next file to be opened gets its number, and whatever is written to the stream lands
    in that file.
    """
    for name in ("stdin", "stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "r" if name == "stdin" else "w", encoding="utf-8"))
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a notebook's has no encoding
            stream.reconfigure(errors="backslashreplace")


def say(text: str, name: str = "stdout") -> None:
    "Print to stdout or stderr. The work is done by then: a terminal that was closed, or a full disk, fails nothing."
    stream = getattr(sys, name)
    encoding = getattr(stream, "encoding", None) or "utf-8"
    try:
        print(text.encode(encoding, "backslashreplace").decode(encoding), file=stream, flush=True)
    except (OSError, ValueError):
        setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # or Python would try once more at its end
