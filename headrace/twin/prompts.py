"""Prompts for a trace that has only lengths and hash ids. Pure.

The same hash id always becomes the same text, so requests share exactly the prefixes that the
trace says they shared. The text is English words of three letters with a space before each: four
bytes, which the simulated engine counts as one token and common tokenizers mostly do too.
"""

from __future__ import annotations

from functools import lru_cache
from hashlib import shake_128
from typing import Final

from headrace.simulator.trace import TraceRequest

BYTES_PER_TOKEN: Final = 4

_DICTIONARY: Final = """
the and for are but not you all any can had her was one our out day get has him his how man
new now old see two way who boy did its let put say she too use ace act add age ago aid aim
air ale ant ape arc arm art ash ask ate awe axe bad bag ban bar bat bay bed bee beg bet bid
big bin bit bow box bug bus buy cab cap car cat cod cop cow cry cup cut dad dam den dew die
dig dim dip dot dry due dug dye ear eat egg ego elf elm end era eve eye fan far fat fax fed
fee few fig fin fir fit fix fly fog fox fun fur gap gas gel gem gin god got gum gun gut guy
gym ham hat hay hen hey hid hip hit hop hot hub hug hut ice icy ill ink inn ion ivy jam jar
jaw jet job jog joy jug key kid kin kit lab lad lag lap law lay led leg lid lie lip lit log
lot low mad map mat may men met mid mix mob mom mud mug nap net nod nor nut oak oar odd off
oil opt orb ore own pad pan par pat paw pay pea pen pet pie pig pin pit pot pro pub rag ram
ran rap rat raw ray red rib rid rim rip rob rod rot row rub rug run sad sat saw sea set sew
shy sin sip
"""
_WORDS: Final = tuple(f" {word}".encode() for word in _DICTIONARY.split())
assert len(set(_WORDS)) == 256  # one per value of a byte


class PromptMaker:
    """Makes the text of each request of a workload.

    Args:
        seed: Tells apart the unshared text of two runs; shared text depends on hash ids alone.
        cached_blocks: Blocks of text kept for reuse; 2 KiB each for blocks of 512 tokens.

    """

    def __init__(self, seed: int = 0, *, cached_blocks: int = 4096) -> None:
        self._seed = seed
        self._words = lru_cache(maxsize=cached_blocks)(_words)

    def text(self, request: TraceRequest, index: int) -> bytes:
        """Return ``prompt_tokens`` words of ASCII without quotes or backslashes.

        Args:
            request: Whose hash ids name the leading blocks; the last one is cut to length.
            index: The request's place in the workload, which makes unique what no id covers.

        """
        block_tokens = request.hash_block_tokens
        parts = [self._words(f"block {hash_id}", block_tokens) for hash_id in request.hash_ids]
        missing = request.prompt_tokens - block_tokens * len(parts)
        if missing > 0:
            parts.append(_words(f"own {self._seed} {index}", missing))
        return b"".join(parts)[: request.prompt_tokens * BYTES_PER_TOKEN]


def _words(key: str, count: int) -> bytes:
    """Return ``count`` words drawn from ``key`` alone: same key, same text, on any machine."""
    return b"".join(map(_WORDS.__getitem__, shake_128(key.encode()).digest(count)))
