"""A list in which tests note what happens while a model is explained, that is not put back."""

import threading
from collections import UserList
from collections.abc import Iterable
from typing import Any


class Tally(UserList[Any]):
    """Left alone by explanations, as whatever is guarded for other threads."""

    def __init__(self, entries: Iterable[Any] = ()) -> None:
        super().__init__(entries)
        self.lock = threading.Lock()
