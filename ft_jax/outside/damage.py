"""What readers of other libraries raise on damaged files, as one sentence."""

import contextlib
import errno
from collections.abc import Iterator

from ft_jax.outside.names import cut, escaped

OF_THE_SYSTEM = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EMFILE, errno.ENFILE, errno.EROFS, errno.ENOTDIR)
"""What says something of the computer and nothing of the file; a seek to a place that can't be is damage."""


def one_line(error: BaseException, most: int = 300) -> str:
    """An error's message on one line of no more than so many characters, none of which a terminal acts upon."""
    said = " ".join(str(error).split()).rstrip(".") or type(error).__name__
    return cut(escaped(said), most)


@contextlib.contextmanager
def refusing(said: str, remedy: str = "", kind: type[ValueError] = ValueError) -> Iterator[None]:
    """Turns whatever is raised inside into `kind`, with the sentence ``said (why); remedy``.

    The readers of archives, arrays and tables promise no common error for what is damaged. What was refused in a
    sentence already, what the disk says, and memory that is not there stay as they are.

    Example:
      >>> with refusing("a.gz is damaged", "pack it again"):
      ...     raise KeyError("header")
      Traceback (most recent call last):
      ValueError: a.gz is damaged ('header'); pack it again
    """
    try:
        yield
    except (FileNotFoundError, PermissionError):
        raise
    except OSError as error:
        if error.errno in OF_THE_SYSTEM:
            raise
        raise kind(_sentence(said, error, remedy)) from error
    except Refused:
        raise
    except Exception as error:
        raise kind(_sentence(said, error, remedy)) from error


def _sentence(said, error, remedy):
    return f"{said} ({one_line(error)})" + (f"; {remedy}" if remedy else "")


class Refused(ValueError):
    """A file from outside that is refused, in a sentence that says all there is to say."""
