"""Errors that torch's data loaders bring from their worker processes: the class stays, the message grows."""


def original_message(error: BaseException) -> str:
    """The message that an error had in the worker process where it was raised.

    torch raises the same class again in the main process, with the worker's whole traceback as its message.

    Example:
        >>> original_message(ValueError("`margin` must be greater than 0, not 0."))
        '`margin` must be greater than 0, not 0.'
    """
    text, kind = str(error), type(error)
    if text.startswith(f"Caught {kind.__name__} in ") and "\nOriginal " in text:
        # The last exception of the traceback is the one that was raised.
        return text.rpartition(f"\n{kind.__module__}.{kind.__qualname__}: ")[2].strip()
    return text
