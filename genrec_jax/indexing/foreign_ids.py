"""What is known of ids made elsewhere before their file is read, which takes Polars (`file_ids`)."""

import collections
import re
from collections.abc import Iterable

METHOD = "file"
TOKEN = re.compile(r"<[^<>\s]+>")


def frequent_words(texts: Iterable[str], limit: int = 1000) -> list[str]:
    """The words without digits that several of the ids have, the most frequent first."""
    counts = collections.Counter(word for text in texts for word in text.split())
    several = [word for word, count in counts.items() if count > 1 and not re.search(r"\d", word)]
    return sorted(several, key=lambda word: (-counts[word], word))[:limit]
